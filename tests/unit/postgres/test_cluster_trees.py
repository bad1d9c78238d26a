"""Whatever ends an exchange between two renames: no server can start on what is there, and either tree can be had."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from backup.docker.container import DataPlace
from backup.errors import DatabaseUnavailable, RestoreFailed, RestoreUnfinished
from backup.postgres import cluster_trees
from backup.postgres.cluster_trees import ClusterTree, ClusterTrees, look_at
from tests.support.examples import every

STAMP = "20261128160500"
# What the server makes; and what is the operator's.
MADE = ("PG_VERSION", "base", "global", "pg_wal", "pg_xact")
STAYS = ("postgresql.conf", "pg_hba.conf", "server.key", "conf.d", "log")
EVERY = every(7)
SIDES: tuple[ClusterTree, ClusterTree] = ("new", "old")
MOVES = 2 * len(MADE)
MOVE = 'mv "$1/$3" "$2/$3"'


@dataclass
class Server:
    """Runs the scripts here, beside a pg_controldata that says what `state` is."""

    folder: Path
    tools: Path
    state: str = "shut down"
    broken: int = 0

    @property
    def place(self) -> DataPlace:
        return DataPlace("id", "db", "image", "volume", "data", str(self.folder), str(self.folder))

    def run(self, script: str, words: Sequence[str]) -> tuple[int, list[str], str]:
        if self.broken:
            one = f'{MOVE}; moved=$((${{moved:-0}} + 1)); [ "$moved" != {self.broken} ] || exit 9'
            script = script.replace(MOVE, one)
        environment = {"PATH": f"{self.tools}:{os.environ['PATH']}", "STATE": self.state}
        command = ["sh", "-c", script, str(self.folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr

    def trees(self) -> ClusterTrees:
        return ClusterTrees(cast(Any, self), STAMP)

    def settle(self, live: ClusterTree, broken: int = 0) -> None:
        self.broken = broken
        try:
            self.trees().settle(live)
        except RestoreUnfinished:
            assert broken
        finally:
            self.broken = 0

    def sides(self, folder: str = ".") -> set[str]:
        """Whose entries lie there."""
        return {path.read_text() for each in MADE if (path := self.mark(folder, each)).exists()}

    def mark(self, folder: str, name: str) -> Path:
        path = self.folder / folder / name
        return path if name == "PG_VERSION" else path / "mark"

    def beside(self, side: str) -> str:
        return f"pgsql_tmp_obcms_{STAMP}/{side}"

    def whole(self, folder: str, side: str) -> bool:
        return self.sides(folder) == {side} and all(self.mark(folder, each).exists() for each in MADE)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A folder with a live cluster, and a new one beside it."""
    made = Server(tmp_path / "data", tmp_path / "tools")
    for folder in (made.folder, made.tools):
        folder.mkdir()
    tool = made.tools / "pg_controldata"
    tool.write_text(
        '#!/bin/sh\necho "Database system identifier:           7"\necho "Database cluster state:   $STATE"\n'
    )
    tool.chmod(0o755)
    made.trees().prepare()
    for folder_name, side in ((".", "old"), (made.beside("new"), "new")):
        for each in MADE:
            path = made.mark(folder_name, each)
            path.parent.mkdir(exist_ok=True)
            path.write_text(side)
    for each in STAYS:
        (made.folder / each).write_text("old")
        (made.folder / made.beside("new") / each).write_text("new")
    return made


def is_sound(server: Server, live: ClusterTree) -> None:
    """That tree is live, whole, and so is the other one; what is the operator's was not moved."""
    other = "old" if live == "new" else "new"
    assert server.whole(".", live) and server.whole(server.beside(other), other)
    assert server.sides(server.beside(live)) == set()
    assert server.trees().state() == live
    assert {(server.folder / each).read_text() for each in STAYS} == {"old"}


def cannot_start(server: Server) -> None:
    """A server needs global; where that is, one tree is there as a whole."""
    if (server.folder / "global").exists():
        assert server.whole(".", "old") or server.whole(".", "new")
        assert server.trees().state() in ("old", "new")
    else:
        assert server.trees().state() == "moving"


def test_both_ways(server: Server) -> None:
    for live in (*SIDES, *SIDES, "new"):
        server.settle(live)
        server.settle(live)
        is_sound(server, live)
    assert server.trees().taken() > 0
    server.trees().discard()
    server.trees().discard()
    assert server.whole(".", "new") and server.trees().state() == "absent"
    assert [path.name for path in server.folder.glob("pgsql*")] == []


@pytest.mark.search
@pytest.mark.parametrize("first", range(1, MOVES + 1))
@pytest.mark.long
def test_ended_behind_any_rename_it_goes_on_or_turns_round(server: Server, first: int) -> None:
    """Ended once, then once more in either direction behind any rename, then completed in either."""
    # Each of the ways on is tried behind one or two of the first.
    ways = list(itertools.product(range(MOVES + 1), SIDES, SIDES))
    for second, turn, last in ways[first % EVERY :: EVERY]:
        server.settle("old")
        is_sound(server, "old")
        server.settle("new", first)
        cannot_start(server)
        server.settle(turn, second)
        cannot_start(server)
        server.settle(last)
        is_sound(server, last)


def test_a_server_that_runs_or_did_not_shut_down_is_left_alone(server: Server) -> None:
    server.state = "in production"
    with pytest.raises(DatabaseUnavailable, match="was not shut down"):
        server.trees().settle("new")
    server.state = "shut down"
    (server.folder / "postmaster.pid").write_text("1")
    with pytest.raises(DatabaseUnavailable, match="a server is running"):
        server.trees().settle("new")
    is_sound(server, "old")


def test_nothing_is_overwritten(server: Server) -> None:
    (server.folder / server.beside("old") / "pg_xact").mkdir()
    with pytest.raises(RestoreUnfinished, match="pg_xact is in"):
        server.trees().settle("new")
    cannot_start(server)
    (server.folder / server.beside("old") / "pg_xact").rmdir()
    server.settle("old")
    is_sound(server, "old")


def test_nothing_is_removed_in_the_middle_of_an_exchange(server: Server) -> None:
    server.settle("new", 3)
    with pytest.raises(RestoreFailed, match="no whole cluster"):
        server.trees().discard()
    server.settle("old")
    is_sound(server, "old")


def test_what_a_look_finds(server: Server) -> None:
    (server.folder / "pg_tblspc").mkdir()
    (server.folder / "postmaster.pid").write_text("1\n/data\n1700000000\n5432\n")
    found = look_at(cast(Any, server))
    assert (found.system_identifier, found.started, found.links, found.tablespaces) == ("7", 1700000000, (), False)
    assert found.owner == f"{os.getuid()}:{os.getgid()}" and found.free > 0
    (server.folder / "pg_wal").rename(server.folder / "elsewhere")
    (server.folder / "pg_wal").symlink_to("elsewhere")
    (server.folder / "pg_tblspc" / "16384").symlink_to("/elsewhere")
    (server.folder / "extension's own").mkdir()
    (server.folder / "conf.d").unlink()
    (server.folder / "conf.d").mkdir()
    found = look_at(cast(Any, server))
    assert found.others == ("elsewhere/", "extension's own/")
    assert set(found.links) == {"pg_wal"} and found.tablespaces


def test_only_a_restore_is_named(server: Server) -> None:
    for stamp in ("", "../..", "2026", "x" * 14):
        with pytest.raises(RestoreFailed):
            ClusterTrees(cast(Any, server), stamp).discard()
    assert cluster_trees._SETTLE.count(MOVE) == 1, "what this test breaks"
