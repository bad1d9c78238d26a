"""Any moment comes back as it was: real servers, their WAL, and a set made of what is recovered."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.support.database import start_server
from tests.support.faults import docker, ended, eventually, helpers, nothing_left, under_way
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Sidecar
from tests.support.versions import MAJORS

TWO_PHASE = ["postgres", "-c", "max_prepared_transactions=5"]


@pytest.fixture(scope="module", params=MAJORS)
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A base backup, and WAL of all that came after it."""
    server = start_server(request.param, f"moments{request.param}", in_memory=True, command=TWO_PHASE)
    try:
        with short_folder() as folder:
            told = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            server.new_database("other")
            server.execute("other", "CREATE TABLE o (n int)")
            server.execute(told.database, "CREATE TABLE t (n int); CREATE UNLOGGED TABLE u (n int)")
            server.execute(told.database, "INSERT INTO u VALUES (1)")
            with receiving(told):
                happen(told)
                told.level()
                yield told
    finally:
        server.remove()


def happen(story: Story) -> None:
    """The history. Each name is the moment right after."""
    story.mark("before")
    result = story.sidecar.run("base")
    assert result.code == 0, result.output
    story.mark("base")
    # While nothing follows: what there is of WAL ends with the base.
    eventually(lambda: datetime.fromisoformat(story.stream()["level"]) > story.moments["base"], 60, 0.2)
    made = story.create("base")
    assert made.code == 0 and "last commit: none" in made.output, made.output
    assert story.rows(made.json["set"]) == []
    story.execute("INSERT INTO t VALUES (1)", "one")
    story.execute("INSERT INTO t VALUES (2)", "two")
    with story.server.connect(story.database) as long:
        long.execute("BEGIN")
        long.execute("INSERT INTO t VALUES (3)")
        story.execute("INSERT INTO t VALUES (4); SELECT pg_switch_wal()", "four")
        long.execute("COMMIT")
    story.mark("three")
    story.execute("BEGIN; INSERT INTO t VALUES (5); PREPARE TRANSACTION 'p'", "prepared")
    story.execute("COMMIT PREPARED 'p'", "committed")
    story.server.execute("other", "INSERT INTO o VALUES (7)")
    story.execute("SELECT pg_switch_wal()", "other")
    story.execute("DELETE FROM t", "deleted")


@pytest.mark.one_version
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("base", ""),
        ("one", "1"),
        ("two", "12"),
        ("four", "124"),
        ("three", "1234"),
        ("prepared", "1234"),
        ("committed", "12345"),
        ("deleted", ""),
    ],
)
def test_a_set_of_a_moment_holds_what_was_committed_by_then(story: Story, name: str, rows: str) -> None:
    """And is tried, as any other set is."""
    result = replace(story, sidecar=replace(story.sidecar, tries=True)).create(name)
    assert result.code == 0, result.output
    identifier = result.json["set"]
    assert "".join(story.rows(identifier)) == rows
    stored = story.sidecar.catalog.find(identifier)
    assert stored.good and stored.verified and stored.verdict and stored.verdict.loads
    assert stored.time == story.moments[name]
    nothing_left(story.sidecar, story.server)


@pytest.mark.one_version
def test_the_set_says_what_it_was_recovered_from(story: Story) -> None:
    result = story.create("two")
    assert result.code == 0, result.output
    identifier = result.json["set"]
    part = story.sidecar.catalog.find(identifier).manifest.database
    assert part and part.recovered
    assert part.recovered.moment == story.moments["two"] and part.recovered.later >= 4
    assert part.recovered.last_commit and part.recovered.last_commit < story.moments["two"]
    shown = story.sidecar.run("show", identifier)
    words = " ".join(shown.output.split())
    assert "the unlogged tables public.u are empty" in words and story.rows(identifier, "u") == []
    assert "as of" in words and f"from base backup {part.recovered.base}" in words, shown.output
    run = story.sidecar.runs()[0]
    assert (run.operation, run.only, run.set, run.outcome) == ("create", "database", identifier, "success")


