"""What point-in-time recovery costs the database, and what it takes. Ratios.

pgbench with and without the receiver, and with a bare pg_receivewal, in turn; how far the receiver is behind
meanwhile, as the server has it; a base backup beside `pg_basebackup -Ft > /dev/null`; a recovery beside what `barman
recover` and a start do by hand: copy an unpacked base, and let the server fetch its WAL; an incremental base beside a
full one when 1 % of the rows changed; how long the database is away while a whole cluster is exchanged and put back.
`python -m benchmarks.moments` (ROWS, ROUNDS and SHAPE as in run.py; SECONDS_OF_PGBENCH of one round; GIGABYTES of the
clusters that are exchanged, 1 and 10 unless it says so; ONLY=exchange for those alone).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import psycopg

from benchmarks import run
from benchmarks.drill import ran
from benchmarks.run import database, inside, judged, product, report, resident, rounds, say, timed_inside

SECONDS = int(os.environ.get("SECONDS_OF_PGBENCH", "20"))
GIGABYTES = [int(each) for each in os.environ.get("GIGABYTES", "1,10").split(",")]
ONLY = os.environ.get("ONLY", "")
# About 67 of pgbench's units are a gigabyte.
_UNITS = 67
_AWAY = re.compile(r"could not be reached for ([\d.,]+ m?s)")
_PGBENCH = "pgbench -h 127.0.0.1 -U obcms"
_LAG = """psql -qAtX -h 127.0.0.1 -U obcms obcms -c "SELECT
  pg_wal_lsn_diff(pg_current_wal_flush_lsn(), coalesce(flush_lsn, write_lsn)),
  coalesce(extract(epoch FROM write_lag), 0) FROM pg_stat_replication" """


def main() -> None:
    """Run the rounds, print the tables; remove everything."""
    client = docker.from_env()
    with judged(), tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        directory = Path(base)
        run.ENVIRONMENT["BACKUP_PITR"] = "on"
        for size in GIGABYTES:
            of_exchange(client, directory / f"{size}GB", size)
        if ONLY == "exchange":
            return
        with database(client) as server:
            inside(server, f"{_PGBENCH} -i -s 20 -q obcms")
            of_pgbench(client, directory, server)
            of_bases(client, directory, server)
            of_increments(client, directory, server)


def of_pgbench(client: Any, directory: Path, server: Any) -> None:
    """Transactions per second: without, with a bare pg_receivewal that keeps what it gets, and with the product."""
    rates: dict[str, list[float]] = {"without": [], "bare": [], "with": []}
    for _ in range(run.ROUNDS):
        rates["without"].append(transactions(server))
        inside(server, _BARE)
        rates["bare"].append(transactions(server))
        inside(server, "kill $(cat /tmp/bare.pid); rm -rf /tmp/bare")
        with receiving(client, directory) as receiver:
            rates["with"].append(transactions(server))
            lag, seconds = inside(server, f"{_PGBENCH} -c 4 -T 5 obcms >/dev/null 2>&1 & sleep 3; {_LAG}; wait").split(
                "|"
            )
            pid = client.api.inspect_container(receiver.id)["State"]["Pid"]
            say(f"behind: {int(lag):,} B, {float(seconds):.3f} s; the receiving process: {resident(pid):.0f} MB")
    middle = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    bare, ours = (middle[name] / middle["without"] for name in ("bare", "with"))
    say(f"pgbench, transactions a second: {rates}; bare / without: {bare:.3f}, with / without: {ours:.3f}")


_BARE = """mkdir -p /tmp/bare && { pg_receivewal -h 127.0.0.1 -U obcms -D /tmp/bare >/dev/null 2>&1 &
  echo $! >/tmp/bare.pid; }; sleep 1"""


def transactions(server: Any) -> float:
    """Transactions per second of one round."""
    inside(server, "psql -qAtX -h 127.0.0.1 -U obcms obcms -c CHECKPOINT")
    said = inside(server, f"{_PGBENCH} -c 4 -j 2 -T {SECONDS} obcms 2>&1")
    found = re.search(r"tps = ([\d.]+)", said)
    assert found, said
    say(f"tps: {found[1]}")
    return float(found[1])


