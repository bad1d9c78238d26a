"""The world that a soak lives in: a server, a small backup volume, a folder for copies, a clock, two writers."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.soak.checker import Expectation, Findings
from tests.soak.writers import SCHEMA, Files, Rows
from tests.support.breaking import boxed as in_image
from tests.support.database import LABEL, PASSWORD, PROJECT, Server, start_server
from tests.support.faults import docker, eventually, helpers, sessions, unfinished
from tests.support.sidecar import Result, Sidecar

DATABASE = "soak"
# As much as faults set the clock of a backup off.
DOUBT = timedelta(hours=31)
ROOM = "96m"
SETTINGS = {
    "TZ": "Europe/Berlin",
    "BACKUP_STALL_TIMEOUT": "5",
    "BACKUP_LOCK_TIMEOUT": "2",
    "BACKUP_RETENTION_DAILY": "6",
    "BACKUP_RETENTION_WEEKLY": "21",
    "BACKUP_RETENTION_MONTHLY": "70",
    "BACKUP_RETENTION_MANUAL": "10",
    "BACKUP_RETENTION_MINIMUM": "2",
    "BACKUP_OFFSITE_RETENTION_DAILY": "10",
    "BACKUP_MIN_SIZE_KB": "0",
    "BACKUP_MIN_FREE_GB": "0",
}
CLOCKED = Path(__file__).with_name("clocked.py")
# Far beyond what anything here needs: only what hangs takes as long.
PATIENCE = 240.0
# A fault's course: what it yields first are settings for the command; it is sent the command when that has started,
# and goes on once more when that has ended.
Course = Generator[dict[str, str] | None, subprocess.Popen[str], None]


@dataclass
class World:
    """Everything there is, and what is known of it. `expected` has every set that may be there, by id."""

    chance: random.Random
    plant: str
    base: Path
    server: Server
    sidecar: Sidecar
    rows: Rows
    files: Files
    began: float = field(default_factory=time.monotonic)
    ahead: timedelta = timedelta()
    born: datetime = field(default_factory=lambda: datetime.now(UTC))
    findings: Findings = field(default_factory=Findings)
    expected: dict[str, Expectation] = field(default_factory=dict)
    intact: dict[str, dict[str, str]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    foreign: dict[Path, tuple[int, bytes]] = field(default_factory=dict)
    pruned: datetime | None = None
    # When nobody was there: the service was off. `first`, `tidied`: when sets and copies were first cleaned up.
    gaps: list[tuple[datetime, datetime]] = field(default_factory=list)
    tidied: datetime | None = None
    # Whether the last cleanup saw another clock; sets of which only that they are whole is known.
    strange: bool = False
    unwatched: set[str] = field(default_factory=set)
    first: datetime | None = None
    usual: dict[str, float] = field(default_factory=dict)
    migrations: int = 0
    # A command was killed, and nobody has held the lock since: what it left may be there.
    unswept: bool = False

    @property
    def root(self) -> Path:
        return self.sidecar.root

    @property
    def other(self) -> Path:
        """The second volume, which leaves the stack one day."""
        return self.sidecar.volumes / "ocr"

    def lived(self, made: datetime, since: datetime | None = None) -> timedelta:
        """How old something is, without the gaps since; a clock that was off beside one may have shown a part of it."""
        gaps = [(begin, end) for begin, end in self.gaps if since and since < begin]
        unseen = (end - max(made, begin) - DOUBT for begin, end in gaps)
        return self.now - made - sum((max(each, timedelta()) for each in unseen), timedelta())

    @property
    def copies(self) -> Path:
        return self.base / "copies"

    @property
    def now(self) -> datetime:
        """The time as the product has it."""
        return datetime.now(UTC) + self.ahead

    def tell(self, words: str) -> None:
        """One line of the record."""
        print(f"{time.monotonic() - self.began:6.0f}s {self.now:%Y-%m-%d %H:%M} {words}", flush=True)

    def found(self, kind: str, words: str) -> None:
        """Something that must not be."""
        getattr(self.findings, kind).append(words)
        self.tell(f"!!! {kind}: {words}")

    def fault(self, kind: str, words: str) -> None:
        """A fault that has been injected."""
        self.findings.faults[kind] += 1
        self.tell(f"  fault: {words}")

    def run(self, *command: str, fault: Course | None = None, boxed: bool = False, **environment: str) -> Result:
        """A command of the product at this world's time, to its end; a fault happens to it meanwhile.

        `boxed`: in the image, as in a stack, where helpers must write what it may not.
        """
        sidecar = in_image(self.sidecar, CLOCKED.read_text()) if boxed else self.sidecar
        clock = {"SOAK_AHEAD": str(self.ahead.total_seconds())}
        with contextlib.closing(fault) if fault else contextlib.nullcontext():
            wished = (next(fault) or {}) if fault else {}
            began = time.monotonic()
            with sidecar.start(*command, **(clock | environment | wished)) as process:
                try:
                    if fault:
                        fault.send(process)
                    output, _ = process.communicate(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    output = process.communicate()[0]
                    self.found("breaches", f"`{' '.join(command)}` did not end in {PATIENCE:.0f} s: {output[-500:]}")
                finally:
                    if process.poll() is None:
                        process.kill()
            if fault:
                next(fault, None)
        self._said(command, result := Result(process.returncode, output), time.monotonic() - began)
        return result

    def _said(self, command: tuple[str, ...], result: Result, seconds: float) -> None:
        words = " ".join(command)
        self.findings.events[command[0]] += 1
        if result.code == 0:
            self.usual[command[0]] = seconds
        lines = [line for line in result.output.splitlines() if "[ERROR]" in line or "[SUCCESS]" in line]
        said = "" if "--json" in command else (lines or result.output.splitlines() or [""])[-1][:170]
        self.tell(f"  {words} → {result.code} in {seconds:.1f} s: {said}")
        if PASSWORD in result.output:
            self.found("breaches", f"`{words}` shows the password")
        if "Traceback" in result.output or result.code == 1:
            self.found("breaches", f"`{words}` ended with an error of the program: {result.output[-1500:]}")

    def moment(self, process: subprocess.Popen[str], command: str = "", least: float = 0.0) -> bool:
        """Wait for a random moment of a command, of a restore mostly one that matters; False when it has ended."""
        if command in ("restore", "undo") and self.chance.random() < 0.7:
            while process.poll() is None and not self.unfinished:
                time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.uniform(least, max(least, 1.05 * self.usual.get(command, 2.0))))
        return process.poll() is None

    @property
    def unfinished(self) -> bool:
        """Whether a restore stands half way."""
        return (self.root / "state/restore.json").exists()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody writes."""
        with self.rows.gate, self.files.gate:
            yield

    # --- what must not be left ---

    def left(self, what: str, code: int) -> None:
        """Of the product's helpers, sessions, pipes and unfinished files there are none after a command that ended."""
        self.unswept = code < 0 or (self.unswept and code not in (0, 3))
        for each in [] if self.unswept else self._left():
            self.found("breaches", f"left by {what} that ended with {code}: {each}")

    def _left(self) -> list[str]:
        names = {path.name for path in self.foreign}
        found = [f"helper {each}" for each in helpers(self.sidecar)]
        found += [f"in the spool: {each}" for each in self.sidecar.spooled()]
        # The next cleanup replaces what is left of its memory.
        names.add(".retention.json.partial")
        found += [f"unfinished: {each}" for each in unfinished(self.root) if Path(each).name not in names]
        with contextlib.suppress(AssertionError):
            eventually(lambda: not sessions(self.server, self.sidecar), 5)
        return found + [f"session {each}" for each in sessions(self.server, self.sidecar)]

    def plant_foreign(self) -> None:
        """What is not ours, under names like ours."""
        daily, outside = self.root / "daily", self.base / "outside.json"
        outside.write_text('{"format": 1, "artifacts": []}')
        daily.mkdir(mode=0o700, exist_ok=True)
        (daily / "obcms_set_daily_2020-01-01_00-00-00.json").symlink_to(outside)
        os.mkfifo(daily / "obcms_backup_daily_2020-01-02_00-00-00.sql.gz")
        (daily / "obcms_media_daily_2020-01-03_00-00-00.tar.gz").mkdir()
        (daily / "holiday.sql.gz").write_bytes(b"no gzip")
        (daily / ".holiday.partial").write_bytes(b"half a holiday")
        (self.copies / "obcms_photo.jpg").write_bytes(b"smile")
        for path in (*daily.glob("*2020-01*"), daily / "holiday.sql.gz", daily / ".holiday.partial", outside):
            self.foreign[path] = looked_at(path)

    def close(self) -> None:
        """Leave nothing of this world."""
        for writer in (self.rows, self.files):
            writer.over.set()
        docker("unpause", self.server.container.id, check=False)
        for writer in (self.rows, self.files):
            writer.join(30)
        ours = docker("ps", "-aq", "--filter", f"label={LABEL}={PROJECT}", check=False).split()
        docker("rm", "-fv", *helpers(self.sidecar), *ours, check=False)
        subprocess.run(["umount", "-l", str(self.root)], check=False)
        shutil.rmtree(self.base, ignore_errors=True)


