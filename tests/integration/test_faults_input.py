"""What the operator got wrong is refused before anything is done, all of it in one message."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.faults import ended, failed, judge, strace, unfinished
from tests.support.sidecar import Result, Sidecar

MEDIA = ("create", "daily", "--only", "media")


@pytest.fixture
def target(tmp_path: Path) -> Sidecar:
    """A sidecar without a database."""
    return Sidecar.make(tmp_path, None)


# --- settings ----------------------------------------------------------------------------------------------------


def refused(sidecar: Sidecar, *words: str, **environment: str) -> Result:
    """Exit 10 in one message; nothing was done."""
    result = sidecar.run(*MEDIA, **environment)
    assert result.code == 10 and result.output.count("[ERROR]") == 1, result.output
    for word in words:
        assert word in result.output, f"{word!r} is not in: {result.output}"
    assert list(sidecar.root.iterdir()) == [] and "Traceback" not in result.output
    return result


def test_all_problems_are_in_one_message(target: Sidecar, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    refused(
        target,
        "9 problems",
        "BACKUP_RETENSION is not a setting",
        "BACKUP_DALY is not a setting; did you mean BACKUP_DAILY?",
        "DB_PASSWORD_FILE=/nothere",
        "DB_USER_FILE=",
        "the file is empty",
        "unknown time zone 'Mars/Base'",
        "BACKUP_WEEKLY",
        "BACKUP_COMPRESSION",
        "DB_PORT",
        "BACKUP_STALL_TIMEOUT",
        BACKUP_RETENSION="7",
        BACKUP_DALY="0 2 * * *",
        DB_PASSWORD_FILE="/nothere",
        DB_USER_FILE=str(tmp_path / "empty"),
        TZ="Mars/Base",
        BACKUP_WEEKLY="61 2 * * *",
        BACKUP_COMPRESSION="11",
        DB_PORT="postgres",
        BACKUP_STALL_TIMEOUT="0",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (b"two\nlines\n", "one line"),
        (b"canary-secret\n\n", "one line"),
        (b"canary-secret\0", "one line"),
        (b"canary-secret" * 400, "one line of at most 4096 bytes"),
        (b"canary-secret\xff", "not UTF-8"),
    ],
)
def test_a_secret_that_is_none(target: Sidecar, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    result = refused(target, "DB_PASSWORD_FILE=", words, DB_PASSWORD_FILE=str(tmp_path / "secret"))
    assert "canary" not in result.output


def test_a_secret_that_is_a_directory_or_given_twice(target: Sidecar, tmp_path: Path) -> None:
    refused(target, "DB_PASSWORD_FILE=", "Is a directory", DB_PASSWORD_FILE=str(tmp_path))
    (tmp_path / "secret").write_text("x")
    both = {"DB_PASSWORD": "canary-secret", "DB_PASSWORD_FILE": str(tmp_path / "secret")}
    assert "canary" not in refused(target, "DB_PASSWORD and DB_PASSWORD_FILE are both set", **both).output


@pytest.mark.parametrize("cron", ["", "* * * *", "31 2 32 * *", "x", "0 2 31 2 *", "@reboot", "* * * * * * *"])
def test_a_schedule_that_is_none(target: Sidecar, cron: str) -> None:
    if not cron:  # an empty variable is what Compose passes for an unset one
        assert target.run(*MEDIA, BACKUP_DAILY=cron).code == 0
    else:
        refused(target, "BACKUP_DAILY", BACKUP_DAILY=cron)


def test_escape_codes_are_shown_as_text(target: Sidecar) -> None:
    result = refused(target, r"\x1b[2J", TZ="\x1b[2J", DB_HOST="a b\x1b[2J", **{"BACKUP_\x1b[2J": "1"})
    assert "\x1b" not in result.output


# --- volumes -----------------------------------------------------------------------------------------------------


def test_no_volume(target: Sidecar, tmp_path: Path) -> None:
    empty = tmp_path / "none"
    empty.mkdir()
    for path in (empty, tmp_path / "missing"):
        result = target.run(*MEDIA, BACKUP_VOLUMES_DIR=str(path))
        failed(target, result, 20, "no volume is mounted", "media_volume:/volumes/media:ro", "BACKUP_ALLOW_EMPTY=none")
    assert target.run(*MEDIA, BACKUP_VOLUMES_DIR=str(empty), BACKUP_ALLOW_EMPTY="none").code in (0, 20)


def test_an_empty_volume(target: Sidecar) -> None:
    (target.media / "uploads" / "a.txt").unlink()
    said = failed(target, target.run(*MEDIA), 20, "the volume media is empty", "forgotten mount", "nothing was started")
    assert "BACKUP_ALLOW_EMPTY=media" in said and target.files() == {}
    result = target.run(*MEDIA, BACKUP_ALLOW_EMPTY="media")
    assert result.code == 0, result.output
    assert len(judge(target.root)) == 1


def test_a_volume_of_excluded_files_alone_is_an_empty_one(target: Sidecar) -> None:
    failed(target, target.run(*MEDIA, BACKUP_MEDIA_EXCLUDE="*.txt"), 20, "the volume media is empty")


def test_a_file_that_cannot_be_read(target: Sidecar, tmp_path: Path) -> None:
    """A disk that fails under the application's files."""
    only = ("-P", str(target.media / "uploads" / "a.txt"), "-e", "trace=pread64", "-e", "inject=pread64:error=EIO")
    with target.start(*MEDIA, prefix=strace(tmp_path / "trace", *only)) as process:
        failed(target, ended(process), 20, "a.txt cannot be read", "Input/output error", "kernel log")
    assert target.files() == {} and unfinished(target.root) == []


