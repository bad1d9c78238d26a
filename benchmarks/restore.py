"""A restore beside what the old scripts did with the same file: drop, create, `gunzip | psql`; and `tar -xzf`. Ratios.

By hand nothing is verified, counted or kept, and the database is gone for the whole time. The product verifies the set,
loads it beside the live database, counts, exchanges, makes statistics and keeps the old state. Each is timed as a
command that is typed in a running container, by that container's own clock. The server is one as it comes. Every
contender runs once per round, in turn; the best counts. The time in which the database could not be reached is printed
for each size: it must not grow.
`python -m benchmarks.restore` (ROUNDS, SHAPE, VERSION and BUSY as in run.py; SIZES in rows; ONLY=database or media).

Measured on 2 cores, 1.7 GB: 27 s by hand, 19 s without and 29 s with the safety set; media as fast as tar.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import docker

from benchmarks.drill import copy, ran
from benchmarks.run import (
    ROWS,
    SHAPE,
    database,
    inside,
    judged,
    media_tree,
    product,
    report,
    rounds,
    say,
    timed,
    timed_inside,
)

_PSQL = "psql -Xq -h 127.0.0.1 -U obcms -v ON_ERROR_STOP=1 -o /dev/null"
_NEW = f"{_PSQL} -d postgres -c 'DROP DATABASE IF EXISTS copy' -c 'CREATE DATABASE copy TEMPLATE template0'"
_BY_HAND = "dropdb, createdb, gunzip | psql"
_DIRECTORY = "pg_restore -Fd -j2"
_TAR = "tar -xzf, and sync"
_WINDOW = re.compile(r"could not be reached for ([\d.,]+ m?s)")
# 0.2, 0.6 and 1.7 GB of the application's shape.
SIZES = [int(each) for each in os.environ.get("SIZES", f"{ROWS // 10},{ROWS * 35 // 100},{ROWS}").split(",")]
WINDOWS: dict[str, list[str]] = {}


def main() -> None:
    """Make sets, run the rounds, print the tables."""
    client = docker.from_env()
    with judged():
        measure(client)


def measure(client: Any) -> None:
    """All that is asked for."""
    only = os.environ.get("ONLY", "")
    if only != "media":
        for rows in SIZES:
            with tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
                of_database(client, Path(base), rows)
        for size, windows in WINDOWS.items():
            say(f"not reachable, {size}: {', '.join(windows)}")
    if only != "database":
        with tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
            of_media(client, Path(base))


def of_database(client: Any, directory: Path, rows: int) -> None:
    """One size of the database."""
    with database(client, rows=rows) as server:
        ran(client, directory, "create", "manual", "--only", "database")
        copy(server, next((directory / "backups/manual").glob("obcms_backup_*.sql.gz")))
        size = f"{rows:,} rows"
        inside(server, "rm -rf /tmp/dump.d; pg_dump -h 127.0.0.1 -U obcms -Fd -j2 -f /tmp/dump.d obcms")
        contenders = {
            _BY_HAND: lambda: by_hand(server),
            _DIRECTORY: lambda: from_directory(server),
            "backup restore --no-safety": lambda: restored(client, directory, size, "database", "--no-safety"),
            "backup restore, with the safety set": lambda: restored(client, directory, size, "database"),
        }
        contenders = {name: partial(weighed, server, run) for name, run in contenders.items()}
        report(f"restore, {SHAPE}, {size}", rounds(contenders), floor=_BY_HAND, middle_of=min, word="best")


def of_media(client: Any, directory: Path) -> None:
    """The files alone."""
    with database(client, rows=1000):
        media_tree(directory / "volumes" / "media")
        ran(client, directory, "create", "manual", "--only", "media")
        archive = next((directory / "backups/manual").glob("obcms_media_*.tar.gz"))
        contenders = {
            _TAR: lambda: unpacked(archive, directory / "by-hand"),
            "backup restore --only media --no-safety": lambda: restored(client, directory, "", "media", "--no-safety"),
        }
        report("restore of media", rounds(contenders), floor=_TAR, middle_of=min, word="best")


def weighed(server: Any, run: Callable[[], float]) -> float:
    """Its seconds. What of all cores' time the server took, and what everything did, is printed: no load is quicker."""
    # What the one before left to be written is not its own.
    inside(server, f"{_PSQL} -d postgres -c CHECKPOINT")
    before = processor(server)
    taken = run()
    of_server, idle = (now - then for now, then in zip(processor(server), before, strict=True))
    say(f"the server: {of_server:.1f} s of a core; idle meanwhile: {idle:.1f} s")
    return taken


def processor(server: Any) -> tuple[float, float]:
    """Seconds of a core until now: of the server's container, and of no process."""
    used = server.client.api.stats(server.id, stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"]
    idle, waiting = (int(each) for each in Path("/proc/stat").read_text().split()[4:6])
    return used / 1e9, (idle + waiting) / os.sysconf("SC_CLK_TCK")


def by_hand(server: Any) -> float:
    """Seconds of what the old scripts did, into an existing server."""
    return timed_inside(server, f"{_NEW}; gunzip -c /tmp/dump.sql.gz | {_PSQL} -d copy")


def from_directory(server: Any) -> float:
    """Seconds of PostgreSQL's own parallel restore, of a dump that is a directory."""
    return timed_inside(server, f"{_NEW}; pg_restore -h 127.0.0.1 -U obcms -j2 -d copy /tmp/dump.d")


def restored(client: Any, directory: Path, size: str, only: str, *options: str) -> float:
    """Seconds of a restore; what it replaced is removed afterwards."""
    which = next((directory / "backups/manual").glob("obcms_set_*.json")).stem.removeprefix("obcms_set_")
    command = " ".join(["backup restore", which, "--only", only, "--force", *options])
    with product(client, directory, "infinity", entrypoint=["sleep"]) as container:
        said = inside(container, f"TIMEFORMAT=%R; time {command}")
        inside(container, "backup undo --discard --force")
    if window := _WINDOW.search(said):
        WINDOWS.setdefault(size, []).append(window[1])
    return float(said.splitlines()[-1])


def unpacked(archive: Path, target: Path) -> float:
    """Seconds to unpack beside, and for the files to be on the disk, as the product's are before the exchange."""
    target.mkdir()
    try:
        return timed(f"tar -xzf {archive} -C {target} && sync -f {target}")
    finally:
        shutil.rmtree(target)


if __name__ == "__main__":
    main()