def looked_at(path: Path) -> tuple[int, bytes]:
    """What a foreign file is, without following or opening what is none."""
    mode = path.lstat().st_mode
    return mode, path.read_bytes() if stat.S_ISREG(mode) else bytes(path.readlink()) if stat.S_ISLNK(mode) else b""


@contextlib.contextmanager
def world(seed: int, plant: str) -> Iterator[World]:
    """A new one, with writers at work."""
    if os.geteuid():
        sys.exit("the soak needs root: it mounts a small backup volume")
    os.umask(0o022)
    chance = random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="obcms-soak-"))
    server = start_server(17, "soak")
    try:
        server.new_database(DATABASE)
        server.execute(DATABASE, SCHEMA)
        for folder in ("backups", "copies"):
            (base / folder).mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=700", "tmpfs", str(base / "backups")]
        subprocess.run(mount, check=True)
        sidecar = Sidecar.make(base, server, DATABASE, **SETTINGS, BACKUP_COPY_DIR=str(base / "copies"))
        sidecar.program, sidecar.tries = CLOCKED, True
        (base / "volumes/ocr").mkdir()
        (base / "volumes/ocr/page.txt").write_bytes(b"a page")
    except BaseException:
        server.remove()
        subprocess.run(["umount", "-l", str(base / "backups")], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(base, ignore_errors=True)
        raise
    files = Files(sidecar.media, random.Random(seed + 1))
    files.adopt()
    made = World(chance, plant, base, server, sidecar, Rows(server, DATABASE, random.Random(seed + 2), print), files)
    made.rows.lost = lambda words: made.found("lost", words)
    try:
        made.plant_foreign()
        made.rows.start(), made.files.start()
        yield made
    finally:
        made.close()
