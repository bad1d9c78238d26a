"""A drill beside what people do by hand with the same file: `gunzip | psql` into a new database. One run, ratios.

By hand the dump is only loaded: into a server as it comes, and into one with the settings of the drill's throw-away
server, which tells settings from method. The drill starts its server, verifies the whole set, loads it, dumps it again
and compares; its parts are printed below the table. Its load is divided where the last row was passed on: rows before,
indexes and constraints that were not built by then after. Every contender runs once per round, in turn; the best of
each counts, because the machine may be doing other things. `python -m benchmarks.drill` (ROWS, ROUNDS and SHAPE as
in run.py).

Measured on 2 cores, 1,738 MB: the drill took 1.09 times as long as by hand into a server as it comes.
docs/benchmarks.md has the figures and where the time goes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import docker

from backup.docker.throwaway_server import SETTINGS
from benchmarks.run import (
    ROWS,
    SHAPE,
    database,
    inside,
    judged,
    product,
    report,
    rounds,
    said,
    say,
    server,
    timed_inside,
)

_PSQL = "psql -XqAt -h 127.0.0.1 -U obcms -v ON_ERROR_STOP=1 -o /dev/null"
_BY_HAND = "gunzip | psql, a server as it comes"
PHASES: list[dict[str, float]] = []


def main() -> None:
    """Make one set, run the rounds, print the table."""
    client = docker.from_env()
    tuned = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    with judged(), tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        directory = Path(base)
        with database(client) as source:
            ran(client, directory, "create", "manual", "--only", "database")
            dump = next((directory / "backups/manual").glob("obcms_backup_*.sql.gz"))
            copy(source, dump)
            contenders = {
                _BY_HAND: lambda: by_hand(source),
                "gunzip | psql, the throw-away server's settings": lambda: by_hand_tuned(client, tuned, dump),
                "backup drill": lambda: drill(client, directory),
            }
            report(f"drill, {SHAPE}, {ROWS:,} rows", rounds(contenders), floor=_BY_HAND, middle_of=min, word="best")
    for phases in PHASES:
        say("drill: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts(phases).items()))


def by_hand(target: Any) -> float:
    """Seconds to load the dump as the README shows."""
    inside(
        target, f"{_PSQL} -d postgres -c 'DROP DATABASE IF EXISTS copy' -c 'CREATE DATABASE copy TEMPLATE template0'"
    )
    inside(target, f"{_PSQL} -d postgres -c CHECKPOINT")
    return timed_inside(target, f"gunzip -c /tmp/dump.sql.gz | {_PSQL} -d copy")


def by_hand_tuned(client: Any, settings: list[str], dump: Path) -> float:
    """The same on a new server with these settings, whose start is not counted."""
    with server(client, *settings) as target:
        copy(target, dump)
        return by_hand(target)


def drill(client: Any, directory: Path) -> float:
    """Seconds of a drill by its own run record."""
    found = json.loads(ran(client, directory, "drill", "latest", "--json")[0])["proof"]
    assert found["differences"] == [], found
    PHASES.append(found["phase_seconds"])
    return float(found["phase_seconds"]["total"])


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """What a drill's time went into."""
    indexes = seconds["indexes"]
    return {
        "start": seconds["prepare"],
        "rows": seconds["load"] - indexes,
        "indexes and constraints": indexes,
        "second dump, compared as it comes": seconds["dump"],
        "total": seconds["total"],
    }


def copy(target: Any, dump: Path) -> None:
    """Put the dump where the server's own psql can read it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(dump, "dump.sql.gz")
    target.put_archive("/tmp", packed.getvalue())


def ran(client: Any, directory: Path, *command: str) -> tuple[str, str, float]:
    """Run a command of the shipped image: its stdout, its stderr, and the seconds with its container's start."""
    begun = time.monotonic()
    with product(client, directory, *command) as container:
        output = said(container)
        took = time.monotonic() - begun
        return output, container.logs(stdout=False, stderr=True).decode(), took


if __name__ == "__main__":
    main()
