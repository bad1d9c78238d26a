"""A path is in a set or not, and that is said before anything is touched: by an index, or else by an archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.cli import main
from backup.manifest import Artifact, Manifest, Tier, VolumePart, file_name, to_json
from backup.operations.inspect.index import Near
from backup.records import Records
from backup.sets import manifest_name
from backup.sources import media
from tests.support.shelf import in_memory

ID = "daily_2026-01-02_03-04-05"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Said = Callable[..., tuple[int, str, str]]


def stored(tier: Path, volumes: Path) -> None:
    """A set of the volumes that are here."""
    parts, artifacts = [], []
    for volume in sorted(path.name for path in volumes.iterdir()):
        archive, index = io.BytesIO(), io.BytesIO()
        report = media.archive(volumes / volume, volume, archive, index)
        counts = {name: getattr(report, name) for name in ("files", "directories", "links", "hard_links", "bytes")}
        parts.append(VolumePart(name=volume, excludes=(), **counts))
        for kind, suffix, plain in (("volume", "tar.gz", archive), ("index", "files.gz", index)):
            data = gzip.compress(plain.getvalue(), 1)
            name = file_name(volume, ID, suffix)
            (tier / name).write_bytes(data)
            artifacts.append(
                Artifact.model_validate(
                    {
                        "kind": kind, "name": volume, "file": name, "stored_size": len(data), "plain_sha256": "",
                        "stored_sha256": hashlib.sha256(data).hexdigest(), "plain_size": len(plain.getvalue()),
                    }
                )
            )  # fmt: skip
    manifest = Manifest(
        id=ID, tier=Tier.DAILY, run="r", started=NOW, ended=NOW, started_local="", ended_local="", zone="UTC",
        product_version="1", artifacts=tuple(artifacts), volumes=tuple(parts),
    )  # fmt: skip
    (tier / manifest_name(ID)).write_bytes(to_json(manifest))


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """`media` with files alone, `more` with a link and an empty directory."""
    for name in ("volumes/media/uploads/2025", "volumes/more/empty", "backups/daily", "spool"):
        (tmp_path / name).mkdir(0o700, parents=True)
    for name in ("invoice.pdf", "photo.jpg", "x"):
        (tmp_path / "volumes/media/uploads/2025" / name).write_text(name)
    (tmp_path / "volumes/more/file").write_text("more")
    (tmp_path / "volumes/more/link").symlink_to("file")
    return tmp_path / "volumes"


@pytest.fixture
def restore(
    tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Said]:
    """The command with `--only media`, words added; exit code, stdout, stderr."""
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "backups"))
    monkeypatch.setenv("BACKUP_VOLUMES_DIR", str(volumes))
    monkeypatch.setenv("BACKUP_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.delenv("container", raising=False)
    umask = os.umask(0o077)

    def said(*words: str, which: str = ID) -> tuple[int, str, str]:
        code = main(["restore", which, "--only", "media", *words])
        return code, *capfd.readouterr()

    yield said
    os.umask(umask)


def told(said: tuple[int, str, str]) -> str:
    assert said[0] == 44, said
    return said[1] + said[2]


@pytest.mark.parametrize("words", [("--dry-run",), ("--force",)])
def test_a_path_that_is_in_no_archive_is_said_with_the_nearest_names(
    restore: Said, volumes: Path, tmp_path: Path, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "backups/daily", volumes)
    before = sorted(tmp_path.rglob("*"))
    near = told(restore("--path", "uploads/2025/invoise.pdf", *words))
    assert "holds nothing called 'uploads/2025/invoise.pdf'; nothing was touched" in near
    assert "Did you mean 'uploads/2025/invoice.pdf'?" in near
    # Beside one that is there, in another directory, and a directory; with nothing like it.
    assert "'uploads/2025/x'?" in told(restore("--path", "uploads/2025/x", "--path", "uploads/2024/x", *words))
    assert "'uploads/2025'?" in told(restore("--path", "upload/2025", *words))
    assert "'link'?" in told(restore("--path", "lino", *words))
    assert "Did you" not in told(restore("--path", "quite/other", *words))
    assert "'uploads/2025/x'?" in told((main(["cat", ID, "--path", "uploads/2024/x"]), *capfd.readouterr()))
    # Only records and logs are new.
    made = {path.relative_to(tmp_path).parts[1] for path in set(tmp_path.rglob("*")) - set(before)}
    assert made <= {"logs", "state"} and not list((tmp_path / "backups").glob("state/runs/*"))


def test_links_and_empty_directories_are_found_though_no_index_has_them(
    restore: Said, volumes: Path, tmp_path: Path
) -> None:
    stored(tmp_path / "backups/daily", volumes)
    for path, volume in (("link", "more"), ("empty", "more"), ("uploads/2025", "media"), ("more/link", "more")):
        code, out, _ = restore("--path", path, "--dry-run", "--json")
        (found,) = json.loads(out)["paths"]
        assert (code, found["volume"], found["path"]) == (0, volume, path.removeprefix("more/"))


def test_without_an_index_the_archive_says_it(restore: Said, tmp_path: Path) -> None:
    path = tmp_path / "media_old.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "volumes/media", "media")
    code, out, _ = restore("--path", "uploads/2025/x", "--dry-run", which=str(path))
    assert code == 0 and "uploads/2025/x" in out
    assert "'uploads/2025/x'?" in told(restore("--path", "uploads/x", "--dry-run", which=str(path)))


def test_what_could_not_come_back_as_it_was_is_said_and_recorded(restore: Said, volumes: Path, tmp_path: Path) -> None:
    path = tmp_path / "media_old.tar.gz"
    os.mkfifo(volumes / "media/uploads/2025/\x1b[31mpipe")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(volumes / "media", "media")
    (volumes / "more").rename(tmp_path / "more")
    code, out, errors = restore("--path", "uploads/2025", "--force", which=str(path))
    words = r"media: FIFOs and devices were left out (uploads/2025/\x1b[31mpipe)"
    assert code == 0 and words in out + errors, out + errors
    (record,) = Records(tmp_path / "backups/state/runs").all()
    assert (record.outcome, record.message) == ("success", words)
    assert restore("--path", "uploads/2025/\x1b[31mpipe", "--dry-run", which=str(path))[0] == 44


def test_an_archive_is_read_for_a_path_only_where_it_can_have_it(restore: Said, volumes: Path, tmp_path: Path) -> None:
    stored(tmp_path / "backups/daily", volumes)
    (tmp_path / "backups/daily" / file_name("media", ID, "tar.gz")).write_bytes(b"not an archive")
    # Its index lists all that it holds; that of the other does not.
    told(restore("--path", "no/such", "--dry-run"))
    (tmp_path / "backups/daily" / file_name("more", ID, "tar.gz")).write_bytes(b"not an archive")
    assert restore("--path", "no/such", "--dry-run")[0] == 40


def test_the_nearest_names_are_few_and_printable() -> None:
    near = Near(in_memory(Tier.DAILY, NOW), "a/\x1b[31mname")
    for number in range(1000):
        near.add(b"media/%d/\x1b[31mname" % number)
    near.add(b"media/a/\x1b[31mName")
    assert len(near.names) == 5 and near.names[0] == r"a/\x1b[31mName", near.names
