"""What a snapshot saw, by the numbers that the WAL has."""

from __future__ import annotations

import pytest

from backup.model.snapshot import DumpSnapshot


def snapshot(transactions: str) -> DumpSnapshot:
    return DumpSnapshot(transactions=transactions, place="0/1", timeline=1)


@pytest.mark.parametrize(
    ("transactions", "seen", "unseen"),
    [
        ("100:100:", (3, 99), (100, 101, 5000)),
        ("90:100:90,95", (89, 91, 99), (90, 95, 100)),
        # Numbers of 64 bits, of which the WAL has the lower half; and it has just come round.
        (f"{(7 << 32) - 2}:{(7 << 32) + 10}:{(7 << 32) - 1}", (9, 2**32 - 2, 2**32 - 3), (10, 2**32 - 1, 500)),
    ],
)
def test_it_saw_what_had_ended(transactions: str, seen: tuple[int, ...], unseen: tuple[int, ...]) -> None:
    saw = snapshot(transactions).seeing()
    assert [each for each in (*seen, *unseen) if saw(each)] == list(seen)


def test_what_is_no_snapshot_is_refused() -> None:
    for text in ("", "a:b:", "1"):
        with pytest.raises(ValueError):
            snapshot(text).seeing()
