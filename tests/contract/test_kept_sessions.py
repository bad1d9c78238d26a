"""Questions that share a session: the same answers, and no session that has ended or that another one is in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from backup.errors import DatabaseUnavailable
from backup.postgres import server, session
from backup.postgres.session import Login, asking, keeping
from tests.support.database import PASSWORD, USER, Server
from tests.support.faults import eventually

# Whom a session is kept for is ours.
pytestmark = pytest.mark.one_version


@pytest.fixture
def login(any_server: Server) -> Iterator[Login]:
    database = any_server.new_database()
    yield Login(any_server.address, 5432, USER, database, PASSWORD)
    eventually(lambda: of_the_product(any_server) == 0)


def of_the_product(server: Server) -> int:
    """How many sessions of the product there are. One that was ended takes a moment to go."""
    return len([each for each in server.sessions() if "obcms-backup" in each])


def backend(login: Login) -> int:
    with asking(login, "backend") as connection:
        return connection.info.backend_pid


def test_questions_share_a_session_while_they_are_kept(login: Login, any_server: Server) -> None:
    assert backend(login) != backend(login)
    with keeping():
        first = backend(login)
        with keeping():
            assert backend(login) == first
        assert backend(login) == first
        assert server.identity(login) == server.identity(login)
        server.role_statements(login)
        with asking(Login(login.host, 5432, USER, "postgres", PASSWORD), "named") as connection:
            row = connection.execute("SHOW application_name").fetchone()
            zone = connection.execute("SELECT setting = reset_val FROM pg_settings WHERE name = 'TimeZone'").fetchone()
        assert row == ("obcms-backup named",) and zone == (True,)
        eventually(lambda: of_the_product(any_server) == 2)


def test_two_at_once_have_a_session_each(login: Login) -> None:
    with keeping(), asking(login, "one") as one, asking(login, "two") as two:
        assert one.info.backend_pid != two.info.backend_pid


def test_one_that_has_ended_or_grown_old_is_not_used_again(
    login: Login, any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with keeping():
        first = backend(login)
        any_server.value("postgres", f"SELECT pg_terminate_backend({first}, 10000)")
        second = backend(login)
        assert second != first
        monkeypatch.setattr(session, "_KEPT_FOR", -1.0)
        third = backend(Login(login.host, 5432, USER, "postgres", PASSWORD))
        assert backend(Login(login.host, 5432, USER, "postgres", PASSWORD)) != third


def test_one_that_went_wrong_is_not_used_again(login: Login) -> None:
    with keeping():
        with pytest.raises(DatabaseUnavailable), asking(login, "wrong") as connection:
            wrong = connection.info.backend_pid
            connection.execute("SELECT nothing")
        assert backend(login) != wrong
        with pytest.raises(ZeroDivisionError), asking(login, "ours") as connection:
            ours = connection.info.backend_pid
            raise ZeroDivisionError
        assert backend(login) != ours


def test_nobody_stays_in_a_template(login: Login, any_server: Server) -> None:
    any_server.execute(
        "postgres", "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; CREATE ROLE outside LOGIN PASSWORD 'x'"
    )
    try:
        with keeping():
            assert server.databases(Login(login.host, 5432, "outside", login.name, "x"))
            eventually(lambda: of_the_product(any_server) == 0)
    finally:
        any_server.execute("postgres", "GRANT CONNECT ON DATABASE postgres TO PUBLIC; DROP ROLE outside")


def test_what_is_given_back_late_is_ended(login: Login) -> None:
    with contextlib.ExitStack() as late:
        with keeping():
            late.enter_context(asking(login, "late"))
    with keeping(), asking(login, "one"), asking(login, "two"):
        pass
