# For bash on the host, to be sourced: `backup COMMAND` in the folder of a stack, completed with the tab key. The running
# service answers both. Other Compose files than the default ones go into COMPOSE_FILE, as ever.
#
#   . tools/backup.bash

backup() {
  local terminal=-T
  [ -t 0 ] && [ -t 1 ] && terminal=
  docker compose exec $terminal backup backup "$@"
}

_backup_on_host() {
  local IFS=$'\n'
  # shellcheck disable=SC2207  # one word a line, as the command prints them
  COMPREPLY=($(docker compose exec -T -e COMP_WORDS="${COMP_WORDS[*]}" -e COMP_CWORD="$COMP_CWORD" \
    -e _BACKUP_COMPLETE=complete_bash backup backup --help 2>/dev/null </dev/null))
}
complete -o default -F _backup_on_host backup