def test_a_volume_that_may_not_be_read(target: Sidecar, tmp_path: Path) -> None:
    """Root without the right to read everything, as a container without DAC_READ_SEARCH is."""
    (target.media / "uploads").chmod(0)
    os.chown(target.media / "uploads", 1000, 1000)
    without = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    with target.start(*MEDIA, prefix=without) as process:
        failed(target, ended(process), 20, "uploads cannot be read", "Permission denied", "DAC_READ_SEARCH")
    assert target.files() == {}


def test_a_name_that_no_archive_can_have(target: Sidecar) -> None:
    (target.volumes / "-evil \x1b[2J").mkdir()
    said = failed(target, target.run(*MEDIA), 20, "has no valid name for an archive", r"\x1b[2J")
    assert "\x1b" not in said


def test_a_backup_volume_inside_a_volume(target: Sidecar) -> None:
    inside = target.media / "backups"
    inside.mkdir(mode=0o700)
    result = target.run(*MEDIA, BACKUP_DIR=str(inside))
    assert result.code == 10 and "archived into themselves" in result.output
    assert list(inside.iterdir()) == []
    around = target.run(*MEDIA, BACKUP_VOLUMES_DIR=str(target.root / "volumes"))
    assert around.code == 10 and "archived into themselves" in around.output


def test_a_link_is_no_volume(target: Sidecar) -> None:
    (target.volumes / "etc").symlink_to("/etc")
    result = target.run(*MEDIA)
    assert result.code == 0 and not [name for name in target.files() if "_etc_" in name]


def test_a_file_that_changes_while_it_is_read(target: Sidecar) -> None:
    path, done = target.media / "uploads" / "growing", threading.Event()
    path.write_bytes(bytes(1 << 20))

    def grow() -> None:
        with path.open("ab") as file:
            while not done.is_set():
                file.write(b"x" * 4096)
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        result = target.run(*MEDIA)
    finally:
        done.set()
        writer.join()
    assert result.code == 3, result.output
    assert "complete with changes" in result.output and "growing" in result.output
    run, stored = target.runs()[0], target.sets()[0]
    assert (run.outcome, run.exit_code, stored.state) == ("complete with changes", 3, "complete with changes")
    assert stored.manifest and [c.path for c in stored.manifest.volumes[0].changed] == ["uploads/growing"]
    archive = next((target.root / "daily").glob("*.tar.gz"))
    subprocess.run(["tar", "-tzf", str(archive)], check=True, capture_output=True)
    assert target.run("show", "latest").output.count("uploads/growing") == 1
