"""What is wrong with a base backup, its WAL or the machine is said, and nothing is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.catalog.wal_archive import StreamFile, clusters
from backup.model.wal import Base, SegmentId, lsn, lsn_text
from tests.support.database import start_server
from tests.support.faults import docker, eventually, failed, nothing_left
from tests.support.keys import key_pair
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Sidecar


@pytest.fixture(scope="module", params=("off", "all"))
def told(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A story that is over: two whole segments behind the base, and one that was being received."""
    server = start_server(17, f"faults-{request.param}", in_memory=True)
    try:
        with short_folder() as folder:
            key = folder / "key"
            keys = {"BACKUP_AGE_RECIPIENTS": key_pair(key), "BACKUP_AGE_IDENTITY_FILE": str(key)}
            keys = keys if request.param == "all" else {}
            sidecar = Sidecar.make(folder, server, BACKUP_PITR="on", BACKUP_ENCRYPT=request.param, **keys)
            story = Story(sidecar, server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int)")
            with receiving(story):
                result = sidecar.run("base")
                assert result.code == 0, result.output
                for number in (1, 2, 3):
                    story.execute(f"INSERT INTO t VALUES ({number})", str(number))
                    story.server.execute(story.database, "SELECT pg_switch_wal()")
                story.execute("INSERT INTO t VALUES (4)", "4")
                story.level()
                story.mark("end")
            yield story
    finally:
        server.remove()


@pytest.fixture
def spoilt(told: Story) -> Iterator[Story]:
    """A copy of it, to be damaged."""
    with told.copied() as story:
        yield story
        nothing_left(story.sidecar, story.server)


def packed(story: Story, number: int) -> Path:
    """The packed segment of this number behind the base."""
    archive, base = archived(story)
    name = sorted(each.name for each in archive.list_segments() if each.name >= base.first.name(base.size))[number]
    return next(archive.segments.directory.glob(f"{name}.gz*"))


def archived(story: Story) -> tuple[Any, Base]:
    """The archive and its base."""
    (archive,) = clusters(story.sidecar.root)
    return archive, archive.list_bases()[-1]


def test_a_story_that_is_over_is_all_there(spoilt: Story) -> None:
    result = spoilt.create("4")
    assert result.code == 0, result.output
    if not spoilt.sidecar.environment.get("BACKUP_AGE_RECIPIENTS"):
        assert spoilt.rows(result.json["set"]) == ["1", "2", "3", "4"]


