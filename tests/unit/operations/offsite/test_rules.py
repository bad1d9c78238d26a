"""What is due, when a failure is tried again, and what people are told."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.app.composition import App
from backup.app.places import bucket_options, memory
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.config.loader import load_settings
from backup.errors import ConfigError, RemoteFailed
from backup.logging import logger
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.operations import status
from backup.operations.jobs import JOB_COMMANDS, job_of, jobs, operation_of, tier_of
from backup.operations.offsite import copy_status
from backup.operations.offsite.remote_state import Book
from backup.operations.offsite.rules import pause, tiers_due, uploads
from backup.service.followup_jobs import UploadQueue
from tests.support.set_factory import in_memory
from tests.unit.operations.offsite.conftest import NOW, Stack

HOUR = timedelta(hours=1)
BUCKET = {"AWS_S3_BACKUP_BUCKET": "bucket"}


def run(hours: float, outcome: Outcome, tier: str = "daily", operation: str = "upload") -> Run:
    began = NOW - hours * HOUR
    return Run(
        id=f"r{hours}", operation=operation, tier=tier, started=began, ended=began, outcome=outcome, message="403"
    )


@pytest.mark.parametrize(
    ("runs", "failures", "minutes"),
    [
        ([], 0, None),
        ([run(1, Outcome.SUCCESS)], 0, None),
        ([run(1, Outcome.FAILED)], 1, -45),
        ([run(2, Outcome.FAILED), run(1, Outcome.CRASHED)], 2, -30),
        ([run(3, Outcome.FAILED), run(2, Outcome.SUCCESS), run(1, Outcome.FAILED)], 1, -45),
        ([run(2, Outcome.FAILED), run(1, Outcome.INTERRUPTED)], 1, -105),
        ([run(2, Outcome.FAILED, "weekly"), run(1, Outcome.FAILED, operation="copy")], 0, None),
        ([run(2, Outcome.FAILED, "")], 1, -105),
        ([run(hours / 10, Outcome.FAILED) for hours in range(20)], 20, 240),
    ],
)
def test_failures_make_the_next_try_wait(runs: list[Run], failures: int, minutes: float | None) -> None:
    found = pause(runs, "upload", Tier.DAILY)
    assert found == (failures, None if minutes is None else NOW + timedelta(minutes=minutes))


def test_what_follows_a_backup_is_due_at_once_and_a_schedule_only_after_a_failure() -> None:
    unsent = [in_memory(Tier.DAILY, NOW - HOUR), in_memory(Tier.MONTHLY, NOW - 2 * HOUR)]
    args = ([Tier.DAILY], [Tier.MONTHLY], unsent)
    assert tiers_due(*args, [], "upload", NOW) == [Tier.DAILY]
    assert tiers_due(*args, [run(1, Outcome.FAILED, "monthly")], "upload", NOW) == [Tier.DAILY, Tier.MONTHLY]
    assert tiers_due(*args, [run(0.1, Outcome.FAILED, "")], "upload", NOW) == []
    assert tiers_due([Tier.DAILY], [], [], [], "upload", NOW) == []
    # A clock that was ahead keeps nothing waiting for years.
    assert tiers_due(*args, [run(-9000, Outcome.FAILED)], "upload", NOW) == [Tier.DAILY]


def test_the_service_uploads_after_each_backup_one_at_a_time(stack: Stack) -> None:
    started: list[tuple[str, ...]] = []

    def spawn(words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        started.append(words)
        return subprocess.Popen(["sleep", "0.2"])

    queue = UploadQueue(stack.catalog, stack.records, spawn, ["s3"], {Tier.DAILY: "after"}, {})
    queue.tick(stack.now, 1.0)
    assert started == []
    stack.make()
    queue.tick(stack.now, 30.0)
    assert started == []
    queue.tick(stack.now, 62.0)
    assert started == [("upload", "daily", "--trigger", "after the backup")]
    queue.tick(stack.now, 130.0)
    assert len(started) == 1 and queue._child
    queue._child.wait()
    stack.upload()
    queue.tick(stack.now, 200.0)
    assert len(started) == 1
    assert job_of(started[0]) == ""


def test_jobs_are_those_of_the_settings() -> None:
    off = jobs(load_settings({}))
    assert not any(cron for job, cron in off.items() if job.startswith(("upload", "offsite")))
    some = jobs(load_settings(BUCKET | {"BACKUP_UPLOAD_DAILY": "after", "BACKUP_UPLOAD_WEEKLY": "1 2 * * *"}))
    assert (
        some["upload-daily"] == "" and some["upload-weekly"] == "1 2 * * *" and some["upload-monthly"] == "30 4 1 * *"
    )
    assert some["offsite-verify"] and some["offsite-drill"] and some["offsite-prune"] == ""
    assert uploads(load_settings(BUCKET | {"BACKUP_UPLOAD_MONTHLY": "off"})) == {}
    for job, words in JOB_COMMANDS.items():
        assert job_of(words) == job
    assert (operation_of("upload-daily"), tier_of("upload-daily")) == ("upload", "daily")
    assert (operation_of("offsite-drill"), tier_of("offsite-drill")) == ("offsite-drill", "")
    assert (operation_of("weekly"), tier_of("weekly"), tier_of("drill")) == ("create", "weekly", "")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "a"}, "go together"),
        ({"AWS_SESSION_TOKEN": "a"}, "goes with AWS_ACCESS_KEY_ID"),
        ({"AWS_S3_BACKUP_BUCKET": "a/b"}, "not the name of a bucket"),
        ({"AWS_S3_BACKUP_PREFIX": "a/../b"}, "not a folder of a bucket"),
        ({"AWS_ENDPOINT_URL_S3": "file:///x"}, "must be an http"),
        ({"AWS_ENDPOINT_URL_S3": "https://u:p@x"}, "not contain user and password"),
        ({"AWS_ENDPOINT_URL_S3": "http://s3_store:9000"}, "aliases: [s3-store]"),
        ({"AWS_REGION": "us east"}, "not the name of a region"),
        ({"BACKUP_OFFSITE_OWNER": "me"}, "twelve digits"),
        ({"BACKUP_OFFSITE_KMS_KEY": "k"}, "needs BACKUP_OFFSITE_SSE"),
        ({"BACKUP_COPY_DIR": "copies"}, "not an absolute path"),
        ({"BACKUP_COPY_DIR": "/backups/copies"}, "must lie apart"),
        ({"BACKUP_UPLOAD_DAILY": "sometimes"}, ""),
    ],
)
def test_settings_that_cannot_work_are_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(environ)
    assert words in raised.value.message


def test_keys_may_be_files_and_are_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary-key\n")
    (tmp_path / "secret").write_text("canary-secret\n")
    files = {"AWS_ACCESS_KEY_ID_FILE": f"{tmp_path}/key", "AWS_SECRET_ACCESS_KEY_FILE": f"{tmp_path}/secret"}
    settings = load_settings(BUCKET | files | {"AWS_S3_BACKUP_PREFIX": "/obcms"})
    assert {"canary-key", "canary-secret"} <= set(settings.secrets) and "canary" not in repr(settings)
    assert settings.bucket_prefix == "obcms/"


@pytest.mark.long
def test_the_third_clock_tells_what_is_offsite(stack: Stack) -> None:
    made = stack.make(tier=Tier.MONTHLY)
    stack.now = datetime.now(UTC)
    environ = BUCKET | {"BACKUP_DIR": str(stack.root)}

    def clock(**more: str) -> tuple[str, str, str]:
        app = App(load_settings(environ | more))
        seen = status.overview(app.settings, app.catalog, app.records, NOW + HOUR)
        texts = " ".join(
            each.text for each in seen.health.reasons if "s3://bucket" in each.text or "offsite" in each.text
        )
        return seen.clocks[2].status, seen.clocks[2].note, texts

    assert clock() == ("starting", "none yet at s3://bucket; 1 set waiting, 96 B", "") or clock()[0] == "starting"
    assert "1 set waiting" in clock()[1] and clock(BACKUP_UPLOAD_MONTHLY="off")[1] == "none yet at s3://bucket"
    state, _, texts = clock(BACKUP_OFFSITE_MAX_AGE_HOURS="1")
    assert state == "warn" and "no set has reached s3://bucket" in texts
    stack.now = NOW

    def fail(key: str) -> None:
        raise RemoteFailed("403")

    stack.place.fail = fail
    with pytest.raises(RemoteFailed):
        stack.upload()
    state, _, texts = clock()
    assert state == "warn" and "degraded: local only, the last upload to s3://bucket failed" in texts
    stack.place.fail = lambda key: None
    stack.upload()
    assert clock() == ("pass", "at s3://bucket", "")
    app = App(load_settings(environ))
    seen = status.overview(app.settings, app.catalog, app.records, NOW + HOUR)
    assert seen.clocks[2].stored and seen.clocks[2].stored.id == made and seen.offsite[0].sets == 1
    state, _, texts = clock(BACKUP_OFFSITE_MAX_AGE_HOURS="1")
    assert state == "warn" and f"the newest set at s3://bucket, {made}" in texts


def test_a_set_of_files_alone_is_no_newest_copy(stack: Stack) -> None:
    stack.make(halves="m")
    stack.upload()
    seen = copy_status.Seen("s3", "s3://bucket", stack.context().book.read(), [], HOUR)
    assert copy_status.newest_held(seen.book, NOW) is None and copy_status.newest_held(Book(), NOW) is None


def test_a_book_that_is_damaged_is_an_empty_one(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    path = stack.context().book.path
    path.write_text("{")
    assert stack.context().book.read() == Book()
    stack.upload()
    assert stack.context().book.read().copies[made].held
    assert Records(stack.root / "state" / "runs").all() and Catalog(stack.root, ZoneInfo("UTC")).find(made).good


def test_what_a_place_refuses_is_remembered_for_that_place_and_said_once(tmp_path: Path) -> None:
    here = BUCKET | {"BACKUP_DIR": str(tmp_path), "AWS_ENDPOINT_URL_S3": "https://a.example"}
    settings, lines = load_settings(here), list[str]()
    sink = logger.add(lines.append, format="{message}")
    for _ in range(2):
        memory(settings)(frozenset({"checksums"}))
    memory(settings)(frozenset({"checksums", "uploads"}))
    memory(settings, quiet=True)(frozenset({"uploads"}))
    logger.remove(sink)
    assert [line.split()[1] for line in lines] == ["x-amz-checksum-*", "the"]
    assert bucket_options(settings).without == {"uploads"}
    assert bucket_options(load_settings(here | {"AWS_ENDPOINT_URL_S3": "https://b.example"})).without == frozenset()
    (tmp_path / "state" / "offsite-s3-refuses.json").write_text("[")
    assert bucket_options(settings).without == frozenset()
