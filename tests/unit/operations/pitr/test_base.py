"""A base backup that is not as it was written does not stay."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.catalog.wal_archive import WalArchive
from backup.errors import IntegrityError
from backup.model.wal import Base
from backup.operations.pitr import base as module
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from tests.support.facts import NOW
from tests.support.windows import SYSTEM, a_base

CONTEXT = cast(Any, SimpleNamespace(catalog=SimpleNamespace(identity=None), progress=Silent()))


def kept(root: Path) -> tuple[WalArchive, Base]:
    """A base backup of two megabytes that pack a little."""
    archive = WalArchive(root, SYSTEM)
    archive.prepare()
    with ArtifactWriter(archive.bases, "b.tar.gz", "base") as writer:
        writer.write(random.Random(1).randbytes(1 << 20) + bytes(1 << 20))
        artifact = writer.finish()
        base = a_base(1, NOW).model_copy(update={"id": "b", "artifact": artifact})
        archive.keep_base(base, writer.staged)
    return archive, base


def test_one_that_is_as_it_was_written_stays(tmp_path: Path) -> None:
    archive, base = kept(tmp_path)
    assert base.artifact.plain_sha256 == "", "its own manifest has the sums of its files"
    module._read_back(CONTEXT, archive, base)
    assert archive.list_bases() == [base]


@pytest.mark.parametrize("place", [12, 5000, -6])
def test_any_damage_is_seen_and_it_is_removed(tmp_path: Path, place: int) -> None:
    archive, base = kept(tmp_path)
    path = archive.bases.directory / base.artifact.file
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="was removed"):
        module._read_back(CONTEXT, archive, base)
    assert archive.list_bases() == [] and not path.exists()


def test_one_of_another_size_is_removed(tmp_path: Path) -> None:
    archive, base = kept(tmp_path)
    artifact = base.artifact.model_copy(update={"plain_size": base.artifact.plain_size + 1})
    with pytest.raises(IntegrityError, match="was removed"):
        module._read_back(CONTEXT, archive, base.model_copy(update={"artifact": artifact}))
