"""How much room there is, as a helper says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from backup.docker.engine import Engine
from backup.docker.helper import Helper
from backup.errors import EngineError


@dataclass
class Ended:
    """A helper that has ended; `said` is what the engine has of its words."""

    code: int
    said: str
    closed: bool = False

    def wait(self) -> int:
        return self.code

    def errors(self) -> str:
        return self.said

    def close(self) -> None:
        self.closed = True


def room(monkeypatch: pytest.MonkeyPatch, *helpers: Ended) -> tuple[int, int]:
    left = iter(helpers)
    monkeypatch.setattr(Helper, "start", lambda *_, **__: next(left))
    engine: Any = object.__new__(Engine)
    engine.__dict__["api"] = None
    return Engine.room(engine, "image", "/there", {})


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_words_that_the_engine_has_lost_are_asked_for_again(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers = [*(Ended(0, "") for _ in range(lost)), Ended(0, "3 4096 100000002\n")]
    assert room(monkeypatch, *helpers) == (12288, 2 << 32 | 1)
    assert all(each.closed for each in helpers)


@pytest.mark.parametrize(
    ("helpers", "told"),
    [
        ([Ended(0, "")] * 3, "said nothing, and ended with exit code 0"),
        ([Ended(137, "")], "exit code 137"),
        ([Ended(1, "stat: no such file")], "stat: no such file"),
        ([Ended(0, "much")], "unknown: much"),
    ],
)
def test_what_is_unknown_is_told(helpers: list[Ended], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=told):
        room(monkeypatch, *helpers)