@pytest.mark.one_version
def test_a_place_in_the_wal_is_a_moment_too(story: Story) -> None:
    part = story.sidecar.catalog.find(story.create("two").json["set"]).manifest.database
    assert part and part.recovered
    result = story.sidecar.run("create", "--at-lsn", part.recovered.lsn, "--json")
    assert result.code == 0, result.output
    again = story.sidecar.catalog.find(result.json["set"])
    assert story.rows(again.id) == ["1", "2"] and again.time == part.recovered.last_commit
    refused = story.sidecar.run("create", "--at-lsn", "FFFF/0")
    assert refused.code == 44 and "is not in the WAL that is here" in refused.output, refused.output


@pytest.mark.one_version
def test_another_database_of_the_cluster(story: Story) -> None:
    for name, rows in (("committed", []), ("other", ["7"])):
        result = story.create(name, DB_NAME="other")
        assert result.code == 0, result.output
        assert story.rows(result.json["set"], "o") == rows
    result = story.create("other", DB_NAME="never")
    assert result.code == 44 and "there was no database 'never'" in result.output, result.output


@pytest.mark.one_version
def test_what_cannot_be_brought_back_is_refused_with_what_can(story: Story) -> None:
    before = len(story.sidecar.runs())
    result = story.create("before")
    assert result.code == 44 and "the window begins at" in result.output and "Any moment can be had" in result.output
    for asked, said in (("2999-01-01 00:00", "still to come"), ("soon", "is not a moment"), ("1 day ago", "begins")):
        result = story.sidecar.run("create", "--at", asked)
        assert result.code == (44 if said == "begins" else 2) and said in result.output, result.output
    assert story.sidecar.run("create", "daily", "--at", "1 minute ago").code == 2
    assert len(story.sidecar.runs()) == before


def test_a_restore_of_a_moment_is_told_ahead_and_brings_it_back(story: Story) -> None:
    at = story.moments["three"].isoformat(" ")
    sets = story.sidecar.files()
    told = story.sidecar.run("restore", "--at", at, "--dry-run")
    assert told.code == 0, told.output
    for words in ("base backup: ", "WAL to replay: ", "last commit: ", "later commit", "media: stay as they are"):
        assert words in told.output, told.output
    told = story.sidecar.run("restore", "--at", at, "--dry-run", "--json")
    assert told.code == 0 and [each["heading"] for each in told.json["sections"]] == ["recovery"], told.output
    assert story.sidecar.files() == sets
    nothing_left(story.sidecar)
    unasked = story.sidecar.run("restore", "--at", at)
    assert unasked.code == 12 and story.sidecar.files() == sets, unasked.output
    with story.undone():
        done = story.sidecar.run("restore", "--at", at, "--force")
        assert done.code == 0, done.output
        for words in ("recovered: as of ", "media: stay as they are", "is restored"):
            assert words in done.output, done.output
        assert story.server.value(story.database, "SELECT string_agg(n::text, '' ORDER BY n) FROM t") == "1234"
    assert story.server.value(story.database, "SELECT count(*) FROM t") == 0
    assert story.sidecar.run("restore", "latest", "--at", at).code == 2


@pytest.mark.one_version
def test_the_server_that_recovers_can_reach_nothing(story: Story) -> None:
    with under_way(story.sidecar, "create", "--at", story.moments["three"].isoformat(" ")) as process:
        facts = eventually(lambda: recovering(story.sidecar), 60)
        assert ended(process, 120).code == 0
    for volume in (each["Name"] for each in facts["Mounts"] if each["Type"] == "volume"):
        assert docker("volume", "ls", "--quiet", f"--filter=name={volume}") == ""
    host, config = facts["HostConfig"], facts["Config"]
    assert (host["NetworkMode"], host["CapDrop"], host["CapAdd"]) == ("none", ["ALL"], None)
    assert config["User"] == "postgres" and host["ReadonlyRootfs"] and not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["Memory"] == 2 << 30
    assert "archive_mode=off" in config["Cmd"] and "listen_addresses=127.0.0.1" in config["Cmd"]