def of_bases(client: Any, directory: Path, server: Any) -> None:
    """A base backup, and the newest moment."""
    options = "-h 127.0.0.1 -U obcms -D - -Ft -X none --checkpoint=fast"
    floor = "pg_basebackup -Ft > /dev/null"
    with receiving(client, directory):
        contenders = {
            floor: lambda: timed_inside(server, f"pg_basebackup {options} > /dev/null 2>&1"),
            "pg_basebackup -Ft -Z 1 > a file": lambda: timed_inside(
                server, f"pg_basebackup {options} -Z 1 2>/dev/null > /tmp/base.tar.gz && sync /tmp/base.tar.gz"
            ),
            "backup base": lambda: base_seconds(client, directory),
        }
        report("base", rounds(contenders), floor=floor)
        inside(server, _BY_HAND)
        inside(server, f"{_PGBENCH} -c 4 -T {2 * SECONDS} obcms")
        inside(server, _BY_HAND_ENDS)
    floor = "copies of base and WAL, start"
    contenders = {
        floor: lambda: by_hand(server, "cp -a base new"),
        "the same from a packed base": lambda: by_hand(server, "mkdir -m 700 new && tar xzf base.tar.gz -C new"),
        "backup create --at latest, until the server has recovered": lambda: recovered(client, directory),
    }
    report("recovery", rounds(contenders), floor=floor)
    say(inside(server, "grep -h 'redo done' /tmp/hand/log"))


# A base and its WAL, as they lie in a catalogue of whoever packs nothing.
_BY_HAND = """mkdir -p /tmp/hand/wal && cd /tmp/hand && chown -R postgres /tmp/hand &&
  { gosu postgres pg_receivewal -h 127.0.0.1 -U obcms -D wal >/dev/null 2>&1 & echo $! >pid; } && sleep 1 &&
  gosu postgres pg_basebackup -h 127.0.0.1 -U obcms -D base -X none --checkpoint=fast 2>/dev/null &&
  tar -C base -cf - . | gzip -1 >base.tar.gz"""
_BY_HAND_ENDS = "psql -qAtX -h 127.0.0.1 -U obcms obcms -c 'SELECT pg_switch_wal()'; sleep 3; kill $(cat /tmp/hand/pid)"
_RECOVER_BY_HAND = r"""cd /tmp/hand; rm -rf new; sync; TIMEFORMAT=%R; time {
  $COPY && chown -R postgres new && touch new/recovery.signal && chown postgres new/recovery.signal &&
  echo "restore_command = 'cp /tmp/hand/wal/%f %p'" >>new/postgresql.auto.conf &&
  gosu postgres pg_ctl -D new -l log -t 900 -o '-p 5433 -k /tmp -c listen_addresses=' -w start >/dev/null &&
  until [ "$(psql -qAtX -h /tmp -p 5433 -U obcms obcms -c 'SELECT pg_is_in_recovery()')" = f ]; do sleep 0.05; done; }
  gosu postgres pg_ctl -D new -m immediate stop >/dev/null 2>&1"""


def by_hand(server: Any, copy: str) -> float:
    """Seconds until a server has recovered from what `copy` makes of the base."""
    return float(inside(server, _RECOVER_BY_HAND.replace("$COPY", copy)).strip().splitlines()[-1])


def recovered(client: Any, directory: Path) -> float:
    """Seconds until a server with the newest moment takes sessions, by the run's own record."""
    out, _, _ = ran(client, directory, "create", "manual", "--at", "latest", "--json")
    return float(json.loads(out)["phase_seconds"]["prepare"])


# One percent of the rows of a table: the newest ones, as an application changes them, or any.
_CHANGES = {
    "the newest 1 %": "UPDATE big SET n = n + 1 WHERE id > (SELECT max(id) * 0.99 FROM big)",
    "any 1 %": "UPDATE big SET n = n + 1 WHERE id % 100 = 7",
}


def of_increments(client: Any, directory: Path, server: Any) -> None:
    """Seconds and bytes of a full base and of one that holds what has changed, and of the newest moment from each."""
    for statement in ("ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()"):
        inside(server, f"psql -qAtX -h 127.0.0.1 -U obcms obcms -c '{statement}'")
    with receiving(client, directory):
        for name, change in _CHANGES.items():
            full, step = [], []
            for _ in range(run.ROUNDS):
                full.append(base_cost(client, directory, "--full"))
                recovery = ran(client, directory, "create", "--at", "latest")[2]
                inside(server, f"psql -qAtX -h 127.0.0.1 -U obcms obcms -c '{change}' -c CHECKPOINT")
                step.append(base_cost(client, directory))
                combined = ran(client, directory, "create", "--at", "latest")[2]
                say(f"create --at latest, from a full one and from both: {recovery:.1f} s, {combined:.1f} s")
            seconds, size = (min(each[i] for each in step) / min(each[i] for each in full) for i in (0, 1))
            say(f"{name} changed: full {full}, incremental {step}; {seconds:.3f} of the time, {size:.3f} of the bytes")


