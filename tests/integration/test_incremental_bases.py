"""Base backups that hold only what has changed: real servers, and what is made of a full one and two others."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.catalog.wal_archive import clusters
from backup.model.wal import Base, lsn
from backup.postgres.replication import summarized
from tests.support.database import start_server
from tests.support.faults import nothing_left
from tests.support.moments import Story, receiving, short_folder
from tests.support.moments_offsite import new_machine
from tests.support.physical import live, physical, ran, received_again, telling
from tests.support.sidecar import Sidecar

SUMMARIES = ["postgres", "-c", "summarize_wal=on"]
LARGE = "CREATE TABLE large AS SELECT i, repeat(md5(i::text), 8) AS text FROM generate_series(1, {}) i"


@contextlib.contextmanager
def started(major: int, name: str, **options: Any) -> Iterator[Story]:
    """A server whose WAL is received."""
    server = start_server(major, f"{name}{major}", in_memory=True, **options)
    try:
        with short_folder() as folder:
            story = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            with receiving(story):
                yield story
    finally:
        server.remove()


def said(story: Story, *words: str) -> str:
    """What the run of a base says of it."""
    ran(story, "base", *words)
    return story.sidecar.runs()[0].message


def bases(story: Story) -> list[Base]:
    (archive,) = clusters(story.sidecar.root)
    return archive.list_bases()


@pytest.fixture(scope="module", params=(17, 18), ids=lambda major: f"pg{major}")
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A full base, one that builds on it, and one that builds on that, with moments behind each."""
    with started(request.param, "steps", command=SUMMARIES) as told:
        told.server.execute(told.database, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
        told.server.execute(told.database, LARGE.format(60_000))
        # Whatever lies in its folder, the server sends.
        made = told.server.container.exec_run(["sh", "-c", "mkdir $PGDATA/links && touch $PGDATA/.psql_history"])
        assert made.exit_code == 0, made.output
        assert "; full: it is the first one" in said(told)
        told.execute("INSERT INTO t VALUES (2)", "two")
        told.server.execute(
            told.database, "UPDATE large SET text = upper(text) WHERE i % 100 = 0; CREATE TABLE o (n int)"
        )
        assert f"; incremental, on {bases(told)[0].id}" in said(told)
        told.execute("INSERT INTO t VALUES (3); INSERT INTO o VALUES (3)", "three")
        told.server.execute(told.database, "DELETE FROM t WHERE n = 1; DELETE FROM large WHERE i <= 30000")
        told.server.execute(told.database, "VACUUM large")
        told.server.execute(told.database, "DROP TABLE o; CREATE TABLE o (n int); INSERT INTO o VALUES (4)")
        assert f"; incremental, on {bases(told)[1].id}" in said(told)
        told.execute("INSERT INTO t VALUES (4); INSERT INTO o VALUES (5)", "four")
        told.level()
        yield told


@pytest.mark.parametrize(
    ("name", "base", "rows", "others", "large"),
    [("two", 0, "12", None, 60_000), ("three", 1, "123", "3", 60_000), ("four", 2, "234", "45", 30_000)],
)
def test_a_moment_comes_back_exactly_from_each(
    story: Story, name: str, base: int, rows: str, others: str | None, large: int
) -> None:
    result = story.create(name)
    assert result.code == 0, result.output
    stored = story.sidecar.catalog.find(result.json["set"])
    part = stored.manifest.database
    assert part and part.recovered and part.recovered.base == bases(story)[base].id
    assert "".join(story.rows(stored.id)) == rows and len(story.rows(stored.id, "large")) == large
    upper = sum("ABCDEF"[0] in each or "F" in each for each in story.rows(stored.id, "large"))
    assert (upper > 0) == (base > 0)
    if others:
        assert "".join(story.rows(stored.id, "o")) == others
    nothing_left(story.sidecar, story.server)


def test_they_are_small_and_say_what_they_build_on(story: Story) -> None:
    full, one, two = bases(story)
    assert (full.parent, one.parent, two.parent) == ("", full.id, one.id)
    assert one.artifact.stored_size < 0.5 * full.artifact.stored_size and one.bytes < 0.5 * full.bytes
    shown = json.loads(ran(story, "moments", "--json").output)
    assert [each["parent"] for each in shown["bases"]] == ["", full.id, one.id]
    table = ran(story, "moments").output
    assert f"\t{'full'}" in table and f"\ton {one.id}" in table, table
    planned = story.sidecar.run("restore", "--at", story.moments["four"].isoformat(" "), "--dry-run")
    assert planned.code == 0 and f"with {full.id}, {one.id}, which it builds on" in planned.output, planned.output


def test_the_window_is_drilled_with_them(story: Story) -> None:
    drilled = story.sidecar.run("drill", "--moments")
    assert drilled.code == 0 and f"recovered from the base backup {bases(story)[2].id}" in drilled.output, (
        drilled.output
    )


@pytest.fixture
def spoilt(story: Story) -> Iterator[Story]:
    """A copy of it, to be damaged."""
    with story.copied() as copy:
        yield copy


def middle(story: Story) -> Path:
    """The file of the one in the middle."""
    (archive,) = clusters(story.sidecar.root)
    return archive.bases.directory / archive.list_bases()[1].artifact.file


def test_a_damaged_link_is_told_and_nothing_is_made_of_it(spoilt: Story) -> None:
    path = middle(spoilt)
    before, data = len(spoilt.sidecar.sets()), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = spoilt.create("four")
    assert result.code != 0 and f"{path.name} is damaged" in result.output, result.output
    assert "`base --full` takes" in result.output and len(spoilt.sidecar.sets()) == before
    # As it says: the full one and the WAL behind it bring back the same.
    assert f"Move {path} elsewhere, and ask again" in "".join(result.output.split("\n")), result.output
    path.rename(path.with_name("aside"))
    result = spoilt.create("four")
    assert result.code == 0, result.output
    assert "".join(spoilt.rows(result.json["set"])) == "234"


def test_without_a_link_what_builds_on_it_does_not_count(spoilt: Story) -> None:
    full, one, two = bases(spoilt)
    middle(spoilt).unlink()
    shown = ran(spoilt, "moments").output
    assert f"the base backup {two.id} does not count: {one.id}, which it builds on," in " ".join(shown.split()), shown
    # The full one and the WAL behind it bring back the same.
    result = spoilt.create("four")
    assert result.code == 0, result.output
    part = spoilt.sidecar.catalog.find(result.json["set"]).manifest.database
    assert part and part.recovered and part.recovered.base == full.id
    assert "".join(spoilt.rows(result.json["set"])) == "234" and len(spoilt.rows(result.json["set"], "large")) == 30_000


def test_a_link_in_the_place_of_another_one_is_never_used(spoilt: Story) -> None:
    """Records that were tampered with: PostgreSQL itself compares who builds on whom."""
    (archive,), before = clusters(spoilt.sidecar.root), len(spoilt.sidecar.sets())
    full, _, two = archive.list_bases()
    record = archive.bases.directory / f"{two.id}.json"
    record.write_text(two.model_copy(update={"parent": full.id}).model_dump_json())
    result = spoilt.create("four")
    assert result.code != 0 and "cannot be combined" in result.output, result.output
    assert len(spoilt.sidecar.sets()) == before


def test_a_place_alone_brings_back_what_builds_on_others() -> None:
    """Sent full one first, and fetched with all that the newest one builds on."""
    with started(17, "placed", command=SUMMARIES) as told, short_folder() as place:
        told.sidecar.environment["BACKUP_COPY_DIR"] = str(place)
        told.execute("CREATE TABLE t (n int)", "none")
        for number in (1, 2, 3):
            told.execute(f"INSERT INTO t VALUES ({number})", str(number))
            ran(told, "base")
        told.execute("INSERT INTO t VALUES (4); SELECT pg_switch_wal()", "4")
        told.execute("INSERT INTO t VALUES (5)", "5")
        told.level()
        ran(told, "ship", "--once")
        with new_machine(told) as alone:
            result = alone.create("4", "--from", "copy")
            assert result.code == 0, result.output
            part = alone.sidecar.catalog.find(result.json["set"]).manifest.database
            assert part and part.recovered and part.recovered.base == bases(told)[2].id
            assert "".join(alone.rows(result.json["set"])) == "1234"
            (lost,) = place.glob(f"**/bases/{bases(told)[1].id}.*.json")
            lost.unlink()
            result = alone.create("4", "--from", "copy")
            assert result.code == 0 and "which it builds on, is not here" in result.output, result.output
            part = alone.sidecar.catalog.find(result.json["set"]).manifest.database
            assert part and part.recovered and part.recovered.base == bases(told)[0].id
            assert "".join(alone.rows(result.json["set"])) == "1234"


def test_a_full_one_is_taken_where_it_is_asked_for_or_cannot_be_otherwise() -> None:
    with started(17, "kinds") as told:
        message = said(told)
        assert "full" not in message and "incremental" not in message
        told.server.execute("postgres", "ALTER SYSTEM SET summarize_wal = on")
        told.server.execute("postgres", "SELECT pg_reload_conf()")
        assert "there were no summaries of WAL when" in said(told)
        assert "; incremental, on " in said(told)
        assert "; full: it was asked for" in said(told, "--full")
        doctor = told.sidecar.run("doctor").output
        assert "summarize_wal is on" in " ".join(doctor.split()), doctor
        (archive,) = clusters(told.sidecar.root)
        _, one, two, three = archive.list_bases()
        login = told.sidecar.app().source().login
        assert all(summarized(login, 1, one.start, until) for until in (two.start, three.start))
        told.server.container.exec_run(["sh", "-c", f"rm $PGDATA/pg_wal/summaries/????????{lsn(one.start):016X}*"])
        assert not summarized(login, 1, one.start, three.start) and summarized(login, 1, two.start, three.start)
        assert not summarized(login, 2, two.start, three.start)
        # What the server has forgotten, it says itself.
        told.server.execute("postgres", "ALTER SYSTEM SET summarize_wal = off")
        told.server.execute("postgres", "SELECT pg_reload_conf()")
        told.execute("CREATE TABLE t (n int); SELECT pg_switch_wal(); CHECKPOINT", "off")
        # That checkpoint may have recycled what the receiver was at: it begins anew then.
        told.level()
        told.server.container.exec_run(["sh", "-c", "rm -f $PGDATA/pg_wal/summaries/*"])
        told.server.execute("postgres", "ALTER SYSTEM SET summarize_wal = on")
        told.server.execute("postgres", "SELECT pg_reload_conf()")
        message = said(told)
        assert "; full: " in message and "summar" in message, message
        manifest = archive.bases.directory / f"{archive.list_bases()[-1].id}.manifest"
        manifest.unlink()
        assert "; full: the manifest of" in said(told)
        # A bit of the newest flips. A night reads it before it chooses what to build on.
        newest = archive.list_bases()[-1]
        path = archive.bases.directory / newest.artifact.file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        (archive.directory / "scrub.json").write_text('{"until": "2026-01-01T00:00:00Z"}')
        rotten = told.sidecar.run("base")
        assert rotten.code == 40 and "was taken, but" in rotten.output, rotten.output
        assert path.name + " (" in rotten.output and "was set aside" in rotten.output, rotten.output
        assert newest.id not in [each.id for each in archive.list_bases()[:-1]]
        assert "; incremental, on " in said(told)


def test_an_older_server_says_why_there_is_none() -> None:
    with started(15, "old") as told:
        result = ran(told, "base")
        assert "a full base backup: PostgreSQL 15 has no incremental ones" in result.output, result.output
        assert "incremental" not in told.sidecar.runs()[0].message


@pytest.mark.parametrize(("major", "between"), [(17, False), (18, False), (17, True)])
def test_rows_that_were_deleted_do_not_come_back_where_a_table_was_cut_and_has_grown(major: int, between: bool) -> None:
    """What the server adds to a table without writing WAL is in no summary; the old pages would be taken instead.

    Also where a base `between` has it as it was cut: those that this builds on have the old pages.
    """
    with started(major, "cut", command=[*SUMMARIES, "-c", "autovacuum=off"]) as told:
        told.server.execute(told.database, LARGE.format(60_000))
        # Of pages that do not change there is no more than the full one.
        told.server.execute(told.database, "VACUUM (FREEZE) large")
        said(told)
        told.server.execute(told.database, "DELETE FROM large WHERE i > 30000")
        told.server.execute(told.database, "VACUUM large")
        if between:
            assert "; incremental, on " in said(told)
        # Rows that have no room in what is left of those pages.
        rows = f'seq 1 3000 | sed "s/$/\\t{"x" * 256}/"'
        told.server.execute(told.database, f"COPY large FROM PROGRAM '{rows}'")
        told.execute("CREATE TABLE t (n int)", "grown")
        message = said(told)
        assert "; full: file " in message and "was cut by VACUUM and has grown again" in message, message
        assert "; incremental, on " in said(told)
        told.execute("INSERT INTO t VALUES (1)", "end")
        told.level()
        result = told.create("end")
        assert result.code == 0, result.output
        assert len(told.rows(result.json["set"], "large")) == 33_000


@pytest.mark.parametrize("major", [17, 18])
def test_the_whole_cluster_comes_back_from_them_with_its_maps_and_then_builds_on_none(major: int) -> None:
    """Where VACUUM cuts a table, it clears the rest of the map of visible rows, of which no summary tells.

    A table that grows again would have rows that everybody is said to see: a scan of the index alone finds them when
    they have been deleted.
    """
    # Checksums would have it written to the WAL.
    initdb = "--no-sync --no-data-checksums" if major >= 18 else "--no-sync"
    with telling(major, command=[*SUMMARIES, "-c", "autovacuum=off"], initdb=initdb) as told:
        told.server.execute("postgres", "CREATE DATABASE closed")
        both = (told.database, "closed")
        for name in both:
            told.server.execute(name, "CREATE TABLE v (n int PRIMARY KEY)")
            told.server.execute(name, "INSERT INTO v SELECT generate_series(1, 50000)")
            told.server.execute(name, "DELETE FROM v WHERE n > 25000")
            told.server.execute(name, "VACUUM (TRUNCATE FALSE) v")
        assert "; incremental, on " in said(told)
        for name in both:
            told.server.execute(name, "VACUUM v")
        # Nobody can make its maps anew.
        told.server.execute("postgres", "ALTER DATABASE closed WITH ALLOW_CONNECTIONS false")
        assert "; incremental, on " in said(told)
        told.execute("INSERT INTO t VALUES (3)", "then")
        told.server.execute(told.database, "DELETE FROM t")
        told.level()
        done = physical(told, "--force")
        assert done.code == 0, done.output
        assert live(told) == ("123", "78")
        told.server.execute("postgres", "ALTER DATABASE closed WITH ALLOW_CONNECTIONS true")
        for name in both:
            with told.server.connect(name) as connection:
                connection.execute("INSERT INTO v SELECT generate_series(25001, 50000)")
                connection.execute("DELETE FROM v WHERE n > 25000")
                connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
                count = "SELECT count(*) FROM v WHERE n > 0"
                plan = "".join(line for (line,) in connection.execute(f"EXPLAIN {count}"))  # noqa: S608 - it is above
                assert "Index Only Scan" in plan, plan
                assert connection.execute(count.encode()).fetchone() == (25_000,)
        received_again(told)
        assert "; full: the server is on another timeline than" in said(told)
        assert "; incremental, on " in said(told)
