"""What incremental media would save is told by real sets, and only where it is much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.operations.doctor import savings
from tests.support.increments import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "savings")


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


def test_what_is_told_is_what_it_comes_to(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savings, "_WORTH", 100_000)
    for number in range(20):
        (stack.media / f"{number}").write_bytes(os.urandom(20_000))
    first = stack.night("full")
    stack.night()
    (stack.media / "new").write_bytes(os.urandom(60_000))
    second = stack.night("full")
    made = stack.night()
    (told,) = savings.savings([second, first])
    new = sum(pack.stored_size for pack in made.manifest.packs if made.id in pack.file)
    archive = second.manifest.artifact("volume")
    assert archive
    assert float(told.text.split()[2]) * 1000 == pytest.approx(archive.stored_size - new, rel=0.01)
