"""What release 0.1.0 left on a machine is opened by today's code: nothing is lost, and nothing is done twice.

tests/upgrade/write_volume.py wrote it, with the code of 0.1.0 itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.database import Server, start_server
from tests.upgrade.machine import Machine, take_identity

FIRST, SECOND, LOCKED = "daily_2026-11-26_02-00-10", "daily_2026-11-27_02-00-10", "manual_2026-11-27_03-00-00"
SAFETY = "pre-restore_2026-11-27_20-00-00"
# The service of 0.1.0 was stopped on the 27th before noon, and today's is started now.
NOW = "28 03:00:00"
FILES = {"uploads/a.txt": b"a file\n", "uploads/Ñ.bin": bytes(range(256))}
SECOND_FILES = FILES | {"kind": b"second", "second": b"second"}
THIRD_FILES = FILES | {"kind": b"third", "second": b"second", "third": b"third"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The server of then, by its identity."""
    made = start_server(17, service="upgraded")
    try:
        take_identity(made)
        yield made
    finally:
        made.remove()


@pytest.fixture
def kept(tmp_path: Path, server: Server) -> Machine:
    """After a restore that can be undone."""
    return Machine.unpack(tmp_path, "kept", server)


@pytest.fixture
def halfway(tmp_path: Path, server: Server) -> Machine:
    """The database of a restore is live, its files are not: it was killed between the two."""
    return Machine.unpack(tmp_path, "halfway", server)


def fields(machine: Machine, *words: str) -> list[dict[str, object]]:
    """The things that the document of a command lists; log lines may go before it."""
    output = machine.run(NOW, *words, "--json").output
    document = json.JSONDecoder().raw_decode(output[output.index('{"format"') :])[0]
    return next(value for value in document.values() if isinstance(value, list))


def failures(machine: Machine) -> list[str]:
    """What `doctor` finds that does not work, but for the scheduler, which is the image's."""
    lines = machine.run(NOW, "doctor").output.splitlines()
    assert len(lines) > 10, lines
    return [line for line in lines if line.startswith("failed") and "supercronic is not installed" not in line]


def test_all_that_was_known_is_known(kept: Machine) -> None:
    listed = {str(each["id"]): each for each in fields(kept, "list")}
    assert set(listed) == {FIRST, SECOND, LOCKED, SAFETY}
    assert all(each["state"] == "complete" and each["good"] for each in listed.values())
    assert [each for each in listed if listed[each]["encrypted"]] == [LOCKED]
    lines = kept.run(NOW, "list").output.splitlines()
    assert "complete, proven, pinned" in next(line for line in lines if FIRST in line)
    assert "before the upgrade" in kept.run(NOW, "show", FIRST).output
    status = kept.run(NOW, "status").output
    assert f"newest proven:   {FIRST}" in status and f"newest offsite:  {LOCKED}" in status
    assert "the last weekly backup failed: database 'no_such_database'" in status
    assert "[upgraded] BACKUP FAILED" in kept.run(NOW, "notify", "--pending").output
    copies = kept.run(NOW, "offsite", "list").output
    assert sum("offsite\there" in line for line in copies.splitlines()) == 3, copies
    assert failures(kept) == []
    for each in listed:
        assert kept.run(NOW, "verify", each).code == 0
    removed = kept.run(NOW, "prune")
    assert removed.code == 0 and {str(each["id"]) for each in fields(kept, "list")} == set(listed), removed.output


def test_what_the_last_restore_replaced_comes_back(kept: Machine) -> None:
    first = kept.live()
    assert first == (kept.then(), FILES)
    assert kept.run(NOW, "undo", "--force").code == 0
    assert kept.live() == (kept.then("__before_"), THIRD_FILES)
    assert kept.run(NOW, "undo", "--force").code == 0
    assert kept.live() == first


def test_each_set_is_restored_exactly(kept: Machine, server: Server) -> None:
    safety = kept.then("__before_"), THIRD_FILES
    first = kept.then(), FILES
    for identifier, whole in ((SAFETY, safety), (FIRST, first)):
        done = kept.run(NOW, "restore", identifier, "--force", "--no-safety")
        assert done.code == 0 and kept.live() == whole, done.output
    found = []
    for identifier in (SECOND, LOCKED):
        assert kept.run(NOW, "restore", identifier, "--force", "--no-safety").code == 0
        found.append(kept.live())
    assert found[0] == found[1] and found[0][1] == SECOND_FILES
    assert server.value("obcms_prod", "SELECT string_agg(name, ' ') FROM person WHERE mood = 'sad'") == "second"
    assert "is proven" in kept.run(NOW, "drill", f"copy:{SECOND}").output


def test_no_job_is_missed_and_none_runs_twice(kept: Machine) -> None:
    def runs(at: str, *words: str) -> bool:
        done = kept.run(at, *words)
        assert done.code in (0, 60, 61), done.output
        return "is not due" not in done.output

    missed = {str(each["job"]) for each in fields(kept, "schedule") if each["missed"]}
    assert missed == {"daily", "monitor"}
    # Accounted for by 0.1.0, also where no job has run yet.
    for words in (("prune",), ("offsite", "verify"), ("drill",), ("create", "weekly")):
        assert not runs(NOW, *words, "--scheduled"), words
    assert runs(NOW, "create", "--scheduled", "daily")
    assert not runs("28 03:01:00", "create", "--scheduled", "daily")
    assert runs("28 05:00:01", "prune", "--scheduled")
    assert not runs("28 05:00:02", "prune", "--scheduled")
    made = [each for each in fields(kept, "list") if str(each["id"]).startswith("daily_2026-11-28")]
    assert len(made) == 1 and made[0]["good"]


@pytest.mark.parametrize("end", ["--resume", "--rollback"])
def test_a_restore_that_was_killed_half_way_is_ended(halfway: Machine, end: str) -> None:
    before = halfway.then("__before_20261128"), FILES | {"kind": b"fourth", "fourth": b"fourth"}
    refused = halfway.run(NOW, "create", "daily")
    assert refused.code == 51 and f"`restore {end}`" in refused.output
    assert "unfinished since 2026-11-28 01:00:0" in halfway.run(NOW, "status").output
    assert any("unfinished" in line for line in failures(halfway))
    ended = halfway.run(NOW, "restore", end)
    assert ended.code == 0, ended.output
    after = halfway.then(), SECOND_FILES
    assert halfway.live() == (after if end == "--resume" else before)
    assert halfway.run(NOW, "create", "daily").code == 0
    if end == "--resume":
        assert halfway.run(NOW, "undo", "--force").code == 0
        assert halfway.live() == before
