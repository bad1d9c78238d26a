"""Log lines: their forms, their secrets, their files and what is read back of those."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import logging
from backup.catalog.run_records import Records
from backup.cli import base
from backup.errors import DatabaseUnavailable
from backup.logging import files, logger
from backup.model.run import Outcome, Run

NOW = datetime(2025, 10, 20, 2, tzinfo=UTC)
STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\]"
RUN = "20251020T020000Z-3f9a1c"
OTHER = "20251020T020001Z-aaaaaa"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged, line by line."""
    written: list[str] = []
    _forget()  # tests of other files, in this process, may have begun runs and not ended them
    logging.setup_logging(UTC, written.append)
    yield written
    _forget()
    logging.setup_logging(UTC)


def _forget() -> None:
    logging._runs.clear()
    logging._ended.clear()
    logging._secrets.clear()
    logging._public.intersection_update({"postgres", "public", "backup", "password", "localhost"})


def boom() -> None:
    raise ValueError("canary-17 in the error\x1b[31m")


def test_the_form_of_the_seed(lines: list[str]) -> None:
    logger.info("done: {}", "a\x1b[31mb\nc\u202e")
    assert re.fullmatch(STAMP + r" \[INFO\] done: a\\x1b\[31mb\nc\\u202e\n", lines[0])


