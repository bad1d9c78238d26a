"""What incremental media would save is told by real sets, and only where it is much."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from backup.operations.doctor import savings
from tests.support.increments import Stack


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield Stack(tmp_path_factory.mktemp("savings"))


def test_what_is_repeated_is_told(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savings, "_WORTH", 100_000)
    (stack.media / "a").write_bytes(os.urandom(300_000))
    first = stack.night("full")
    assert list(savings.savings([first])) == []
    (stack.media / "b").write_bytes(os.urandom(100_000))
    second = stack.night("full")
    (found,) = savings.savings([second, first])
    assert found.text.startswith(f"{second.id} repeats 30") and found.text.endswith(f"{first.id} holds, too")
    (stack.media / "a").write_bytes(os.urandom(300_000))
    assert list(savings.savings([stack.night("full"), second, first])) == []
    assert list(savings.savings([stack.night(), second, first])) == []
