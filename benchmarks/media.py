"""Full and incremental sets of one volume: seconds, processor time, megabytes of memory and stored bytes of each.

    .venv/bin/python -m benchmarks.media [FILES] [BYTES] [DIRECTORY]

Files are noise, of half to one and a half of BYTES, 500 in a folder. A full set; the first incremental one; one after
which nothing has changed; one with 0.5 % new files; 30 more of those; then all is verified, and restored from a full
set and from the chain. restic and borg, where they are installed, do the first two in the same run; what we do with
each set, read all back, their own checks do after the first. By hand: no test depends on how fast a machine is.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backup.app.composition import App
from backup.config.loader import load_settings
from backup.model.backup_set import StoredSet

ROOT = Path(__file__).resolve().parents[1]


def plant(media: Path, count: int, size: int) -> None:
    """So many files, each of other content."""
    for number in range(count):
        folder = media / f"{number // 500:05}"
        folder.mkdir(exist_ok=True)
        length = size // 2 + number * 7919 % (size + 1)
        (folder / f"document_{number:07}.pdf").write_bytes(os.urandom(length))


def add(media: Path, night: int, count: int, size: int) -> None:
    """The new files of a night."""
    folder = media / f"night_{night:03}"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.pdf").write_bytes(os.urandom(size))


class Took(NamedTuple):
    """Seconds, those of a core, and the most memory in kB."""

    clock: float = 0.0
    cores: float = 0.0
    memory: int = 0


def timed(what: str, words: list[str], before: Took = Took(), **environment: str) -> Took:  # noqa: B008 - a tuple
    """Run a program and print what it took, and what came `before` it, together."""
    started = time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    clock, cores = before.clock + time.monotonic() - started, before.cores + used.ru_utime + used.ru_stime
    took = Took(clock, cores, max(before.memory, used.ru_maxrss))
    failed = f"  FAILED ({process.returncode})" if process.returncode else ""
    print(f"{what:44} {clock:8.2f} s {cores:8.2f} s CPU {took.memory >> 10:6} MB{failed}", flush=True)
    return took


def stored(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def product(base: Path, count: int, size: int) -> None:
    """The sets, with the product's own commands."""
    places = {"BACKUP_DIR": str(base / "backups"), "BACKUP_VOLUMES_DIR": str(base / "volumes")}
    media = base / "volumes" / "media"

    def create(what: str, mode: str) -> StoredSet:
        before = stored(base / "backups")
        words = [sys.executable, "entrypoint.py", "create", "daily", "--only", "media"]
        timed(what, words, BACKUP_MEDIA=mode, **places)
        app = App(load_settings(places))
        seconds = next(run.seconds for run in app.records.readable() if run.operation == "create")
        took, more = seconds["total"] + seconds["verify"], stored(base / "backups") - before
        print(f"{'  by the record of the run':44} {took:8.2f} s {more / 1e6:8.1f} MB stored", flush=True)
        return app.catalog.sets()[0]

    full = create("full set", "full")
    create("first incremental set", "incremental")
    create("nothing changed", "incremental")
    add(media, 0, count // 200, size)
    create("0.5 % new", "incremental")
    for night in range(1, 31):
        add(media, night, count // 2000, size)
        quiet = [sys.executable, "entrypoint.py", "create", "daily", "--only", "media"]
        subprocess.run(quiet, cwd=ROOT, env=os.environ | places | {"BACKUP_MEDIA": "incremental"}, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    last = create("the 31st after that", "incremental")
    for each, what in ((full, "full"), (last, "chain")):
        timed(f"verify: {what}", [sys.executable, "entrypoint.py", "verify", each.id], **places)
    for number, (each, what) in enumerate([(full, "full"), (last, "chain")] * 3):
        # Nothing is deleted between: ext4 looks for long at what was deleted within the last minutes.
        (base / f"out{number}").mkdir()
        timed(f"restore: {what}", [*restore(base, each, base / f"out{number}")])


def restore(base: Path, stored: StoredSet, target: Path) -> Iterator[str]:
    """The words of what unpacks a set's files."""
    kind = "tree" if stored.manifest.incremental else "volume"
    files = [each for each in (stored.manifest.artifact(kind), stored.manifest.artifact("index")) if each]
    yield from (sys.executable, "-m", "backup.media.helper_main", "extract", "--limit=1000000000000", "--trusted")
    if stored.manifest.incremental:
        yield f"--packs={base / 'backups' / 'packs'}"
    yield from ("--", *(str(stored.directory / each.file) for each in files), "media", str(target), "1")


def others(base: Path) -> None:
    """restic and borg, if they are here."""
    media = str(base / "volumes" / "media")
    restic = {"RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(base / "restic")}
    borg = {"BORG_PASSPHRASE": "x", "BORG_REPO": str(base / "borg")}
    if shutil.which("restic"):
        timed("restic init", ["restic", "init", "-q"], **restic)
        first = timed("restic, first", ["restic", "backup", "-q", media], **restic)
        timed("restic, first, and all read back", ["restic", "check", "-q", "--read-data"], first, **restic)
        timed("restic, second", ["restic", "backup", "-q", media], **restic)
    if shutil.which("borg"):
        timed("borg init", ["borg", "init", "-e", "repokey"], **borg)
        first = timed("borg, first", ["borg", "create", "::first", media], **borg)
        timed("borg, first, and all read back", ["borg", "check", "--verify-data"], first, **borg)
        timed("borg, second", ["borg", "create", "::second", media], **borg)


def main(count: int, size: int, directory: str | None) -> None:
    """Print the table."""
    # As in the image.
    os.environ |= dict(re.findall(r"(MALLOC_\w+)=(\d+)", (ROOT / "Dockerfile").read_text()))
    compileall.compile_dir(ROOT / "backup", quiet=1)
    with tempfile.TemporaryDirectory(dir=directory, prefix="media-") as made:
        base = Path(made)
        (base / "volumes" / "media").mkdir(parents=True)
        plant(base / "volumes" / "media", count, size)
        os.sync()
        others(base)
        product(base, count, size)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    main(int(given.get(0, "20000")), int(given.get(1, "115000")), given.get(2))
