"""What a plan is made from: which of the places that a restore fills lie on one disk."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.model.backup_set import StoredSet
from backup.operations.restore import plan_inputs as gathering
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.plan import VolumeFacts, plan
from tests.unit.operations.restore.test_plan import GB, database, facts, stored

FREE = 50 * GB


@pytest.mark.parametrize(
    ("free", "same", "shared"),
    [
        (FREE, True, True),
        # A container's own layer has another number than the disk that it lies on.
        (FREE - GB // 10, False, True),
        (FREE + 20 * GB, False, False),
    ],
)
def test_all_that_is_put_on_one_disk_is_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, same: bool, shared: bool
) -> None:
    """36 GB for the database, 6 for the media and 20 for the safety set: each alone would fit."""
    here = str(tmp_path.stat().st_dev)
    volumes = (VolumeFacts("media", archive_files=1, archive_bytes=6 * GB, free=FREE, disk=here),)
    known = facts(
        source=stored(database(size=30 * GB)), volumes=volumes, safety_bytes=20 * GB, backup_free=FREE, backup_disk=here
    )
    number = os.statvfs(tmp_path).f_fsid
    (tmp_path / "media").mkdir()
    context: Any = SimpleNamespace(
        volumes=tmp_path,
        catalog=SimpleNamespace(root=tmp_path),
        server_free=lambda: (free, number if same else number + 1),
    )
    without = dataclasses.replace(known, server=known.server and dataclasses.replace(known.server, free=None))
    monkeypatch.setattr(gathering, "_without_database", lambda *_: known)
    monkeypatch.setattr(gathering, "_with_server", lambda *_: without)
    monkeypatch.setattr(gathering, "dump_of", lambda _: "dump")
    source = cast(StoredSet, known.source)
    found = gathering.gather(cast(RestoreContext, context), source, "database", safety=True)
    assert found.server and found.server.free == free
    assert found.server.disk == (here if shared else "")
    assert plan(found).possible is not shared, plan(found)