@pytest.mark.one_version
def test_a_killed_recovery_leaves_nothing_after_the_next_run(story: Story) -> None:
    sets = story.sidecar.files()
    with under_way(story.sidecar, "create", "--at", story.moments["three"].isoformat(" ")) as process:
        eventually(lambda: recovering(story.sidecar), 60)
        process.kill()
        process.wait()
        assert helpers(story.sidecar) and story.sidecar.spooled()
        assert story.sidecar.files() == sets
        result = story.create("one")
        assert result.code == 0, result.output
    nothing_left(story.sidecar, story.server)
    assert story.sidecar.runs()[1].outcome == "crashed"


@pytest.mark.one_version
def test_a_signal_ends_a_recovery_and_leaves_nothing(story: Story) -> None:
    sets = story.sidecar.files()
    with under_way(story.sidecar, "create", "--at", story.moments["three"].isoformat(" ")) as process:
        eventually(lambda: recovering(story.sidecar), 60)
        process.terminate()
        assert ended(process, 60).code == 128 + signal.SIGTERM
    assert story.sidecar.files() == sets
    nothing_left(story.sidecar, story.server)


def recovering(sidecar: Sidecar) -> dict[str, Any]:
    """The server that recovers; empty before there is one."""
    for each in helpers(sidecar):
        with contextlib.suppress(ValueError, IndexError):
            facts: dict[str, Any] = json.loads(docker("inspect", each, check=False))[0]
            if facts["Config"]["Entrypoint"] == ["postgres"]:
                return facts
    return {}


def test_when_rows_went_is_found_in_the_wal(story: Story) -> None:
    """The history ends with DELETE FROM t, of five rows; then a table is emptied, one is dropped."""
    story.server.execute(story.database, "CREATE TABLE gone (n int); INSERT INTO gone SELECT generate_series(1, 9)")
    with story.server.connect(story.database) as nobody:
        nobody.execute("BEGIN; DELETE FROM gone; ROLLBACK")
    story.server.execute(story.database, "DELETE FROM gone WHERE n < 7")
    story.execute("DROP TABLE gone", "dropped")
    story.level()
    found = story.sidecar.run("moments", "--lost", "5", "--since", "1 hour ago", "--json")
    assert found.code == 0, found.output
    losses = [(each["table"].partition(" (")[0], each["rows"], each["files"]) for each in found.json["losses"]]
    assert [each for each in losses if each[1]] == [("public.t", 5, 1), ("a table that is gone", 6, 1)], losses
    assert losses[-1] == ("", 0, 1), losses
    one = [
        line
        for line in story.sidecar.run("moments", "--lost", "5", "--table", "t").output.splitlines()
        if "\tall\t" not in line
    ]
    assert one[0].split("\t")[0] == "lost" and one[0].split("\t")[2:4] == ["5", "public.t"], one
    # The moment before, as it is told, brings them back; one row fewer is no such commit.
    made = story.sidecar.run("create", "--at", one[0].split("\t")[4], "--json")
    assert made.code == 0 and "".join(story.rows(made.json["set"])) == "12345", made.output
    made = story.sidecar.run("create", "--at-lsn", found.json["losses"][0]["before_lsn"], "--json")
    assert made.code == 0 and "".join(story.rows(made.json["set"])) == "12345", made.output
    none = story.sidecar.run("moments", "--lost", "6", "--table", "public.t")
    assert none.code == 0 and "public.t" not in none.output, none.output
    refused = story.sidecar.run("moments", "--lost", "1", "--table", "never")
    assert refused.code == 44 and "there is no table never now" in refused.output, refused.output
    nothing_left(story.sidecar, story.server)