@pytest.mark.parametrize("as_json", [False, True])
def test_no_empty_line_follows_what_ends_with_one(
    lines: list[str], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As messages of libraries and servers do."""
    logging.setup_logging(UTC, lines.append, as_json=as_json)
    assert base.fail(DatabaseUnavailable("FATAL: no\n", "Do this.\n\n")) == 20
    text = json.loads(lines[0])["message"] if as_json else lines[0].partition("[ERROR] ")[2]
    assert text == "FATAL: no\n  Do this." + ("" if as_json else "\n")
    try:
        boom()
    except ValueError:
        base.bug()
    assert "\n\n" not in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_in_a_message_or_a_traceback(lines: list[str], as_json: bool) -> None:
    logging.setup_logging(UTC, lines.append, as_json=as_json)
    logging.redacting(["canary-17"])
    logger.info("the password canary-17")
    try:
        boom()
    except ValueError:
        logger.exception("it failed with canary-17")
    text = "".join(lines)
    assert "canary" not in text and "\x1b" not in text
    assert text.count("***") == 4 and "ValueError" in text and "Traceback" in text


@pytest.mark.parametrize("secret", ["postgres", "obcms", "obcms_app"])
def test_a_password_that_is_a_public_word_is_struck_out_where_it_is_a_value(lines: list[str], secret: str) -> None:
    assert not lines
    logging.redacting([secret], ["obcms_app", "db"])
    stays = [
        f"ALTER ROLE {secret} CREATEDB; GRANT pg_maintain TO {secret};",
        f"docker compose exec db psql -U {secret} -d {secret} -c '\\password {secret}'",
        f'FATAL: password authentication failed for user "{secret}"',
        f"postgresql://{secret}@db/{secret}, host=db user={secret} dbname={secret}",
        f"password={secret}_of_another",
    ]
    assert [logging.redacted(line) for line in stays] == stays
    for line in (
        f"ALTER ROLE someone PASSWORD '{secret}'",
        f"PGPASSWORD={secret}",
        f'"password": "{secret}", ',
        f"POSTGRES_PASSWORD: {secret}",
        f"postgresql://{secret}:{secret}@db/{secret}",
        f"*:*:*:*:{secret}",
        f"the secret {secret}",
    ):
        assert line.count(secret) - logging.redacted(line).count(secret) == 1 and "***" in logging.redacted(line), line
    logging.redacting(["canary-18"], ["obcms_app"])
    assert logging.redacted(f"canary-18 of {secret}") == f"*** of {secret}"


def test_json_is_one_object_a_line(lines: list[str]) -> None:
    logging.setup_logging(UTC, lines.append, as_json=True)
    logger.warning("two\nlines {} \x00", "{x}")
    logging.of_run(RUN)
    logger.info("of a run")
    first, second = (json.loads(line) for line in lines)
    assert (first["level"], first["message"]) == ("WARNING", "two\nlines {x} \\x00")
    assert datetime.fromisoformat(first["time"]).tzinfo and "run" not in first
    assert second["run"] == RUN and all(line.count("\n") == 1 for line in lines)


# --- files ------------------------------------------------------------------------------------------------------------


def put(directory: Path, name: str, *entries: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("".join(f"{entry}\n" for entry in entries))


def at(seconds: int, text: str) -> str:
    return f"[{NOW + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}] [INFO] {text}"


def texts(entries: list[files.LogEntry]) -> list[str]:
    return [entry.text.partition("] ")[2].partition("] ")[2] for entry in entries]


def test_each_run_is_found_by_its_mark(lines: list[str], tmp_path: Path) -> None:
    logging.to_file(tmp_path / "logs", "backup", UTC)
    records, now = Records(tmp_path / "runs"), datetime.now(UTC)
    outer, inner = Run(id=RUN, operation="restore", started=now), Run(id=OTHER, operation="create", started=now)
    logger.info("before")
    records.begin(outer)
    logger.info("outer\nwith a second line")
    records.begin(inner)
    logger.info("inner")
    records.end(inner.model_copy(update={"outcome": Outcome.SUCCESS}))
    logger.info(f"outer again  #{OTHER}")
    records.end(outer.model_copy(update={"outcome": Outcome.FAILED}))
    logger.error("the outer run's last word")
    logging.of_run(OTHER)
    logger.info("another, later")
    path = next((tmp_path / "logs").iterdir())
    assert path.name == f"backup-{now:%Y-%m}.log" and path.stat().st_mode & 0o777 == 0o600
    found = files.of_run(path.parent, RUN, now, now, UTC)
    assert texts(found) == ["outer\nwith a second line", f"outer again  #{OTHER}", "the outer run's last word"]
    assert texts(files.of_run(path.parent, OTHER, now, now, UTC)) == ["inner", "another, later"]
    assert not any("#" in line for line in lines if "again" not in line), "stdout is as the seed's users know it"


def test_the_end_of_each_file_by_run(lines: list[str], tmp_path: Path) -> None:
    """However long the file: what stands before the last 64 KiB is not read, a cut line is left out."""
    directory = tmp_path / "logs"
    directory.mkdir()
    old = "".join(f"[2026-01-02 03:04:05] [INFO] filler {n} {'x' * 60}  #{OTHER}\n" for n in range(2000))
    new = f"[2026-01-02 03:04:06] [ERROR] it failed  #{RUN}\n  why\n"
    (directory / "backup-2026-01.log").write_text(old + new)
    (directory / "backup-2025-12.log").write_text(f"[2025-12-02 03:04:06] [INFO] earlier  #{RUN}\n")
    (directory / "verify-2026-01.log").symlink_to("/etc/passwd")
    found = files.recent(directory)
    assert [entry.text for entry in found[RUN]] == ["[2026-01-02 03:04:06] [ERROR] it failed\n  why"]
    assert 0 < len(found[OTHER]) < 1000 and files.recent(tmp_path / "none") == {}


def test_a_run_without_marks_is_found_by_its_time(tmp_path: Path) -> None:
    put(tmp_path, "backup-2025-10.log", at(-5, "before"), at(0, "one"), " more", at(9, "two"), at(60, "after"))
    put(tmp_path, "verify-2025-10.log", at(3, "marked by another") + f"  #{OTHER}", at(4, "verified"))
    found = files.of_run(tmp_path, RUN, NOW, NOW + timedelta(seconds=10), UTC)
    assert texts(found) == ["one\n more", "verified", "two"]
    assert texts(files.of_run(tmp_path, RUN, NOW, NOW + timedelta(seconds=10), UTC, ["backup"])) == [
        "one\n more",
        "two",
    ]


def test_a_tail_is_the_newest_of_all_months(tmp_path: Path) -> None:
    put(tmp_path, "backup-2025-09.log", "[2025-09-30 02:00:00] [INFO] september")
    put(tmp_path, "backup-2025-10.1.log", "cut off", at(0, "rotated"))
    put(tmp_path, "backup-2025-10.log", at(5, "three"), at(7, "four"))
    put(tmp_path, "monitor-2025-10.log", at(6, "seen"))
    put(tmp_path, "notes-2025-10.log", at(6, "foreign"))
    assert texts(files.tail(tmp_path, files.LOG_KINDS, 2)) == ["seen", "four"]
    assert texts(files.tail(tmp_path, files.LOG_KINDS, None)) == ["september", "rotated", "three", "seen", "four"]
    assert texts(files.tail(tmp_path, ["monitor"], 9)) == ["seen"]
    assert files.tail(tmp_path, files.LOG_KINDS, 0) == [] == files.tail(tmp_path / "none", files.LOG_KINDS, 5)


def test_a_file_is_rotated_when_it_is_full(tmp_path: Path) -> None:
    appender = files.Appender(tmp_path, "backup", NOW, 100)
    second = files.Appender(tmp_path, "backup", NOW, 100)
    for number in range(12):
        (appender if number % 2 else second).write(f"{at(number, 'x')}\n".encode())
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes) == ["backup-2025-10.1.log", "backup-2025-10.log"]
    assert all(0 < size <= 100 for size in sizes.values())
    text = "".join((tmp_path / name).read_text() for name in sorted(sizes))
    assert text.count("[INFO]") >= 4, "what another process has just rotated is not rotated again"
    appender.write(b"y" * 500)
    assert (tmp_path / "backup-2025-10.log").stat().st_size == 500, "one entry is never cut"


def test_thirteen_months_of_each_kind_stay(tmp_path: Path) -> None:
    months = [f"{2020 + n // 12}-{n % 12 + 1:02d}" for n in range(20)]
    for month in months:
        put(tmp_path, f"backup-{month}.log", at(0, "x"))
    put(tmp_path, f"backup-{months[0]}.1.log", at(0, "x"))
    put(tmp_path, "verify-2001-01.log", at(0, "x"))
    put(tmp_path, "notes-2001-01.log", at(0, "foreign"))
    (tmp_path / "backup-1999-01.log").symlink_to(tmp_path / "notes-2001-01.log")
    # Ten years ahead: one month more is lost, not all of them.
    files.Appender(tmp_path, "backup", NOW + timedelta(days=3650), 100)
    files.Appender(tmp_path, "backup", NOW + timedelta(days=3650), 100)
    left = {path.name for path in tmp_path.iterdir()}
    assert {f"backup-{month}.log" for month in months[-12:]} <= left and "backup-2035-10.log" in left
    assert f"backup-{months[6]}.log" not in left and f"backup-{months[0]}.1.log" not in left
    assert {"verify-2001-01.log", "notes-2001-01.log", "backup-1999-01.log"} <= left


def test_what_is_no_file_is_never_opened_or_waited_for(tmp_path: Path, lines: list[str]) -> None:
    os.mkfifo(tmp_path / "backup-2025-10.log")
    (tmp_path / "verify-2025-10.log").symlink_to("/etc/passwd")
    (tmp_path / "restore-2025-10.log").mkdir()
    assert files.tail(tmp_path, files.LOG_KINDS, None) == []
    os.mkfifo(tmp_path / f"monitor-{datetime.now(UTC):%Y-%m}.log")
    logging.to_file(tmp_path, "monitor", UTC)
    assert "cannot be written" in lines[0]


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("l")
    (directory / "backup-2025-10.log").write_bytes(at(0, "first").encode() + b"\n" + data)
    assert len(files.tail(directory, files.LOG_KINDS, None)) >= 1
