"""On disks like FAT or a share of Windows all is done that is done elsewhere, without links, owners, modes and
attributes, and where names of another case are the same name. Nothing that is there is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.fatlike import mounted
from tests.support.restoring import Target
from tests.support.sidecar import Sidecar


@pytest.fixture
def fat(tmp_path: Path, server: Server) -> Iterator[Target]:
    """A sidecar whose backup volume, place of copies and media volume are such disks."""
    with mounted(tmp_path / "backups"), mounted(tmp_path / "copies"), mounted(tmp_path / "volumes/media"):
        yield Target.make(tmp_path, server, BACKUP_COPY_DIR=str(tmp_path / "copies"))


def done(sidecar: Sidecar, *command: str, code: int = 0) -> str:
    result = sidecar.run(*command)
    assert result.code == code, result.output
    return result.output


def test_sets_are_made_sent_lost_fetched_and_restored(fat: Target, tmp_path: Path) -> None:
    sidecar, media = fat.sidecar, fat.sidecar.media
    before = {name: data for name, data in sidecar.files().items() if not name.endswith(".verdict")}
    done(sidecar, "upload", "--all")
    assert "1 set there already" in done(sidecar, "upload", "daily")
    done(sidecar, "offsite", "verify", "--download")
    for each in sidecar.root.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    done(sidecar, "offsite", "pull", "latest")
    assert {name: data for name, data in sidecar.files().items() if not name.endswith(".verdict")} == before
    done(sidecar, "verify", "latest")
    out = tmp_path / "copies/table.sql"
    done(sidecar, "extract", "latest", "--table", "kind", "-o", str(out))
    written = out.read_bytes()
    assert b"kind" in written and [path.name for path in out.parent.glob(".*")] == []
    done(sidecar, "extract", "latest", "--table", "app_case", "-o", str(out), code=30)
    (tmp_path / "copies/out").mkdir()
    done(sidecar, "export", "latest", str(tmp_path / "copies/out"))
    assert "not overwritten" in done(sidecar, "export", "latest", str(tmp_path / "copies/out"), code=30)
    assert out.read_bytes() == written
    done(sidecar, "restore", "latest", "--force")
    assert fat.live() == ("old", "old")
    (next(media.glob(".obcms-restore-*")) / "stray").write_text("somebody's")
    done(sidecar, "undo", "--force")
    assert fat.live() == ("new", "new")
    said = done(sidecar, "undo", "--discard", "--force")
    assert "'stray'" in said and (next(media.glob(".obcms-restore-*")) / "stray").read_text() == "somebody's"
    done(sidecar, "restore", "latest", "--only", "media", "--path", "kind.txt", "--force")
    assert (media / "kind.txt").read_text() == "old"
    assert next(media.glob(".obcms-restore-file-*/before/0")).read_text() == "new"


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Sidecar]:
    """A set with names that differ in case alone, and an empty volume that does not tell them apart."""
    sidecar = Sidecar.make(tmp_path, None)
    for name in ("Report.pdf", "report.pdf"):
        (sidecar.media / "uploads" / name).write_text(name)
    done(sidecar, "create", "daily", "--only", "media")
    with mounted(sidecar.media):
        yield sidecar


def test_names_that_become_one_are_told_and_nothing_is_lost(both: Sidecar) -> None:
    """Before, where the volume shows what it is; else at the clash, and then all is as before."""
    sidecar, media = both, both.media
    said = done(sidecar, "restore", "latest", "--only", "media", "--force", code=50)
    assert "'uploads/Report.pdf' and 'uploads/report.pdf' are one name" in said and "in it twice" not in said
    assert list(media.iterdir()) == [] and not (both.root / "state/restore.json").exists()
    (media / "live.txt").write_text("live")
    for options in (["--dry-run"], ["--force"]):
        said = done(sidecar, "restore", "latest", "--only", "media", *options, code=50)
        assert "'uploads/Report.pdf' and 'uploads/report.pdf' of the set are one name" in said, said
    paths = ["--path", "uploads/Report.pdf", "--path", "uploads/report.pdf"]
    said = done(sidecar, "restore", "latest", "--only", "media", "--force", *paths, code=50)
    assert "Report.pdf' and" in said and [path.name for path in media.iterdir()] == ["live.txt"]
    done(sidecar, "restore", "latest", "--only", "media", "--force", *paths[:2])
    for option in ("--dry-run", "--force"):
        said = done(sidecar, "restore", "latest", "--only", "media", option, *paths[2:], code=50)
        assert "'uploads/Report.pdf' and 'uploads/report.pdf' are one name" in said
    assert (media / "uploads/Report.pdf").read_text() == "Report.pdf"
    done(sidecar, "verify", "latest")
