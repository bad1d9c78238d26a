"""A path is in a set or not, and that is said before anything is touched: by an index, or else by an archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.app import restore as restore_app
from backup.catalog.run_records import Records
from backup.cli import main
from backup.media import archive_tree
from backup.model.backup_set import manifest_name
from backup.model.manifest import Artifact, Manifest, Tier, VolumePart, file_name, to_json
from backup.operations.inspect.file_index import Near
from tests.support.forked_helper import in_fork
from tests.support.schemas import checked
from tests.support.set_factory import in_memory

ID = "daily_2026-01-02_03-04-05"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Said = Callable[..., tuple[int, str, str]]


def stored(tier: Path, volumes: Path) -> None:
    """A set of the volumes that are here."""
    parts, artifacts = [], []
    for volume in sorted(path.name for path in volumes.iterdir()):
        archive, index = io.BytesIO(), io.BytesIO()
        report = archive_tree.archive(volumes / volume, volume, archive, index)
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
    monkeypatch.setattr(restore_app, "in_child", in_fork)
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
        (found,) = checked(out)["paths"]
        assert (code, found["volume"], found["path"]) == (0, volume, path.removeprefix("more/"))


def test_without_an_index_the_archive_says_it(restore: Said, tmp_path: Path) -> None:
    path = tmp_path / "media_old.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "volumes/media", "media")
    code, out, _ = restore("--path", "uploads/2025/x", "--dry-run", which=str(path))
    assert code == 0 and "uploads/2025/x" in out
    assert "'uploads/2025/x'?" in told(restore("--path", "uploads/x", "--dry-run", which=str(path)))


SHAPES = {
    "of the volume": ("-C", "volumes", "media"),
    "from here": ("-C", "volumes", "./media"),
    "from within": ("-C", "volumes/media", "."),
    "of another name": ("-C", "other", "saved"),
    "with a label": ("--label=uploads", "-C", "volumes", "media"),
    "listed": ("--listed-incremental=snapshot", "-C", "volumes", "media"),
}


def shaped(at: Path, to: Path, shape: str) -> list[str]:
    """An archive of the volume; how it names the file x there, as `tar -t` shows it."""
    (at / "volumes/more").exists() and (at / "volumes/more").rename(at / "more")
    shutil.copytree(at / "volumes/media", at / "other/saved")
    subprocess.run(["tar", "-czf", to, *SHAPES[shape]], cwd=at, check=True)
    listed = subprocess.run(["tar", "-tzf", to], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name.endswith("/2025/x")]


@pytest.mark.parametrize(
    ("shape", "imported"),
    [*((shape, False) for shape in SHAPES), *((shape, True) for shape in ("from within", "of another name", "listed"))],
)
@pytest.mark.long
def test_a_path_is_found_as_tar_shows_it_and_as_it_is_in_the_volume(
    restore: Said, tmp_path: Path, shape: str, imported: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    archive, live = tmp_path / file_name("media", ID, "tar.gz"), tmp_path / "volumes/media/uploads/2025/x"
    (shown,) = shaped(tmp_path, archive, shape)
    if not imported:
        archive = archive.rename(tmp_path / "by hand.tgz")
    elif shape == "of another name":
        assert main(["import", str(archive)]) == 40 and "lies outside of media/" in "".join(capfd.readouterr())
        return
    else:
        assert main(["import", str(archive)]) == 0, capfd.readouterr()
    which = ID if imported else str(archive)
    assert main(["verify", which]) == 0, capfd.readouterr()
    capfd.readouterr()
    names = dict.fromkeys((shown, "uploads/2025/x", "media/uploads/2025/x", "/volumes/media/uploads/2025/x"))
    for number, path in enumerate(names):
        code, out, errors = restore("--path", path, "--dry-run", "--json", which=which)
        assert code == 0 and [each["path"] for each in checked(out)["paths"]] == ["uploads/2025/x"], errors
        if number > 1:
            continue
        live.write_text("damaged")
        for kept in (tmp_path / "volumes/media").glob(".obcms-restore-file-*"):
            shutil.rmtree(kept)  # named by the second
        code, out, errors = restore("--path", path, "--force", which=which)
        assert (code, live.read_text()) == (0, "x"), out + errors
        code, out, errors = main(["cat", which, "--path", path]), *capfd.readouterr()
        assert (code, out) == (0, "x"), errors
    near = told(restore("--path", shown.replace("/2025/x", "/2025/invoise.pdf"), "--force", which=which))
    assert "Did you mean 'uploads/2025/invoice.pdf'?" in near
    live.write_text("damaged")
    code, out, errors = restore("--force", "--no-safety", which=which)
    assert (code, live.read_text()) == (0, "x"), out + errors


@pytest.mark.parametrize("shape", ["from within", "of another name"])
def test_of_what_volume_it_is_may_be_unknown_but_not_what_it_holds(
    restore: Said, tmp_path: Path, shape: str, capfd: pytest.CaptureFixture[str]
) -> None:
    archive = str(tmp_path / "by hand.tgz")
    (shown,) = shaped(tmp_path, Path(archive), shape)
    (tmp_path / "volumes/another").mkdir()
    for path in (shown, "uploads/2025/x"):
        for words in (("--dry-run",), ("--force",)):
            code, out, errors = restore("--path", path, *words, which=archive)
            assert code == 50 and "not known which volume" in out + errors
            near = told(restore("--path", path.replace("/x", "/invoise.pdf"), *words, which=archive))
            assert "Did you mean 'uploads/2025/invoice.pdf'?" in near
        assert (main(["cat", archive, "--path", path]), capfd.readouterr().out) == (0, "x")
        assert main(["verify", archive]) == 0 and capfd.readouterr()


def test_the_path_in_the_volume_goes_before_what_tar_shows(
    restore: Said, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the name is: the alphabet had a say in it."""
    for name in ("a", "z"):
        (tmp_path / "volumes/media/media").mkdir(exist_ok=True)
        for path in (name, f"media/{name}"):
            (tmp_path / "volumes/media" / path).write_text(path)
    shaped(tmp_path, tmp_path / "by hand.tgz", "of the volume")
    for name in ("a", "z"):
        code, out, errors = restore(
            "--path", f"media/{name}", "--dry-run", "--json", which=str(tmp_path / "by hand.tgz")
        )
        assert code == 0 and [each["path"] for each in checked(out)["paths"]] == [f"media/{name}"], errors
        assert main(["cat", str(tmp_path / "by hand.tgz"), "--path", f"media/{name}"]) == 0
        assert capfd.readouterr().out == f"media/{name}"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("more", [False, True], ids=["alone", "and more"])
