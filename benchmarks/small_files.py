"""Many small files beside `tar`: a backup, its verification, and the unpacking that a restore does. Ratios, in one run.

What is measured is what a file costs beside its bytes. Every contender runs once per round, in turn, as a process of
its own on this machine: seconds, user and system time of all its processes, and its largest memory. `create` is the
whole command, so also the verification of what it wrote; what it says of itself stands in its run record. Nothing is
removed until the end: ext4 goes around inodes that were just freed, which costs the next contender more than its work.

`python -m benchmarks.small_files` (FILES, SIZE in bytes, ROUNDS; BEFORE=a checkout of an earlier version, beside).
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.run import say

FILES = int(os.environ.get("FILES", "300000"))
SIZE = int(os.environ.get("SIZE", "4096"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
BEFORE = os.environ.get("BEFORE", "")
# As the image has it.
_MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "67108864",
    "MALLOC_TOP_PAD_": "16777216",
}
NOW: Final = str(Path(__file__).resolve().parents[1])
_FOLDER: Final = 300
_REPEATED: Final = 512


@dataclass(frozen=True)
class Taken:
    """What a process and its children took: seconds, seconds of CPU, and the memory of the largest in MB."""

    wall: float
    cpu: float
    memory: float


def main() -> None:
    """Make the tree, run the rounds, print the tables; remove everything."""
    with tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        root = Path(base)
        media_tree(root / "volumes" / "media")
        say(f"{FILES:,} files of {SIZE:,} bytes, {ROUNDS} rounds")
        versions = {"backup": NOW, **({"before: backup": BEFORE} if BEFORE else {})}
        taken: dict[str, dict[str, list[Taken]]] = {"create": {}, "restore": {}, "verify": {}}
        for number in range(ROUNDS):
            for title, contenders in of_a_round(root, number, versions).items():
                for name, act in contenders.items():
                    os.sync()
                    taken[title].setdefault(name, []).append(found := act())
                    say(f"{name}: {found.wall:.2f} s, {found.cpu:.2f} s of CPU, {found.memory:.0f} MB")
        for title, rows in taken.items():
            report(title, rows)


def of_a_round(root: Path, number: int, versions: dict[str, str]) -> dict[str, dict[str, Callable[[], Taken]]]:
    """The contenders, by what they do; the first of each is by hand."""
    archive = root / f"by-hand-{number}.tar.gz"
    create: dict[str, Callable[[], Taken]] = {"tar czf": lambda: ran(f"tar czf {archive} -C {root}/volumes media")}
    target = root / f"by-hand-{number}"
    restore = {"tar xzf, and sync": lambda: ran(f"mkdir {target} && tar xzf {archive} -C {target} && sync -f {target}")}
    verify = {"gunzip -t; sha256sum": lambda: ran(f"gunzip -t {archive} && sha256sum {archive}", forget=archive)}
    for name, code in versions.items():
        place = root / f"{name.partition(':')[0]}-{number}"
        create[f"{name} create --only media"] = lambda c=code, p=place: created(root, c, p)  # type: ignore[misc]
        restore[f"{name}, unpacking"] = lambda c=code, p=place: unpacked(c, p)  # type: ignore[misc]
        verify[f"{name} verify"] = lambda c=code, p=place: verified(root, c, p)  # type: ignore[misc]
    return {"create": create, "restore": restore, "verify": verify}


def created(root: Path, code: str, place: Path) -> Taken:
    """One set of the media below `place`."""
    found = command(root, code, place, "create", "manual", "--only", "media", "--json")
    assert len(list(place.glob("manual/*.tar.gz"))) == 1
    return found


def verified(root: Path, code: str, place: Path) -> Taken:
    """The same set, from the disk."""
    return command(root, code, place, "verify", "latest", "--json")


def command(root: Path, code: str, place: Path, *words: str) -> Taken:
    """A command of that version, with nothing around but its volumes."""
    own = {"BACKUP_DIR": str(place), "BACKUP_VOLUMES_DIR": str(root / "volumes"), "PATH": os.environ["PATH"]}
    place.mkdir(exist_ok=True)
    return ran(" ".join([sys.executable, f"{code}/entrypoint.py", *words]), own | _MALLOC | {"BACKUP_PROJECT": "bench"})


def unpacked(code: str, place: Path) -> Taken:
    """What the process does that writes to a volume: unpack, hash each file against the index, sync."""
    (archive,), (index,) = place.glob("manual/*.tar.gz"), place.glob("manual/*.files.gz")
    (place / "volume").mkdir()
    words = (
        f"-m backup.media.helper_main extract --limit {1 << 50} --trusted {archive} {index} media {place}/volume one"
    )
    return ran(
        f"cd {code} && {sys.executable} {words}",
        os.environ | _MALLOC | {"PYTHONPATH": code},
        check='"files": ' + str(FILES),
    )


def ran(line: str, around: dict[str, str] | None = None, *, check: str = "", forget: Path | None = None) -> Taken:
    """A shell's command line. `check` must be in its output; the pages of `forget` are dropped before."""
    if forget:
        with open(forget, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(["bash", "-c", line], stdout=output, env=around)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begun
        output.seek(0)
        if process.returncode or check not in output.read().decode():
            sys.exit(f"{line}\nended with {process.returncode}")
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)


def report(title: str, rows: dict[str, list[Taken]]) -> None:
    """Medians of seconds and CPU, the largest memory, and the medians of the rounds' own ratios to the first row."""
    say(f"\n| {title} | s | ratio | s of CPU | ratio | MB |\n|---|---|---|---|---|---|")
    first = next(iter(rows.values()))
    for name, found in rows.items():
        wall, cpu = (statistics.median(getattr(each, what) for each in found) for what in ("wall", "cpu"))
        pairs = list(zip(found, first, strict=True))
        walls = statistics.median(each.wall / floor.wall for each, floor in pairs)
        cpus = statistics.median(each.cpu / floor.cpu for each, floor in pairs)
        memory = max(each.memory for each in found)
        say(f"| {name} | {wall:.1f} | {walls:.2f} | {cpu:.1f} | {cpus:.2f} | {memory:.0f} |")


def media_tree(tree: Path) -> None:
    """Files that pack about eight to one, as gzip's own speed is not what is measured; 300 to a directory."""
    source = random.Random(1)
    for number in range(FILES):
        folder = tree / "uploads" / f"{number // _FOLDER:05d}"
        if number % _FOLDER == 0:
            folder.mkdir(parents=True)
        content = source.randbytes(min(SIZE, _REPEATED)) * (SIZE // _REPEATED + 1)
        (folder / f"document_{number:07d}.pdf").write_bytes(content[:SIZE])


if __name__ == "__main__":
    main()
