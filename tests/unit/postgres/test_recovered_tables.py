"""What a recovered server lacks is made anew where that can be done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from backup.errors import DatabaseUnavailable
from backup.logging import logger
from backup.postgres import recovered_tables
from backup.postgres.session import Login


class Session:
    """A session that answers these queries."""

    def __init__(self, name: str, did: list[tuple[str, str]]) -> None:
        self.name, self.did = name, did

    def execute(self, query: str) -> Any:
        self.did.append((self.name, query))
        return self

    def fetchall(self) -> list[tuple[str]]:
        return [("owner",)]

    def __iter__(self) -> Iterator[tuple[str]]:
        return iter([("one",), ("broken\x1b[31m",), ("two",)])


def test_a_database_that_cannot_be_entered_keeps_no_other_from_its_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a map all is right, only slow."""
    did, lines = list[tuple[str, str]](), list[str]()

    @contextlib.contextmanager
    def connected(login: Login, _purpose: str, **_: object) -> Iterator[Session]:
        if login.name.startswith("broken"):
            raise DatabaseUnavailable("cannot connect to invalid database", "")
        yield Session(f"{login.user}@{login.name}", did)

    monkeypatch.setattr(recovered_tables, "connected", connected)
    sink = logger.add(lines.append, format="{message}")
    try:
        recovered_tables.make_maps(Login("", 5432, "app", "main"))
    finally:
        logger.remove(sink)
    assert [name for name, query in did if query.startswith("VACUUM")] == ["owner@one", "owner@two"]
    (said,) = lines
    assert "broken\\x1b[31m: VACUUM it once" in said and "cannot connect to invalid database" in said
