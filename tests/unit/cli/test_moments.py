"""The command moments, and the window in status and monitor, as they are called."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup import logging
from backup.cli import main
from tests.support.receivers import free_port
from tests.support.schemas import checked
from tests.support.windows import SIZE, a_base, a_stream, on_disk

HOUR = timedelta(hours=1)
SLOT = {"name": "s", "held": 5}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty backup volume, with point-in-time recovery switched on and no service behind the port."""
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path))
    monkeypatch.setenv("BACKUP_HTTP_PORT", "1")
    monkeypatch.setenv("BACKUP_PITR", "on")
    umask = os.umask(0o077)
    yield tmp_path
    os.umask(umask)
    logging._runs.clear()
    logging._ended.clear()
    logging.setup_logging(UTC)


@pytest.fixture
def filled(root: Path) -> Path:
    """A gap of half an hour, two hours ago."""
    now = datetime.now(UTC).replace(microsecond=400_000)
    bases = [a_base(5, now - 4 * HOUR, size=100), a_base(9, now - 1.5 * HOUR, size=100)]
    whole = {5: now - 3 * HOUR, 6: now - 2 * HOUR, 9: now - HOUR, 10: now - HOUR / 2}
    on_disk(root, bases, whole, a_stream(11, now, now, message="two\nlines\x1b[31m", slot=SLOT))
    return root


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> list[list[str]]:
    assert main(list(argv)) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_lines_tell_spans_breaks_bases_and_the_stream(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "moments")
    assert [line[0] for line in found] == ["window", "span", "broken", "span", "base", "base", "wal", "stream"]
    assert "; broken " in found[0][1] and found[1][2] == found[2][1]
    # No second is promised that is held in part.
    assert datetime.fromisoformat(found[1][1]) >= datetime.fromisoformat(found[4][2]) + timedelta(seconds=1)
    assert (found[6][1:], found[7][1]) == (
        ["4", str(9 + SIZE)],
        "the stream is streaming; 4.1 kB behind; two lines\\x1b[31m; s keeps 5 B of WAL",
    )


def test_programs_get_the_same(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moments", "--json"]) == 0
    found = checked(capsys.readouterr().out)
    assert (found["on"], found["live"], len(found["spans"]), len(found["breaks"])) == (True, True, 2, 1)
    assert found["breaks"][0]["start"] == found["spans"][0]["end"] and len(found["bases"]) == 2
    assert found["spans"][1]["bases"] == [found["bases"][1]["id"]] and found["stream"]["lag_bytes"] == 4096
    assert found["text"].startswith("any moment from")


def test_status_and_monitor_have_a_line(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["status"], ["monitor"]):
        assert main(argv) == 0
        assert "moments:" in (out := capsys.readouterr().out) and "; broken " in out and "s keeps 5 B of WAL" in out
    assert main(["status", "--json"]) == 0
    assert checked(capsys.readouterr().out)["window"]["live"] is True


def test_health_speaks_of_it(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["monitor", "--alert"])
    assert "moments that cannot be brought back" in capsys.readouterr().out


def test_du_takes_it_for_ours(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["du", "--json"]) == 0
    found = checked(capsys.readouterr().out)
    assert found["other_bytes"]["wal"] > SIZE and "foreign" not in found["other_bytes"]


def test_off_shows_nothing_and_asks_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_PITR", "off")
    monkeypatch.setattr("backup.operations.status.read_window", lambda *_: pytest.fail("the WAL was looked at"))
    for argv in (["status"], ["monitor", "--report"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        assert "moments" not in out and "WAL" not in out and "Point-in-Time" not in out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["window"] is None


def test_off_says_how_to_switch_it_on(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_PITR", "off")
    assert main(["moments"]) == 0
    said = capsys.readouterr()
    assert (said.out, "BACKUP_PITR=on" in said.err) == ("", True)
    assert main(["moments", "--json"]) == 0
    assert checked(capsys.readouterr().out)["on"] is False


def test_what_is_there_is_shown_although_it_is_off(
    filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_PITR", "off")
    assert len(lines(capsys, "moments")) == 8


def test_damage_is_told_beside_what_is_whole(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((filled / "wal").glob("*/bases/*.json")).write_text("{")
    assert main(["moments"]) == 0
    said = capsys.readouterr()
    assert "cannot be read" in said.err and len([line for line in said.out.splitlines() if line[:4] == "base"]) == 1


def test_a_search_needs_to_know_how_many_rows_and_a_moment(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moments", "--table", "t"]) == 2 and "need --lost" in capsys.readouterr().err
    assert main(["moments", "--lost", "9", "--since", "soon"]) == 2
    assert "is not a moment" in " ".join(capsys.readouterr().err.split())
    assert main(["moments", "--lost", "-1"]) == 2


def test_a_search_without_wal_says_that_there_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_NAME", "obcms_prod")
    assert main(["moments", "--lost", "9"]) == 44
    assert "moments" in capsys.readouterr().out


def test_what_was_sent_to_a_place_is_told_here_and_by_the_place_itself(
    filled: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = tmp_path_factory.mktemp("copies")
    monkeypatch.setenv("BACKUP_COPY_DIR", str(copies))
    monkeypatch.setenv("BACKUP_PITR_OFFSITE_EVERY", "0")
    # What was laid there has not the bytes of its records: so nothing of it is sent.
    assert main(["ship", "--once"]) == 40
    assert not any(copies.rglob("*.json"))
    (told,) = [line for line in lines(capsys, "moments") if line[0] == "offsite"]
    assert told[1] == "copy" and told[2].startswith("no moment yet") and str(copies) in told[2]
    found = lines(capsys, "moments", "--from", "copy")
    assert found[0][1].startswith("no moment yet") and found[-1][1] == f"as {copies} lists it"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("moments", "--from", "tape"), 2),
        (("moments", "--from", "s3"), 10),
        (("create", "--from", "s3"), 2),
        (("create", "--at", "1 minute ago", "--from", "tape"), 2),
        (("restore", "latest", "--from", "s3"), 2),
        (("ship", "--once"), 10),
    ],
)
def test_a_place_that_is_none_or_not_set_is_refused(root: Path, words: tuple[str, ...], code: int) -> None:
    assert main(list(words)) == code


def test_nothing_is_sent_where_no_wal_is_received(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_PITR", "off")
    monkeypatch.setenv("BACKUP_COPY_DIR", str(root / "copies"))
    assert main(["ship", "--once"]) == 10


@pytest.mark.parametrize(("days", "code"), [("20", 2), ("21", 32), ("0", 32)])
def test_a_rule_of_the_bucket_may_not_take_what_a_moment_needs(
    root: Path, monkeypatch: pytest.MonkeyPatch, days: str, code: int
) -> None:
    monkeypatch.setenv("AWS_S3_BACKUP_BUCKET", "copies")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    assert main(["offsite", "setup", "--wal-days", days]) == code
