"""A drill beside what people do by hand with the same file: `gunzip | psql` into a new database. One run, ratios.

The drill starts a server, verifies the whole set, loads it, dumps it again and compares; the other only loads.
`python -m benchmarks.drill` (ROWS and ROUNDS as in run.py).
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import docker

from benchmarks.run import database, inside, product, report, rounds, said, say, timed_inside

_PSQL = "psql -XqAt -h 127.0.0.1 -U obcms -v ON_ERROR_STOP=1 -o /dev/null"
PHASES: list[dict[str, float]] = []


def main() -> None:
    """Make one set, run the rounds, print the table."""
    client = docker.from_env()
    with tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        directory = Path(base)
        with database(client) as server:
            with product(client, directory, "create", "manual", "--only", "database") as container:
                said(container)
            dump = next((directory / "backups/manual").glob("obcms_backup_*.sql.gz"))
            copy(server, dump)
            report(
                "drill",
                rounds(
                    {
                        "gunzip | psql, one new database": lambda: by_hand(server),
                        "backup drill": lambda: drill(client, directory),
                    }
                ),
                floor="gunzip | psql, one new database",
            )
    for phases in PHASES:
        say("drill: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items()))


def by_hand(server: Any) -> float:
    """Seconds to load the dump as the README shows."""
    inside(
        server, f"{_PSQL} -d postgres -c 'DROP DATABASE IF EXISTS copy' -c 'CREATE DATABASE copy TEMPLATE template0'"
    )
    inside(server, f"{_PSQL} -d postgres -c CHECKPOINT")
    return timed_inside(server, f"gunzip -c /tmp/dump.sql.gz | {_PSQL} -d copy")


def drill(client: Any, directory: Path) -> float:
    """Seconds of a drill by its own run record."""
    with product(client, directory, "drill", "latest", "--json") as container:
        found = json.loads(said(container))["proof"]
    assert found["differences"] == [], found
    PHASES.append(found["seconds"])
    return float(found["seconds"]["total"])


def copy(server: Any, dump: Path) -> None:
    """Put the dump where the server's own psql can read it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(dump, "dump.sql.gz")
    server.put_archive("/tmp", packed.getvalue())


if __name__ == "__main__":
    main()
