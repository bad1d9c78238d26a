#!/usr/bin/env bash
# The interface of the official PostgreSQL image, for tests: an empty data folder is initialised and the scripts of
# /docker-entrypoint-initdb.d are run against a server that listens on its socket only; then the real one starts as PID 1.
set -Eeuo pipefail

file_env() { # VARIABLE [default]: its value, or what the file named by VARIABLE_FILE holds
  local name=$1 file="${1}_FILE" value=${2:-}
  if [ -n "${!name:-}" ] && [ -n "${!file:-}" ]; then
    echo >&2 "error: both $name and $file are set (but are exclusive)"
    exit 1
  fi
  if [ -n "${!name:-}" ]; then value=${!name}; elif [ -n "${!file:-}" ]; then value=$(<"${!file}"); fi
  export "$name=$value"
  unset "$file"
}

make_folders() { # the volume may be new, of another owner or not writable at all
  mkdir -p "$PGDATA" /var/run/postgresql
  chmod 700 "$PGDATA" || true
  chmod 3775 /var/run/postgresql || true
  if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then mkdir -p "$POSTGRES_INITDB_WALDIR"; fi
  if [ "$(id -u)" = 0 ]; then
    find "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} \
      \! -user postgres -exec chown postgres '{}' +
  fi
}

check_settings() {
  if [ -z "$POSTGRES_PASSWORD" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
    echo >&2 'Error: Database is uninitialized and superuser password is not specified.'
    echo >&2 '       Set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust.'
    exit 1
  fi
}

init_database() { # POSTGRES_INITDB_ARGS is split as a shell would
  local options=(--username="$POSTGRES_USER")
  if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then options+=(--waldir="$POSTGRES_INITDB_WALDIR"); fi
  eval 'initdb "${options[@]}" --pwfile=<(printf "%s\n" "$POSTGRES_PASSWORD") '"${POSTGRES_INITDB_ARGS:-}"
}

allow_network() { # from elsewhere than the socket and loopback, with a password unless told otherwise
  local method=${POSTGRES_HOST_AUTH_METHOD:-}
  if [ "${1:-}" = postgres ]; then shift; fi
  if [ -z "$method" ]; then method=$(postgres -C password_encryption "$@"); fi
  printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

temporary_server() { # start|stop
  case $1 in
    start)
      shift
      if [ "${1:-}" = postgres ]; then shift; fi
      set -- "$@" -c listen_addresses='' -p "${PGPORT:-5432}"
      # shellcheck disable=SC2145 # the words are quoted one by one
      NOTIFY_SOCKET='' PGUSER="${PGUSER:-$POSTGRES_USER}" pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@")" -w start
      ;;
    stop) PGUSER="${PGUSER:-$POSTGRES_USER}" pg_ctl -D "$PGDATA" -m fast -w stop ;;
  esac
}

run_psql() { # psql's arguments
  PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --no-password "$@"
}

run_sql() { run_psql --dbname "$POSTGRES_DB" "$@"; } # in the database of the image's user

# The names by which scripts of /docker-entrypoint-initdb.d may call them, as in the official image.
docker_process_sql() { run_sql "$@"; }
docker_process_init_files() { run_init_files "$@"; }

create_database() {
  local exists
  exists=$(run_psql --dbname postgres --set db="$POSTGRES_DB" --tuples-only <<<"SELECT 1 FROM pg_database WHERE datname = :'db';")
  if [ -z "$exists" ]; then run_psql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'; fi
}

run_init_files() { # files in the order of their names
  local file
  for file; do
    case $file in
      *.sh)
        if [ -x "$file" ]; then
          echo "$0: running $file"
          "$file"
        else
          echo "$0: sourcing $file"
          # shellcheck source=/dev/null
          . "$file"
        fi
        ;;
      *.sql) echo "$0: running $file" && run_sql -f "$file" ;;
      *.sql.gz) echo "$0: running $file" && gunzip -c "$file" | run_sql ;;
      *.sql.xz) echo "$0: running $file" && xzcat "$file" | run_sql ;;
      *) echo "$0: ignoring $file" ;;
    esac
  done
}

wants_help() {
  local word
  for word; do
    case $word in -\? | --help | --describe-config | -V | --version) return 0 ;; esac
  done
  return 1
}

initialise() { # the command that is to run
  check_settings
  init_database
  allow_network "$@"
  export PGPASSWORD="${PGPASSWORD:-$POSTGRES_PASSWORD}"
  temporary_server start "$@"
  create_database
  shopt -s nullglob
  run_init_files /docker-entrypoint-initdb.d/*
  shopt -u nullglob
  temporary_server stop
  unset PGPASSWORD
  printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

main() {
  if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
  if [ "${1:-}" = postgres ] && ! wants_help "$@"; then
    file_env POSTGRES_PASSWORD
    file_env POSTGRES_USER postgres
    file_env POSTGRES_DB "$POSTGRES_USER"
    file_env POSTGRES_INITDB_ARGS
    : "${POSTGRES_HOST_AUTH_METHOD:=}"
    make_folders
    if [ "$(id -u)" = 0 ]; then exec gosu postgres "${BASH_SOURCE[0]}" "$@"; fi
    if [ -s "$PGDATA/PG_VERSION" ]; then
      printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
    else
      initialise "$@"
    fi
  fi
  exec "$@"
}

main "$@"
