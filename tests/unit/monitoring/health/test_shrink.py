"""Tables that lost rows, whatever the others did; and no word of those that always swing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backup.monitoring.health.shrink import Loss, losses, swings

LOG = "public.log"
counts = st.integers(0, 10**6)
# What a table of weight had, day by day, while it was never down to a half of its most.
steady = st.integers(200, 10**6).flatmap(
    lambda most: st.lists(st.integers(most // 2 + 1, most), min_size=1, max_size=30)
)
logs = st.lists(counts, min_size=31, max_size=31)


def days(person: list[int], log: list[int]) -> list[dict[str, int]]:
    return [{"public.person": here, LOG: there} for here, there in zip(person, log, strict=False)]


def told(history: list[dict[str, int]], now: dict[str, int]) -> list[Loss]:
    """What is told after these days, of which the last three are compared with."""
    before = [(f"daily_{number}", rows) for number, rows in enumerate(history)]
    found = losses(now, before[::-1][:3])
    return [loss for loss in found if not swings(loss, [rows.get(loss.table, 0) for rows in history])]


@given(steady, logs, st.floats(0, 0.49), counts)
def test_a_loss_is_told_whatever_other_tables_do(person: list[int], log: list[int], left: float, grown: int) -> None:
    history = days(person, log)
    before = max(person[-3:])
    now = {"public.person": int(left * before), LOG: grown}
    (loss,) = (each for each in told(history, now) if each.table == "public.person")
    assert (loss.rows, loss.before) == (now["public.person"], before)
    assert history[int(loss.id.removeprefix("daily_"))]["public.person"] == before


@given(steady, logs, st.floats(0, 0.49))
def test_a_loss_is_told_again_of_what_is_left(person: list[int], log: list[int], left: float) -> None:
    """The set after it holds what the one before it does."""
    rows = int(left * max(person[-2:]))
    history = days([*person, rows], [*log, 0])
    assert "public.person" in [loss.table for loss in told(history, {"public.person": rows})]


@given(steady, logs)
def test_no_table_that_lost_less_than_half_is_told(person: list[int], log: list[int]) -> None:
    history = days(person, log)
    now = {"public.person": (max(person[-3:]) + 1) // 2, LOG: max(log)}
    assert told(history, now) == []


@given(
    st.lists(st.tuples(st.integers(500, 1000), st.integers(0, 40)), min_size=3, max_size=12),
    st.lists(st.integers(500, 1000), max_size=2),
    st.integers(20, 200),
)
def test_a_table_that_swings_is_told_twice_at_most(swings: list[tuple[int, int]], after: list[int], now: int) -> None:
    """Full, then nearly empty, again and again: the first two times nobody can know."""
    history = [{"q": count} for pair in swings for count in pair] + [{"q": count} for count in after]
    assert told([*history, {"q": 900}], {"q": now}) == []
    assert [loss.table for loss in told(history[:1], {"q": 10})] == ["q"]


@given(st.integers(500, 1000), st.integers(0, 10))
def test_a_loss_that_a_restore_made_good_hides_no_other_one(many: int, few: int) -> None:
    history = [{"p": count} for count in (many, many, few, many, many)]
    assert [loss.table for loss in told(history, {"p": few})] == ["p"]


def test_a_table_that_swings_a_little_may_still_lose_all() -> None:
    history = [{"p": count} for count in (1000, 450, 1000, 450, 1000, 450, 1000)]
    assert told(history, {"p": 450}) == []
    assert [loss.rows for loss in told(history, {"p": 3})] == [3]


def test_what_swung_when_it_was_small_is_no_measure() -> None:
    """As tables do while an application is tried before it goes live."""
    history = [{"p": count} for count in (300, 0, 300, 0, 300, 0, 90_000, 90_000)]
    assert [loss.before for loss in told(history, {"p": 7})] == [90_000]