def test_a_file_that_is_called_as_the_volume_is_not_taken_for_its_folder(
    restore: Said, tmp_path: Path, capfd: pytest.CaptureFixture[str], packed: bool, more: bool
) -> None:
    """Its content was thrown away, and the restore was a success."""
    for name in ("media", "x"):
        (tmp_path / name).write_text("content")
    words = ["tar", "-czf" if packed else "-cf", file_name("media", ID, "tar.gz"), "media", *(["x"] if more else [])]
    subprocess.run(words, cwd=tmp_path, check=True)
    (tmp_path / "volumes/more").rename(tmp_path / "more")
    archive = str(tmp_path / words[2])
    for command in (["import", archive], ["verify", archive], ["restore", archive, "--only", "media", "--force"]):
        code, said = main(command), "".join(capfd.readouterr())
        assert code in (40, 50) and "'media'" in said and "not a directory" in said, (command, code, said)
    assert not (tmp_path / "backups/daily" / words[2]).exists()
    renamed = str((tmp_path / words[2]).rename(tmp_path / "by hand"))
    for command in (["verify", renamed], ["restore", renamed, "--only", "media", "--force"]):
        code, said = main(command), "".join(capfd.readouterr())
        assert code == 40 and "begins with 'media', which is not a directory" in said, (command, code, said)
    assert (tmp_path / "volumes/media/uploads/2025/x").read_text() == "x"


def test_one_of_a_set_of_volumes_is_refused_by_that_name(
    restore: Said, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "volumes/media/big").write_bytes(os.urandom(300_000))
    (tmp_path / "volumes/more").rename(tmp_path / "more")
    script = 'sh -c "echo $PWD/$TAR_VOLUME.tar >&$TAR_FD"'
    words = ["tar", "-c", "-M", "-L", "200", f"--new-volume-script={script}", "-f", "1.tar", "-C", "volumes"]
    subprocess.run([*words, "media/big", "media"], cwd=tmp_path, check=True)
    for command in (["verify"], ["restore", "--only", "media", "--force"]):
        code, said = main([command[0], str(tmp_path / "2.tar"), *command[1:]]), "".join(capfd.readouterr())
        assert code == 40 and "one part of a multi-volume set" in said and "tar -xM -f FIRST" in said, said


def test_what_could_not_come_back_as_it_was_is_said_and_recorded(restore: Said, volumes: Path, tmp_path: Path) -> None:
    path = tmp_path / "media_old.tar.gz"
    os.mkfifo(volumes / "media/uploads/2025/\x1b[31mpipe")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(volumes / "media", "media")
        second = tarfile.TarInfo("media/uploads/2025/second")
        second.type, second.linkname = tarfile.LNKTYPE, "media/uploads/2025/\x1b[31mpipe"
        tar.addfile(second)
    (volumes / "more").rename(tmp_path / "more")
    code, out, errors = restore("--path", "uploads/2025", "--force", which=str(path))
    words = r"media: FIFOs and devices were left out (uploads/2025/\x1b[31mpipe and 1 more)"
    assert code == 0 and words in out + errors, out + errors
    (record,) = Records(tmp_path / "backups/state/runs").all()
    assert (record.outcome, record.message) == ("success", words)
    for name in ("\x1b[31mpipe", "second"):
        assert restore("--path", f"uploads/2025/{name}", "--dry-run", which=str(path))[0] == 44
    assert main(["verify", str(path)]) == 0
    code, out, errors = restore("--force", "--no-safety", which=str(path))
    assert code == 0 and "2025/\\x1b[31mpipe and 1 more" in out + errors, out + errors


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
