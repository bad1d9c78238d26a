"""Incremental sets by the command line as it is shipped: made, proven, looked into, restored, put back, carried off."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_inspect import run
from tests.support.awkward_tree import fill, look
from tests.support.database import Server
from tests.support.faults import ended
from tests.support.restoring import OLD, Target, drop_kept
from tests.support.s3 import Service
from tests.support.sidecar import Sidecar


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, servers: Callable[[int], Server]) -> Target:
    """The old state and the new one, each with a set; most files are in the first pack alone."""
    made = Target.make(tmp_path_factory.mktemp("incremental"), servers(17), more=20, BACKUP_MEDIA="incremental")
    (made.sidecar.media / "awkward").mkdir()
    fill(made.sidecar.media / "awkward")
    (made.sidecar.media / "large").write_bytes(os.urandom(9 << 20))
    made.create("weekly")
    return made


def test_each_set_is_proven(target: Target) -> None:
    for tier in ("daily", "weekly"):
        code, _, said = run(target.sidecar, "drill", target.stored(tier).id)
        assert code == 0, said
        assert target.stored(tier).proven
    assert len(target.stored("weekly").manifest.packs) == 2


def test_single_things_are_taken_out(target: Target, tmp_path: Path) -> None:
    code, out, _ = run(target.sidecar, "cat", target.stored("weekly").id, "--path", "large")
    assert (code, out) == (0, (target.sidecar.media / "large").read_bytes())
    code, _, said = run(target.sidecar, "show", target.stored("weekly").id)
    assert code == 0 and "../packs/" in said, said
    code, out, said = run(target.sidecar, "export", target.stored("weekly").id, "-")
    assert code == 0, said
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        names = archive.getnames()
    assert any(name.endswith(".tar.gz") for name in names) and not any("tree" in name for name in names)
    code, _, said = run(target.sidecar, "du")
    assert code == 0 and "packs" in said, said
    other = Target(target.sidecar, target.server, target.database).copy(tmp_path)
    (tmp_path / "set.tar").write_bytes(out)
    empty = tmp_path / "empty"
    empty.mkdir()
    other.sidecar.environment["BACKUP_DIR"] = str(empty)
    code, _, said = run(other.sidecar, "import", str(tmp_path / "set.tar"))
    assert code == 0, said


def test_a_restore_and_single_files(target: Target) -> None:
    before = look(target.sidecar.media)
    code, _, said = run(target.sidecar, "restore", target.stored("daily").id, "--force")
    assert code == 0, said
    assert target.live() == OLD
    assert not (target.sidecar.media / "large").exists()
    # What came back has other inodes, and contents that the newest set does not name: they are in a pack all the same.
    target.create("manual")
    manual, weekly = (target.stored(tier) for tier in ("manual", "weekly"))
    assert {pack.file for pack in manual.manifest.packs} <= {pack.file for pack in weekly.manifest.packs}
    code, _, said = run(
        target.sidecar, "restore", target.stored("weekly").id, "--only", "media", "--path", "large", "--force"
    )
    assert code == 0, said
    assert (target.sidecar.media / "large").stat().st_size == 9 << 20
    drop_kept(target)
    code, _, said = run(target.sidecar, "restore", target.stored("weekly").id, "--force")
    assert code == 0, said
    assert look(target.sidecar.media, b".obcms") == before
    drop_kept(target)


def test_sets_that_share_packs_come_back_from_a_bucket(tmp_path: Path, server: Server, gateway: Service) -> None:
    """Three nights, sent; then the volume and the media are lost: sets are restored from the bucket alone."""
    name = server.new_database()
    server.execute(name, "CREATE TABLE person AS SELECT generate_series(1, 500) AS id")
    sidecar = Sidecar.make(tmp_path, server, name, BACKUP_MEDIA="incremental")
    sidecar.environment |= gateway.settings()

    def done(*command: str) -> str:
        with sidecar.start(*command) as process:
            result = ended(process, 120)
        assert result.code == 0, result.output
        return result.output

    looks, sets = [], []
    for night in range(3):
        (sidecar.media / f"upload-{night}").write_bytes(os.urandom(100_000))
        (sidecar.media / "report").write_bytes(os.urandom(500_000))
        done("create", "daily")
        sets.append(sidecar.sets()[0].id)
        looks.append(look(sidecar.media))
    assert "3 sets sent to" in done("upload", "--all")
    listed = gateway.client().list_objects_v2(Bucket=sidecar.environment["AWS_S3_BACKUP_BUCKET"])["Contents"]
    assert sum(each["Key"].startswith("packs/") for each in listed) == 3
    done("offsite", "verify", "--download")
    for each in sidecar.root.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    for path in sidecar.media.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done("restore", f"s3:{sets[1]}", "--force", "--no-safety")
    assert look(sidecar.media, b".obcms") == looks[1]
    done("undo", "--discard", "--force")
    done("offsite", "pull", sets[2])
    done("verify", "all")
    done("restore", sets[2], "--force", "--no-safety")
    assert look(sidecar.media, b".obcms") == looks[2]
