"""Whether a base backup may hold only what has changed, and what of it must not be kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backup.model.wal import Base, WindowProof, chain
from backup.operations.pitr.increment import flaw, known_lengths, parent_of, words
from backup.postgres.base_backup import SEGMENT_BLOCKS, BaseContent
from backup.postgres.replication import ClusterFacts
from tests.support.facts import NOW
from tests.support.windows import SIZE, SYSTEM, a_base

DAY = timedelta(days=1)
FACTS = ClusterFacts("17.12", SYSTEM, SIZE, True, False, 10**9, ("obcms_prod",), ())


def night(number: int, parent: Base | None = None, **more: object) -> Base:
    """The base of a night, six nights ago being the first."""
    base = a_base(10 + number, NOW - (6 - number) * DAY)
    return base.model_copy(update={"summarized": True, "parent": parent.id if parent else "", **more})


FULL = night(2)
STEP = night(3, FULL)
CHAIN = [FULL, STEP]


def test_it_builds_on_the_newest() -> None:
    assert parent_of([FULL], FACTS, 1, None, NOW) == FULL
    assert parent_of(CHAIN, FACTS, 1, None, NOW) == STEP
    assert words(STEP, "") == f"incremental, on {FULL.id}" and words(FULL, "x") == "full: x"


def test_a_full_one_is_taken_each_seventh_night() -> None:
    full = night(0)
    nights = [full]
    kinds = []
    for number in range(1, 15):
        # A little earlier each night.
        now = full.ended + number * DAY - number * timedelta(minutes=1)
        parent = parent_of(nights, FACTS, 1, None, now)
        kinds.append("i" if isinstance(parent, Base) else "F")
        made = a_base(20 + number, now).model_copy(update={"summarized": True})
        nights.append(made.model_copy(update={"parent": parent.id}) if isinstance(parent, Base) else made)
    assert "".join(kinds) == "iiiiiiFiiiiiiF"


@pytest.mark.parametrize(("hours", "most"), [(1, 28), (4, 28), (6, 26), (24, 7)])
def test_no_chain_is_longer_than_a_recovery_should_combine(hours: int, most: int) -> None:
    bases, longest, fulls = [night(0)], 1, 1
    for number in range(1, 20 * 24 // hours):
        now = bases[0].ended + number * timedelta(hours=hours)
        parent = parent_of(bases, FACTS, 1, None, now)
        made = a_base(20 + number, now).model_copy(update={"summarized": True})
        bases.append(made.model_copy(update={"parent": parent.id}) if isinstance(parent, Base) else made)
        fulls += isinstance(parent, str)
        longest = max(longest, len(chain(bases[-1], bases)))
        assert isinstance(parent, Base) or "week old" in parent or "28 build on each other" in parent
    assert longest == most and fulls == -(-len(bases) // most)


@pytest.mark.parametrize(
    ("bases", "facts", "timeline", "said"),
    [
        (CHAIN, replace(FACTS, server_version="16.4", summarizing=False), 1, "PostgreSQL 16 has no"),
        (CHAIN, replace(FACTS, server_version="15.20 (Debian 15.20-0+deb12u1)"), 1, "PostgreSQL 15 has no"),
        (CHAIN, replace(FACTS, summarizing=False), 1, "summarize_wal is off"),
        ([], FACTS, 1, "the first one"),
        ([STEP], FACTS, 1, "builds on is not here"),
        (CHAIN, FACTS, 2, "another timeline"),
        (CHAIN, replace(FACTS, server_version="18.6"), 1, "is of PostgreSQL 17"),
        (CHAIN, replace(FACTS, checksums=True), 1, "checksums of pages were switched"),
        ([FULL, STEP.model_copy(update={"summarized": False})], FACTS, 1, "no summaries of WAL"),
        ([night(6)], FACTS, 1, "of the future"),
    ],
)
def test_anything_else_is_a_full_one_and_why(bases: list[Base], facts: ClusterFacts, timeline: int, said: str) -> None:
    found = parent_of(bases, facts, timeline, None, NOW)
    assert isinstance(found, str) and said in found


def test_after_a_drill_that_failed_none_builds_on_what_was_drilled() -> None:
    proof = WindowProof(tried=STEP.ended, base=STEP.id, moment=STEP.ended, problem="damaged")
    assert parent_of(CHAIN, FACTS, 1, proof, NOW) == "the last drill of the window failed"
    assert parent_of(CHAIN, FACTS, 1, proof.model_copy(update={"tried": FULL.started}), NOW) == STEP
    assert parent_of(CHAIN, FACTS, 1, proof.model_copy(update={"problem": ""}), NOW) == STEP


def content(taken: dict[tuple[int, int, int], int], parent: str = FULL.start, timeline: int = 1) -> BaseContent:
    lengths = {key: block + 1 for key, block in taken.items()}
    return BaseContent(timeline, STEP.start, STEP.end, b"", parent, taken, lengths, 1, 1)


def test_one_of_which_nothing_was_cut_is_kept() -> None:
    assert flaw(FULL, content({(5, 100, 0): 7, (5, 101, 0): 131071}), {}) == ""
    # Cut, but only what is before that is taken from the one before.
    assert flaw(FULL, content({(5, 100, 0): 7, (5, 100, 1): 4}), {(5, 100): SEGMENT_BLOCKS + 5, (5, 101): 1}) == ""


@pytest.mark.parametrize(
    ("taken", "cut"),
    [
        ({(5, 100, 0): 7}, {(5, 100): 7}),
        ({(5, 100, 1): 5}, {(5, 100): SEGMENT_BLOCKS + 5}),
        ({(0, 1, 0): 9}, {(0, 1): 2}),
    ],
)
def test_old_rows_behind_a_cut_are_not_taken_back(
    taken: dict[tuple[int, int, int], int], cut: dict[tuple[int, int], int]
) -> None:
    assert "was cut by VACUUM and has grown again" in flaw(FULL, content(taken), cut)


def test_nor_those_behind_a_cut_of_an_earlier_night() -> None:
    """The full one still has them, and pg_combinebackup would find them there."""
    cut = {(5, 100): 4, (5, 101): 9, (5, 102): 1}
    first = content({(5, 100, 0): 3, (5, 103, 0): 70})
    first = replace(first, lengths={**first.lengths, (5, 101, 0): 12, (5, 101, 1): 5})
    step = STEP.model_copy(update={"shortened": known_lengths(FULL, first, cut)})
    assert step.shortened == ((5, 100, 0, 4), (5, 101, 0, 12), (5, 101, 1, 5))
    night = {"parent": step.start}
    for grown in ({(5, 100, 0): 4}, {(5, 101, 0): 12}, {(5, 101, 1): 5}):
        assert "was cut by VACUUM and has grown again" in flaw(step, content(grown, **night), {})
    kept = content({(5, 100, 0): 3, (5, 101, 0): 11, (5, 101, 1): 4, (5, 102, 0): 9, (5, 103, 0): 99}, **night)
    assert flaw(step, kept, {}) == ""
    # It is known of each that builds on it, with what it has grown to by then.
    assert known_lengths(step, kept, {(5, 103): 1}) == (
        *((5, 100, 0, 4), (5, 101, 0, 12), (5, 101, 1, 5)),
        (5, 103, 0, 100),
    )


def test_what_pg_combinebackup_would_refuse_is_not_kept() -> None:
    assert "blocks beyond its end" in flaw(FULL, content({(5, 100, 0): SEGMENT_BLOCKS}), {})


@pytest.mark.parametrize(("parent", "timeline"), [("", 1), (STEP.start, 1), (FULL.start, 2)])
def test_one_that_builds_on_another_is_not_kept(parent: str, timeline: int) -> None:
    assert "builds on" in flaw(FULL, content({}, parent, timeline), {})