def test_damage_in_a_segment_is_refused_and_before_it_all_is_there(spoilt: Story) -> None:
    path = packed(spoilt, 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    failed(spoilt.sidecar, spoilt.create("4"), 40, path.name.partition(".")[0], "damaged", "Ask for an earlier moment")


def test_damage_in_the_base_is_refused(spoilt: Story) -> None:
    archive, base = archived(spoilt)
    path = archive.bases.directory / base.artifact.file
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    failed(spoilt.sidecar, spoilt.create("1"), 40, base.artifact.file, "damaged")


def test_a_segment_that_is_missing_breaks_the_window(spoilt: Story) -> None:
    packed(spoilt, 2).unlink()
    result = spoilt.create("4")
    assert result.code == 44 and "the last possible moment is" in result.output, result.output


def test_segments_that_changed_places_are_refused(spoilt: Story) -> None:
    """Also with a record that fits them."""
    archive, _ = archived(spoilt)
    one, two = packed(spoilt, 1), packed(spoilt, 2)
    records = {each.name: each for each in archive.list_segments()}
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    # Of other sizes than were recorded they do not count at all.
    assert spoilt.create("4").code == (40 if len(first) == len(second) else 44)
    names = [path.name.partition(".")[0] for path in (one, two)]
    lines = []
    for name, record in records.items():
        if name in names:
            other = records[names[1 - names.index(name)]].artifact
            artifact = other.model_copy(update={"file": record.artifact.file, "name": name})
            record = record.model_copy(update={"artifact": artifact})
        lines.append(record.model_dump_json() + "\n")
    (archive.directory / "segments.jsonl").write_text("".join(lines))
    failed(spoilt.sidecar, spoilt.create("4"), 40, "is that of another place or cluster")


def test_damage_in_what_is_being_received_is_refused(spoilt: Story) -> None:
    """Nobody has recorded its SHA-256: the checksums of the WAL itself tell."""
    archive, _ = archived(spoilt)
    (path,) = archive.stream.directory.glob("*.partial")
    stream = StreamFile(spoilt.sidecar.root).read()
    assert stream
    end = int(stream.received.partition("/")[2], 16) % stream.size
    data = bytearray(path.read_bytes())
    for place in range(60, end, 16):
        data[place] ^= 0xFF
    path.write_bytes(data)
    failed(spoilt.sidecar, spoilt.create("4"), 40, "the WAL cannot be read beyond", "Ask for an earlier moment")


def test_a_record_that_seems_to_lead_on_is_not_the_end_of_the_wal(spoilt: Story) -> None:
    """The last one, by a damaged length, goes on where nothing was received."""
    archive, _ = archived(spoilt)
    (path,) = archive.stream.directory.glob("*.partial")
    stream = StreamFile(spoilt.sidecar.root).read()
    assert stream and lsn(stream.received) % 8192
    words = f'pg_waldump --path="$PGDATA/pg_wal" --end={stream.received} {path.name.partition(".")[0]}'
    lines = docker("exec", spoilt.server.container.id, "sh", "-c", words).splitlines()
    last = lsn(lines[-1].partition("lsn: ")[2].partition(",")[0])
    data = bytearray(path.read_bytes())
    place = last % stream.size
    data[place : place + 4] = (20_000).to_bytes(4, "little")
    path.write_bytes(data)
    failed(spoilt.sidecar, spoilt.create("4"), 40, "the WAL cannot be read beyond", "Ask for an earlier moment")


def test_a_moment_in_a_gap_is_refused_with_the_gap(spoilt: Story) -> None:
    archive, base = archived(spoilt)
    gone, first = packed(spoilt, 1), packed(spoilt, 2)
    start = SegmentId.of(first.name.partition(".")[0], base.size).number * base.size
    moment, places = spoilt.moments["4"], {"start": lsn_text(start + 40), "end": lsn_text(start + 256)}
    later = base.model_copy(update={"id": "later", "started": moment, "ended": moment, **places})
    archive.bases.put("later.json", later.model_dump_json().encode())
    gone.unlink()
    result = spoilt.create("3")
    assert result.code == 44 and "the window is broken from" in result.output, result.output


def test_without_the_key_nothing_is_opened(spoilt: Story) -> None:
    encrypted = spoilt.sidecar.environment.pop("BACKUP_AGE_IDENTITY_FILE", "")
    if encrypted:
        failed(spoilt.sidecar, spoilt.create("4"), 45, "identity")
    else:
        assert spoilt.create("4").code == 0


@pytest.mark.parametrize("live", [True, False])
def test_an_image_that_is_gone_is_that_of_the_live_database_or_is_asked_for(spoilt: Story, live: bool) -> None:
    archive, base = archived(spoilt)
    gone = {"image": "registry.example/gone:17", "image_id": f"sha256:{'0' * 64}"}
    gone |= {} if live else {"server_version": "16.4"}
    (archive.bases.directory / f"{base.id}.json").write_bytes(base.model_copy(update=gone).model_dump_json().encode())
    result = spoilt.create("2")
    if live:
        assert result.code == 0, result.output
    else:
        assert result.code == 20 and "docker pull" in result.output, result.output


def test_a_base_of_another_major_version_does_not_start(spoilt: Story) -> None:
    archive, base = archived(spoilt)
    other = {"image": "obcms-test/postgres:15", "image_id": ""}
    (archive.bases.directory / f"{base.id}.json").write_bytes(base.model_copy(update=other).model_dump_json().encode())
    result = spoilt.create("2")
    assert result.code in (20, 40) and spoilt.sidecar.sets() == [], result.output


def test_a_cluster_that_does_not_fit_is_not_unpacked(spoilt: Story) -> None:
    archive, base = archived(spoilt)
    huge = base.model_copy(update={"bytes": 1 << 50})
    (archive.bases.directory / f"{base.id}.json").write_bytes(huge.model_dump_json().encode())
    failed(spoilt.sidecar, spoilt.create("2"), 30, "the recovery takes about", "docker system df")


def test_a_base_whose_record_is_gone_is_none(spoilt: Story) -> None:
    archive, base = archived(spoilt)
    (archive.bases.directory / f"{base.id}.json").unlink()
    result = spoilt.create("2")
    assert result.code == 44 and "no moment can be brought back" in result.output, result.output


QUIET = ["postgres", "-c", "shared_preload_libraries=pg_cron", "-c", "cron.database_name=obcms_prod"]
# What would keep a server from starting, or let it act on others.
HARMFUL = {
    "shared_buffers": "512GB",
    "archive_mode": "on",
    "archive_command": "false",
    "listen_addresses": "192.0.2.1",
    "port": "1",
    "ssl": "on",
    "unix_socket_directories": "/nowhere",
    "log_directory": "/nowhere",
    "logging_collector": "on",
    "recovery_target_name": "nothing",
    "restore_command": "curl http://192.0.2.1/",
    "max_connections": "200000",
}


@pytest.fixture
def busy() -> Iterator[Story]:
    """A server that acts by itself, with settings for its next start that no other one may take."""
    server = start_server(17, "busy", in_memory=True, image="obcms-test/extensions:17", command=QUIET)
    try:
        with short_folder() as folder:
            story = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int); CREATE EXTENSION pg_cron")
            server.execute(story.database, "SELECT cron.schedule('j', '1 seconds', 'INSERT INTO t VALUES (1)')")
            with server.connect() as connection:
                for name, value in HARMFUL.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            yield story
    finally:
        server.remove()


