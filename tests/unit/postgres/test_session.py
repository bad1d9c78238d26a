"""Sessions of our own: what a server that is full for a moment makes of them. The rest is tried on real servers."""

from __future__ import annotations

from typing import NoReturn

import psycopg
import pytest

from backup.errors import BackupError
from backup.postgres import session
from backup.postgres.session import Login, connected

LOGIN = Login("127.0.0.1", 1, "u", "d")


@pytest.mark.parametrize(
    "full",
    [
        "FATAL:  sorry, too many clients already",
        'FATAL:  too many connections for role "u"',
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    ],
)
def test_a_server_that_is_full_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """Sessions that have just ended are counted for a moment longer, and a restore needs the next one at once."""
    said: list[str] = []
    answers = [full, full, "FATAL:  it is another reason"]

    def refused(*_: object, **__: object) -> NoReturn:
        said.append(answers[min(len(said), len(answers) - 1)])
        raise psycopg.OperationalError(said[-1])

    monkeypatch.setattr(psycopg, "connect", refused)
    with pytest.raises(BackupError, match="another reason"), connected(LOGIN, "test"):
        pass
    assert said == answers
    # Not for ever.
    answers[:] = [full]
    monkeypatch.setattr(session, "_FULL_FOR", 0.1)
    with pytest.raises(BackupError, match=full[8:20]), connected(LOGIN, "test"):
        pass
    assert len(said) > 4
