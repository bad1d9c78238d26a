"""Whatever befalls a set, and whenever: what is said of it at once is what `verify` says of it afterwards."""

from __future__ import annotations

import io
import itertools
import os
import random
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backup.catalog.catalog import Catalog
from backup.errors import IntegrityError
from backup.media import archive_tree
from backup.media.archive_tree import MediaReport
from backup.operations.verify.run import check_set
from backup.progress import Silent
from backup.storage.staged_file import StagedFile
from tests.support.increments import Stack
from tests.support.keys import key_pair

ARCHIVE = archive_tree.archive
COUNTS = ("files", "directories", "links", "hard_links", "bytes")


def fill(media: Path, chance: random.Random) -> None:
    """Make files of every kind, some of them perhaps."""
    (media / "folder").mkdir(parents=True)
    for number in range(chance.randrange(6)):
        name = chance.choice(["a", "folder/b", "ä\n", "x" * 120, os.fsdecode(b"\xff\\")])
        (media / f"{name}{number}").write_bytes(chance.randbytes(chance.choice([0, 1, 512, 3000])))
    (media / "first").write_bytes(b"1")
    for make in (lambda: os.link(media / "first", media / "second"), lambda: os.mkfifo(media / "fifo")):
        if chance.random() < 0.3:
            make()
    (media / "link").symlink_to("first")
    with (media / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(chance.choice([0, 500_000]))
        file.write(b"data")


def flipped(data: bytes, chance: random.Random) -> bytes:
    """The same with another bit."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def altered(parts: list[bytes], chance: random.Random) -> bytes:
    """All parts but one, which is gone, there twice, elsewhere, or has another bit."""
    at = chance.randrange(len(parts))
    part = parts.pop(at)
    left = chance.choice([[], [part], [part, part], [flipped(part, chance)]])
    for each in left:
        parts.insert(chance.randrange(len(parts) + 1) if each is part else at, each)
    return b"".join(parts)


def lying(chance: random.Random) -> Callable[..., MediaReport]:
    """What archives a tree, and an archive, an index or counts are wrong."""

    def archived(root: Path, name: str, sink: Any, index: Any, **words: Any) -> MediaReport:
        made, listed = io.BytesIO(), io.BytesIO()
        report = ARCHIVE(root, name, made, listed, **words)
        tar, lines = made.getvalue(), listed.getvalue()
        match chance.randrange(5):
            case 0 if lines:
                lines = altered(lines.splitlines(keepends=True), chance)
            case 1 if lines:
                with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
                    starts = [member.offset for member in opened]
                ends = itertools.pairwise([*starts, len(tar.rstrip(b"\0")) + 511 & -512])
                tar = altered([tar[start:end] for start, end in ends], chance) + bytes(1024)
            case 2:
                field = chance.choice(COUNTS)
                report = replace(report, **{field: getattr(report, field) + 1})
            case 3:
                tar = flipped(tar, chance)
            case _:
                tar = chance.choice([tar[:-512], tar[:-1024], tar + b"x", tar + bytes(512), tar + tar])
        sink.write(tar)
        index.write(lines)
        return report

    return archived


def damage(path: Path, chance: random.Random) -> None:
    """Flip a bit, or add a byte; the file's time tells that, however soon it is."""
    time, data = path.stat().st_mtime_ns + 1, path.read_bytes()
    path.write_bytes(chance.choice([flipped(data, chance), data + b"x"]))
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("when", ["made", "written", "sealed", "published"])
@pytest.mark.long
def test_both_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, seed: int) -> None:
    chance = random.Random(f"{seed} {when}")
    kind = chance.choice(["full", "full", "incremental", "encrypted"])
    stack = Stack(tmp_path / "stack")
    for name in ("media", "other")[: chance.choice([1, 2])]:
        fill(stack.media.parent / name / "files", chance)
    stack.settings = {"BACKUP_MEDIA": "incremental" if kind == "incremental" else "full"}
    if kind == "encrypted":
        stack.settings |= {"BACKUP_ENCRYPT": "all", "BACKUP_AGE_RECIPIENTS": key_pair(tmp_path / "key")}
    hit = chance.choice([".tar.gz", ".files.gz", *([".tree.gz"] if kind == "incremental" else [])])
    seal, publish = StagedFile.seal, Catalog.publish

    def sealed(self: StagedFile) -> None:
        self.flush()
        if when == "written" and hit in self.name:
            damage(self.path, chance)
        seal(self)
        if when == "sealed" and hit in self.name:
            damage(self.path, chance)

    def published(self: Catalog, *words: Any) -> None:
        publish(self, *words)
        if when == "published":
            damage(chance.choice(sorted(stack.root.glob(f"*/*{hit}*"))), chance)

    monkeypatch.setattr(StagedFile, "seal", sealed)
    monkeypatch.setattr(Catalog, "publish", published)
    if when == "made":
        monkeypatch.setattr(archive_tree, "archive", lying(chance))
    said = ""
    try:
        stack.night()
    except IntegrityError as error:
        said = error.message
    sets = stack.app().catalog.sets()
    assert bool(sets) == (when != "written"), said
    for stored in sets:
        found = check_set(stored, Silent(), quick=kind == "encrypted").problems
        assert stored.verdict and list(stored.verdict.problems) == found
        assert bool(found) == bool(said) and (found or when == "made")