def test_what_the_live_server_does_by_itself_is_not_done_by_the_recovered_one(busy: Story) -> None:
    made = busy.sidecar.run("create", "daily", "--only", "database")
    assert made.code == 0, made.output
    with receiving(busy):
        result = busy.sidecar.run("base")
        assert result.code == 0, result.output
        busy.mark("quiet")
        busy.server.execute(busy.database, "SELECT cron.unschedule('j')")
        count = busy.server.value(busy.database, "SELECT count(*) FROM t")
        busy.level()
        result = busy.create("quiet")
    assert result.code == 0, result.output
    stored = busy.sidecar.catalog.find(result.json["set"])
    assert len(busy.rows(stored.id)) <= count
    part = stored.manifest.database
    assert part and part.preload.libraries == ("pg_cron",) and "cron.launch_active_jobs" not in part.preload.settings
    nothing_left(busy.sidecar, busy.server)


def test_a_cluster_that_has_recovered_before_is_recovered_on_its_own_timeline() -> None:
    server = start_server(18, "later")
    try:
        with short_folder() as folder:
            server.execute("postgres", "ALTER SYSTEM SET restore_command = 'false'")
            docker("exec", server.container.id, "sh", "-c", 'touch "$PGDATA/recovery.signal"')
            server.container.restart()
            server.wait()
            # It answers before it has ended its recovery.
            eventually(lambda: server.value("postgres", "SELECT pg_is_in_recovery()::text") == "false")
            story = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int)")
            with receiving(story):
                result = story.sidecar.run("base")
                assert result.code == 0, result.output
                story.execute("INSERT INTO t VALUES (1)", "one")
                story.level()
                result = story.create("one")
            assert result.code == 0, result.output
            assert archived(story)[1].timeline == 2 and story.rows(result.json["set"]) == ["1"]
    finally:
        server.remove()
