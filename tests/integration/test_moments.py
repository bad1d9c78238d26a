"""Any moment comes back as it was: real servers, their WAL, and a set made of what is recovered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.database import start_server
from tests.support.faults import helpers, nothing_left
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Sidecar

TWO_PHASE = ["postgres", "-c", "max_prepared_transactions=5"]


@pytest.fixture(scope="module", params=(15, 17, 18))
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A base backup, and WAL of all that came after it."""
    server = start_server(request.param, f"moments{request.param}", in_memory=True, command=TWO_PHASE)
    try:
        with short_folder() as folder:
            sidecar = Sidecar.make(folder, server, BACKUP_PITR="on")
            sidecar.tries = True
            told = Story(sidecar, server, "obcms_prod")
            server.new_database("other")
            server.execute("other", "CREATE TABLE o (n int)")
            server.execute(told.database, "CREATE TABLE t (n int)")
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
    result = story.create(name)
    assert result.code == 0, result.output
    identifier = result.json["set"]
    assert "".join(story.rows(identifier)) == rows
    stored = story.sidecar.catalog.find(identifier)
    assert stored.good and stored.verified and stored.verdict and stored.verdict.loads
    assert stored.time == story.moments[name]
    nothing_left(story.sidecar, story.server)
    assert helpers(story.sidecar) == []