def base_cost(client: Any, directory: Path, *options: str) -> tuple[float, int]:
    """Seconds and bytes of a base backup."""
    seconds = base_seconds(client, directory, *options)
    records = [json.loads(path.read_text()) for path in directory.glob("backups/wal/*/bases/*.json")]
    newest = max(records, key=lambda each: str(each["ended"]))
    assert bool(newest["parent"]) == (not options), newest
    return seconds, int(newest["artifact"]["stored_size"])


def base_seconds(client: Any, directory: Path, *options: str) -> float:
    """Seconds of a base backup, by its run record."""
    ran(client, directory, "base", *options)
    newest = max((directory / "backups/state/runs").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return float(json.loads(newest.read_text())["seconds"]["total"])


def of_exchange(client: Any, directory: Path, size: int) -> None:
    """A cluster of `size` gigabytes goes back a moment and forth again. Asked from outside every 10 ms meanwhile."""
    ask, total = "psql -qAtX -h 127.0.0.1 -U obcms obcms", "SELECT sum(abalance) FROM pgbench_accounts"
    change = "UPDATE pgbench_accounts SET abalance = 7 WHERE aid % 100 = 7"
    with run.server(client) as server:
        inside(server, f"{_PGBENCH} -i -I dtGvp -s {_UNITS * size} -q obcms; {ask} -c 'CREATE TABLE later (n int)'")
        with receiving(client, directory):
            ran(client, directory, "base")
            inside(server, f"{_PGBENCH} -c 4 -T {SECONDS} obcms")
            time.sleep(2)
            then = inside(server, f"{ask} -c 'SELECT now()' -c 'SELECT pg_switch_wal()'").splitlines()[0]
            before = inside(server, f"{ask} -c '{total}'")
            time.sleep(2)
            inside(server, f"{ask} -c 'INSERT INTO later VALUES (1)' -c '{change}'")
            time.sleep(10)
        for command in (("restore", "--at", then, "--physical", "--force"), ("undo", "--force")):
            with asked(server) as away:
                *told, took = ran(client, directory, *command)
            found = inside(server, f"{ask} -c 'SELECT count(*) FROM later' -c '{total}'")
            back = found.splitlines() == ["0", before.strip()]
            assert back == (command[0] == "restore"), found
            says = _AWAY.search(" ".join(told))
            say(f"{size} GB, {command[0]}: {took:.1f} s; away for {max(away):.2f} s, as it says {says and says[1]}")


@contextmanager
def asked(server: Any) -> Iterator[list[float]]:
    """How long the server did not answer at a time, in seconds, during the body."""
    over, away, last = threading.Event(), [0.0], time.monotonic()

    def ask() -> None:
        nonlocal last
        while not over.wait(0.01):
            server.reload()  # another container may get its address while it is stopped
            with (
                suppress(psycopg.Error),
                psycopg.connect(
                    host=server.attrs["NetworkSettings"]["IPAddress"] or "127.0.0.1",
                    user="obcms",
                    password="bench",
                    dbname="obcms",
                    connect_timeout=2,
                ) as connection,
            ):
                connection.execute("SELECT 1")
                away.append(time.monotonic() - last)
                last = time.monotonic()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield away
    finally:
        time.sleep(3)
        assert asking.is_alive()
        over.set()
        asking.join()


@contextmanager
def receiving(client: Any, directory: Path) -> Iterator[Any]:
    """The receiving process, level, for the body."""
    with product(client, directory, "receive") as container:
        state, deadline = directory / "backups/state/wal.json", time.time() + 60
        while not (state.exists() and json.loads(state.read_text())["state"] == "streaming"):
            assert time.time() < deadline, container.logs().decode()
            time.sleep(0.2)
        yield container
        container.stop(timeout=20)


if __name__ == "__main__":
    main()
