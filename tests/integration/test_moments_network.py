"""Over the network the image's own clients receive WAL and take base backups; where an engine is, moments come back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.database import PASSWORD, USER, Server, start_server
from tests.support.faults import docker, eventually
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Sidecar
from tests.support.versions import MAJORS

# They tag one image.
pytestmark = pytest.mark.xdist_group("official")
_WORD = "keeps nothing"
_ENTRY = "echo 'host replication all all scram-sha-256' >>\"$PGDATA/pg_hba.conf\""


@pytest.fixture(params=MAJORS)
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A server that is no container for all that the sidecar knows. Its WAL may not be received yet."""
    summaries = ["-c", "summarize_wal=on"] if request.param >= 17 else []
    server = start_server(request.param, f"far{request.param}", in_memory=True, command=["postgres", *summaries])
    try:
        with short_folder() as folder:
            sidecar = Sidecar.make(folder, server, BACKUP_PITR="on", DB_NAME="obcms_prod")
            server.execute("obcms_prod", "CREATE TABLE t (n int)")
            yield Story(sidecar.network(server), server, "obcms_prod")
    finally:
        server.remove()


def let_in(server: Server) -> None:
    """Its WAL may be received from elsewhere."""
    docker("exec", server.container.id, "sh", "-c", _ENTRY)
    server.execute("postgres", "SELECT pg_reload_conf()")


def with_engine(story: Story) -> Story:
    """The same database over the network, for a sidecar that has an engine to recover moments with."""
    login = {"DB_HOST": story.server.address, "DB_USER": USER, "DB_PASSWORD": PASSWORD}
    there = replace(story.sidecar, image="", environment=story.sidecar.environment | login)
    return replace(story, sidecar=there)


@contextlib.contextmanager
def official(server: Server) -> Iterator[str]:
    """The image that nobody else has told of."""
    name = f"postgres:{server.major}"
    if docker("images", "-q", name):
        yield name
        return
    docker("tag", f"obcms-test/postgres:{server.major}", name)
    try:
        yield name
    finally:
        docker("rmi", name)


def moments(sidecar: Sidecar) -> list[Any]:
    """What the doctor says of them."""
    found = sidecar.run("doctor", "--json").json["findings"]
    return [(each["level"], each["text"], each["hint"]) for each in found if each["topic"] == "moments"]


def base(story: Story, **login: str) -> str:
    """Take a base backup; what is said of it."""
    result = story.sidecar.run("base", **login)
    assert result.code == 0, result.output
    return result.output


def test_a_moment_of_a_server_elsewhere_comes_back(story: Story) -> None:
    refused, *_ = moments(story.sidecar)
    assert refused[0] == "fail" and "no pg_hba.conf entry for replication connection" in refused[1], refused
    assert f"`host replication {USER} ADDRESS scram-sha-256`" in refused[2]
    failed = story.sidecar.run("base")
    assert failed.code != 0 and "no WAL is being received" in failed.output, failed.output
    let_in(story.server)
    allowed, *_, alone = moments(story.sidecar)
    assert allowed[0] == "pass" and alone[:1] == ("warn",) and "only where a Docker engine is" in alone[1]
    with receiving(story):
        base(story)
        story.execute("INSERT INTO t VALUES (1)", "one")
        said = base(story)
        assert ("incremental, on" in said) == (story.server.major >= 17), said
        story.execute("INSERT INTO t VALUES (2)", "two")
        story.execute("INSERT INTO t VALUES (3)", "three")
        story.level()
    refused_here = story.create("two")
    assert refused_here.code != 0 and "without an engine no moment can be brought back" in refused_here.output
    assert "--from s3" in refused_here.output
    near = with_engine(story)
    absent = near.create("two")
    with official(story.server) as image:
        made = near.create("two")
    assert made.code == 0, made.output
    assert near.rows(made.json["set"]) == ["1", "2"]
    assert absent.code == 0 or f"the image {image}" in absent.output, absent.output


@pytest.mark.one_version
def test_what_ends_the_receiver_costs_nothing(story: Story) -> None:
    """Neither a session that the server ends, nor a sidecar that is killed, leaves a gap or a second receiver."""
    let_in(story.server)
    name = f"far-{story.server.container.short_id}"
    with story.server.connect() as connection:
        # As much as a role needs that is no superuser.
        connection.execute(f"CREATE ROLE keeper LOGIN REPLICATION IN ROLE pg_monitor PASSWORD '{_WORD}'")
    named = replace(story, sidecar=replace(story.sidecar, options=(f"--name={name}",)))
    with receiving(named):
        base(story, DB_USER="keeper", DB_PASSWORD=_WORD)
        base(story)
        story.server.value("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        eventually(lambda: story.stream().get("state") == "down", 30)
        story.server.execute("obcms_prod", "INSERT INTO t VALUES (1)")
        eventually(lambda: story.stream().get("state") == "streaming", 30)
        docker("kill", name)
    story.server.execute("obcms_prod", "INSERT INTO t VALUES (2)")
    with receiving(story):
        story.level()
        story.mark("end")
        story.server.execute("obcms_prod", "INSERT INTO t VALUES (3)")
        story.level()
        spans = story.sidecar.run("moments", "--json").json["spans"]
        assert len(spans) == 1, spans
        receivers = story.server.value("postgres", "SELECT count(*) FROM pg_stat_replication")
        assert receivers == 1
    near = with_engine(story)
    with official(story.server):
        made = near.create("end")
    assert made.code == 0, made.output
    assert near.rows(made.json["set"]) == ["1", "2"]
