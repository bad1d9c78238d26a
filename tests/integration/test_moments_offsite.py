"""Any moment from a bucket alone: WAL and base backups go to a real gateway, and the machine is lost."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest

from tests.support.database import start_server
from tests.support.faults import ended, eventually, failed
from tests.support.keys import key_pair
from tests.support.moments import Story, receiving, short_folder
from tests.support.moments_offsite import Bucket, new_machine, said
from tests.support.proxy import proxied
from tests.support.receivers import free_port
from tests.support.s3 import Service
from tests.support.sidecar import Sidecar
from tests.support.versions import FULL_SWEEP, MAJORS

ENCRYPTED = ("all", "offsite")


@dataclass
class Case:
    """One story that was sent on, and its bucket."""

    story: Story
    bucket: Bucket
    encrypt: str = "off"


def stories(*cases: tuple[int, str]) -> pytest.MarkDecorator:
    """On servers of these major versions, encrypted so."""
    return pytest.mark.parametrize("sent", cases, indirect=True, ids=lambda case: f"pg{case[0]}-{case[1]}")


ONE = stories((17, "off"))
# What is sent, and how it is encrypted, is ours: each way of that is tried with another version.
PAIRS = ((17, "off"), (15, "all"), (18, "offsite"))
ALL = stories(*(itertools.product(MAJORS, ("off", *ENCRYPTED)) if FULL_SWEEP else PAIRS))


@pytest.fixture(scope="module")
def sent(request: pytest.FixtureRequest, gateway: Service) -> Iterator[Case]:
    """Two whole segments behind the base and one that is being received, all sent with the key that may not delete."""
    major, encrypt = request.param
    server = start_server(major, f"sent{major}{encrypt}", in_memory=True)
    try:
        with short_folder() as folder:
            settings = gateway.settings()
            bucket = Bucket(gateway, settings["AWS_S3_BACKUP_BUCKET"])
            key = folder / "key"
            keys = {"BACKUP_AGE_RECIPIENTS": key_pair(key), "BACKUP_AGE_IDENTITY_FILE": str(key)}
            keys = keys if encrypt != "off" else {}
            extra = {"BACKUP_PITR": "on", "BACKUP_ENCRYPT": encrypt, **keys, **bucket.writer(settings)}
            sidecar = Sidecar.make(folder, server, **extra)
            story = Story(sidecar, server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int)")
            with receiving(story):
                story.mark("before")
                result = sidecar.run("base")
                assert result.code == 0, result.output
                for number in (1, 2):
                    story.execute(f"INSERT INTO t VALUES ({number})", str(number))
                    server.execute(story.database, "SELECT pg_switch_wal()")
                story.execute("INSERT INTO t VALUES (3)", "3")
                story.level()
                done = sidecar.run("ship", "--once")
                assert done.code == 0, done.output
                story.execute("INSERT INTO t VALUES (4)", "4")
                story.level()
                done = sidecar.run("ship", "--once")
                assert done.code == 0, done.output
                story.mark("end")
                story.execute("INSERT INTO t VALUES (5)", "5")
                story.level()
                yield Case(story, bucket, encrypt)
    finally:
        server.remove()


def partials(bucket: Bucket) -> list[str]:
    """The objects of the segment that is being received."""
    return [key for key in bucket.keys("/segments/") if len(key.split("/")[-1].split(".")[1]) == 8]


def wholes(bucket: Bucket) -> list[str]:
    """The objects of whole segments, oldest first."""
    return [key for key in bucket.keys("/segments/") if key not in partials(bucket)]


@ALL
def test_a_machine_that_has_the_bucket_alone_brings_any_moment_back(sent: Case) -> None:
    with new_machine(sent.story) as story:
        for name, rows in (("1", "1"), ("2", "12"), ("3", "123"), ("4", "1234")):
            result = story.create(name, "--from", "s3")
            assert result.code == 0, result.output
            stored = story.sidecar.catalog.find(result.json["set"])
            assert stored.good and stored.verified and stored.time == story.moments[name]
            if sent.encrypt == "off":
                assert "".join(story.rows(stored.id)) == rows
        assert not (story.sidecar.root / "wal").exists()


@ONE
def test_what_is_behind_the_last_object_is_not_promised(sent: Case) -> None:
    with new_machine(sent.story) as story:
        result = story.create("5", "--from", "s3")
        assert result.code == 44 and "the last possible moment is" in result.output, result.output
        result = story.create("before", "--from", "s3")
        assert result.code == 44 and "the window begins at" in result.output, result.output
        assert story.sidecar.runs() == []


@ONE
def test_a_restore_from_the_bucket_is_told_ahead_and_done(sent: Case) -> None:
    with new_machine(sent.story) as story:
        at = story.moments["3"].isoformat(" ")
        told = story.sidecar.run("restore", "--at", at, "--from", "s3", "--dry-run")
        assert told.code == 0 and "last commit: " in told.output, told.output
        with story.undone():
            done = story.sidecar.run("restore", "--at", at, "--from", "s3", "--force")
            assert done.code == 0, done.output
            assert story.server.value(story.database, "SELECT string_agg(n::text, '' ORDER BY n) FROM t") == "123"
        assert story.server.value(story.database, "SELECT count(*) FROM t") == 5


@ALL
def test_nothing_is_there_in_plain_text_that_is_encrypted_here(sent: Case) -> None:
    objects = [key for key in sent.bucket.keys() if not key.endswith(".json")]
    assert len(objects) > 3 and partials(sent.bucket)
    assert all(key.endswith(".age") for key in objects) == (sent.encrypt in ENCRYPTED)
    start = b"age-encryption.org" if sent.encrypt in ENCRYPTED else b"\x1f\x8b"
    assert all(sent.bucket.get(key).startswith(start) for key in objects)


@ONE
def test_an_object_that_is_missing_breaks_the_window_there_and_is_said(sent: Case) -> None:
    last = wholes(sent.bucket)[-1]
    with sent.bucket.spoilt(last), new_machine(sent.story) as story:
        sent.bucket.delete(last)
        result = story.create("4", "--from", "s3")
        assert result.code == 44 and "the last possible moment is" in result.output, result.output
        result = story.sidecar.run("create", "--at", "latest", "--from", "s3", "--json")
        assert result.code == 0 and story.rows(result.json["set"]) == ["1"], result.output
        shown = story.sidecar.run("moments", "--from", "s3", "--json")
        assert shown.code == 0 and len(shown.json["bases"]) == 1 and not shown.json["live"], shown.output


@ONE
@pytest.mark.parametrize("harm", ["damaged", "swapped"])
def test_an_object_with_other_bytes_is_refused(sent: Case, harm: str) -> None:
    one, other = wholes(sent.bucket)[-2:]
    with sent.bucket.spoilt(one, other), new_machine(sent.story) as story:
        data = bytearray(sent.bucket.get(other))
        data[len(data) // 2] ^= 1
        sent.bucket.put(other, bytes(data) if harm == "damaged" else sent.bucket.get(one))
        result = story.create("4", "--from", "s3")
        failed(story.sidecar, result, 40, "cannot be used", "differs from what was sent", "Ask for an earlier moment")


@ONE
def test_a_base_with_other_bytes_or_no_record_is_refused(sent: Case) -> None:
    (file,), (record,) = sent.bucket.keys(".tar.gz"), sent.bucket.keys(".json")
    with sent.bucket.spoilt(file, record), new_machine(sent.story) as story:
        data = bytearray(sent.bucket.get(file))
        data[len(data) // 2] ^= 1
        sent.bucket.put(file, bytes(data))
        failed(story.sidecar, story.create("4", "--from", "s3"), 40, "differs from what was sent")
        sent.bucket.delete(record)
        result = story.create("4", "--from", "s3")
        assert result.code == 44 and "there is no base backup" in result.output, result.output


@ALL
def test_killed_between_an_upload_and_its_note_it_goes_on_and_sends_nothing_twice(sent: Case) -> None:
    story, prefix = sent.story, f"killed-{sent.encrypt}"
    there = {"AWS_S3_BACKUP_PREFIX": prefix, "BACKUP_PITR_OFFSITE_EVERY": "0"}
    (book,) = story.sidecar.root.glob("wal/*/offsite-s3.jsonl")
    kept = book.read_bytes()
    book.unlink()
    try:
        # Where there is no note yet, it is first opened to make one.
        killed = ("-P", str(book), "-e", "trace=openat", "-e", "inject=openat:signal=KILL:when=1")
        with story.sidecar.start("ship", "--once", prefix=("strace", "-f", "-qq", *killed), **there) as process:
            assert ended(process, 120).code == -signal.SIGKILL
        (first,) = sent.bucket.keys(prefix=f"{prefix}/wal/")
        assert not book.exists()
        done = story.sidecar.run("ship", "--once", **there)
        assert done.code == 0, done.output
        objects = sent.bucket.keys(prefix=f"{prefix}/wal/")
        names = [key.split("/")[-1].split(".")[0] for key in objects if "/segments/" in key]
        # Encrypted on its way, it is another object each time, and either one is whole.
        assert first in objects and len(names) - len(set(names)) == (sent.encrypt == "offsite")
        with new_machine(story) as machine:
            words = ("create", "--at", "latest", "--from", "s3", "--json")
            result = machine.sidecar.run(*words, AWS_S3_BACKUP_PREFIX=prefix)
            assert result.code == 0, result.output
            if sent.encrypt == "off":
                assert machine.rows(result.json["set"]) == ["1", "2"]
    finally:
        book.write_bytes(kept)


def test_a_bucket_that_is_away_endangers_nothing_here_and_has_all_once_it_is_back(gateway: Service) -> None:
    """Cut off for a while, then killed in the midst: what was received goes on, and in the end all of it is there."""
    server = start_server(17, "away", in_memory=True)
    try:
        with proxied(gateway.endpoint) as proxy, short_folder() as folder:
            settings = gateway.settings()
            bucket = Bucket(gateway, settings["AWS_S3_BACKUP_BUCKET"])
            extra = {"BACKUP_PITR": "on", "BACKUP_PITR_OFFSITE_EVERY": "1", **settings}
            sidecar = Sidecar.make(folder, server, **(extra | {"AWS_ENDPOINT_URL_S3": proxy.endpoint}))
            story = Story(sidecar, server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int)")
            with receiving(story):
                assert sidecar.run("base").code == 0
                with sidecar.start("ship") as process:
                    eventually(lambda: bucket.keys(".json") and said(sidecar.root).get("state") == "streaming", 60, 0.2)
                    proxy.cut(0)
                    for number in (1, 2):
                        story.execute(f"INSERT INTO t VALUES ({number})", str(number))
                        server.execute(story.database, "SELECT pg_switch_wal()")
                        story.level()
                    away = eventually(lambda: (now := said(sidecar.root)).get("state") == "down" and now, 90, 0.2)
                    assert away["message"] and story.stream()["state"] == "streaming"
                    shown = sidecar.run("status")
                    assert "any moment from" in shown.output and bucket.name in shown.output, shown.output
                    assert sidecar.run("ship", "--once").code in (11, 32)
                    process.kill()
                    process.communicate()
                proxy.heal()
                with sidecar.start("ship") as process:
                    back = datetime.fromisoformat(away["looked"])
                    eventually(lambda: datetime.fromisoformat(said(sidecar.root)["looked"]) > back, 60, 0.2)
                    story.execute("INSERT INTO t VALUES (3)", "3")
                    story.level()
                    eventually(
                        lambda: datetime.fromisoformat(said(sidecar.root)["level"]) > story.moments["3"], 60, 0.2
                    )
                    process.terminate()
                    assert ended(process, 30).code == 128 + signal.SIGTERM
                # This key may delete: what was superseded is gone.
                assert len(partials(bucket)) == 1
                with new_machine(story) as machine:
                    machine.sidecar.environment["AWS_ENDPOINT_URL_S3"] = gateway.endpoint
                    result = machine.create("3", "--from", "s3")
                    assert result.code == 0 and machine.rows(result.json["set"]) == ["1", "2", "3"], result.output
    finally:
        server.remove()


@pytest.mark.parametrize("place", ["s3", "copy"])
def test_the_running_service_sends_what_is_received(gateway: Service, place: str) -> None:
    server = start_server(17, f"serving-{place}", in_memory=True)
    try:
        with short_folder() as folder:
            (folder / "copies").mkdir()
            where = gateway.settings() if place == "s3" else {"BACKUP_COPY_DIR": str(folder / "copies")}
            # What would wake it: it looks every ten seconds by itself.
            sleeper = folder / "bin" / "supercronic"
            sleeper.parent.mkdir()
            sleeper.write_text("#!/bin/sh\nexec sleep 86400\n")
            sleeper.chmod(0o755)
            own = {"BACKUP_HTTP_PORT": str(free_port()), "XDG_RUNTIME_DIR": str(folder)}
            own |= {"PATH": f"{sleeper.parent}:{os.environ['PATH']}", "BACKUP_HTTP_HOST": "127.0.0.1"}
            pitr = {"BACKUP_PITR": "on", "BACKUP_PITR_OFFSITE_EVERY": "1"}
            sidecar = Sidecar.make(folder, server, **own, **pitr, **where)
            story = Story(sidecar, server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int)")
            with sidecar.start("serve") as process:
                try:
                    eventually(lambda: any(sidecar.root.glob("wal/*/bases/*.json")), 120, 0.5)
                    story.execute("INSERT INTO t VALUES (1)", "1")
                    story.level()
                    reached = lambda: (now := said(sidecar.root, place).get("level")) and datetime.fromisoformat(now)  # noqa: E731
                    eventually(lambda: (now := reached()) and now > story.moments["1"], 90, 0.5)
                    eventually(lambda: said(sidecar.root, f"{place}-bases").get("state") == "streaming", 60, 0.5)
                finally:
                    process.terminate()
                    ended(process, 60)
            with new_machine(story) as machine:
                result = machine.create("1", "--from", place)
                assert result.code == 0 and machine.rows(result.json["set"]) == ["1"], result.output
    finally:
        server.remove()
