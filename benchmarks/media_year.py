"""A year of incremental sets as the schedule makes and retention keeps them: what is stored, beside what differs.

    .venv/bin/python -m benchmarks.media_year [FILES] [BYTES] [NIGHTS] [DIRECTORY]

Half of the files are noise, half text; each night 0.5 % come, some go, and a report is another one. 30 daily, 13 weekly
and 12 monthly sets are kept; cleanups write packs anew. Every 20th set is restored when it is made, and every fifth of
those that are left at the end, and compared with what was there. By hand: it takes minutes.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup.media.tar_writer import parse_index
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.repack import repack
from backup.operations.set_artifacts import open_file
from backup.operations.verify.packs import PackChecks
from backup.operations.verify.run import check_set
from backup.pipeline.chunks import split_lines
from backup.progress import Silent
from tests.support.awkward_tree import look
from tests.support.increments import Stack

KEPT = {Tier.DAILY: 30, Tier.WEEKLY: 13, Tier.MONTHLY: 12}
WORDS = [b"%x" % (number * 7919) for number in range(4000)]


class Year:
    """A volume, its nights, and what each set looked like."""

    def __init__(self, base: Path, count: int, size: int) -> None:
        self.stack, self.size, self.draw = Stack(base), size, random.Random(1)
        self.looks: dict[str, object] = {}
        self.repacked = self.number = 0
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """One file more."""
        self.number += 1
        folder = self.stack.media / f"{self.number // 200:04}"
        folder.mkdir(exist_ok=True)
        length = self.draw.randrange(self.size // 2, self.size * 3 // 2)
        words = b" ".join(self.draw.choices(WORDS, k=length // 3))[:length]
        (folder / f"{self.number:06}").write_bytes(self.draw.randbytes(length) if self.number % 2 else words)

    def night(self, day: int, count: int) -> None:
        """What changes, a set, and a cleanup."""
        files = [path for path in self.stack.media.glob("*/*") if path.is_file()]
        for path in self.draw.sample(files, count // 5):
            path.unlink()
        for _ in range(count):
            self.add()
        (self.stack.media / "report").write_bytes(self.draw.randbytes(10 * self.size))
        tier = Tier.MONTHLY if day % 30 == 0 else Tier.WEEKLY if day % 7 == 0 else Tier.DAILY
        self.stack.now = datetime.now(UTC) - timedelta(days=400 - day)
        made = self.stack.night(tier=tier)
        self.looks[made.id] = look(self.stack.media)
        if day % 20 == 0:
            self.compare(made)
        catalog = self.stack.app().catalog
        for each, kept in KEPT.items():
            for stored in catalog.sets(each)[kept:]:
                catalog.remove(stored)
        catalog.remove_unneeded()
        self.repacked += repack(catalog, Silent())

    def compare(self, stored: StoredSet) -> None:
        """A set restores to what was there."""
        assert look(self.stack.restored(stored)) == self.looks[stored.id], stored.id


def distinct(sets: list[StoredSet]) -> int:
    """Bytes of all files of all sets, each content once."""
    known: dict[str, int] = {}
    for stored in sets:
        with open_file(stored, next(each.file for each in stored.manifest.artifacts if each.kind == "index")) as source:
            known |= {entry.sha256: entry.size for entry in parse_index(split_lines(source.content()))}
    return sum(known.values())


def stored_bytes(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(count: int, size: int, nights: int, directory: str | None) -> None:
    """Print what is stored."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="year-") as made:
        year, started = Year(Path(made), count, size), time.process_time()
        for day in range(1, nights + 1):
            year.night(day, count // 200)
        catalog = year.stack.app().catalog
        sets = catalog.sets()
        checks = PackChecks(catalog.packs, Silent(), several=True)
        assert not any(check_set(each, Silent(), packs=checks).problems for each in sets)
        for each in sets[::5]:
            year.compare(each)
        root, differs = year.stack.root, distinct(sets)
        packs, trees = (stored_bytes(root / "packs"), sum(stored_bytes(root / tier) for tier in Tier))
        print(f"{len(sets)} sets, {differs / 1e6:.1f} MB of distinct files, {time.process_time() - started:.0f} s CPU")
        print(f"stored {(packs + trees) / 1e6:.1f} MB: packs {packs / 1e6:.1f}, trees and indexes {trees / 1e6:.1f}")
        print(f"{(packs + trees) / differs:.3f} times that, {year.repacked / 1e6:.1f} MB less by repacking")


if __name__ == "__main__":
    os.environ.setdefault("TZ", "UTC")
    given = dict(enumerate(sys.argv[1:]))
    main(int(given.get(0, "1000")), int(given.get(1, "50000")), int(given.get(2, "365")), given.get(3))
