"""The roles are read beside the dump, once more alone if that failed, and nobody is left reading them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from backup.errors import DumpFailed
from backup.operations.create.roles_reader import RolesReader


def test_they_are_read_beside_the_dump() -> None:
    reading, asked = threading.Event(), list[str]()

    def read(_waiting: Callable[[], None]) -> str:
        asked.append(threading.current_thread().name)
        reading.set()
        return "CREATE ROLE a;"

    with RolesReader(read) as roles:
        roles.begin()
        assert reading.wait(30), "before anybody asks for them"
        roles.begin()
        assert roles.read() == "CREATE ROLE a;"
    assert len(asked) == 1 and asked[0].startswith("roles")


@pytest.mark.parametrize("begun", [False, True])
def test_what_is_not_begun_or_fails_beside_is_read_alone(begun: bool) -> None:
    """As where the dump has the last connection."""
    asked: list[threading.Thread] = []

    def read(_waiting: Callable[[], None]) -> str:
        asked.append(threading.current_thread())
        if asked[-1] is not threading.main_thread():
            raise DumpFailed("too many clients")
        return "CREATE ROLE a;"

    with RolesReader(read) as roles:
        if begun:
            roles.begin()
        assert roles.read() == "CREATE ROLE a;"
    assert len(asked) == 1 + begun and asked[-1] is threading.main_thread()


def test_what_fails_twice_is_the_runs_failure() -> None:
    def read(_waiting: Callable[[], None]) -> str:
        raise DumpFailed("permission denied")

    with RolesReader(read) as roles, pytest.raises(DumpFailed, match="permission denied"):
        roles.begin()
        roles.read()


def test_when_the_dump_fails_nobody_goes_on_reading() -> None:
    reading, ended = threading.Event(), list[str]()

    def read(waiting: Callable[[], None]) -> str:
        reading.set()
        try:
            while True:
                waiting()
        except DumpFailed as error:
            ended.append(error.message)
            raise

    with pytest.raises(KeyboardInterrupt), RolesReader(read) as roles:
        roles.begin()
        reading.wait(30)
        raise KeyboardInterrupt
    assert ended == ["the roles are not wanted any more"]
