"""Which base brings a moment back, and what is said where none does."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from backup.errors import NotFound
from backup.model.moment import Wanted
from backup.model.wal import Received
from backup.operations.pitr.base_choice import Cluster, choose
from tests.unit.model.test_wal import SIZE, at, base, stream, whole

ZONE = ZoneInfo("Europe/Berlin")
# Broken from four to six o'clock.
BROKEN = Cluster(
    [base(2, 2), base(6, 6), base(7, 7)], Received(whole(range(2, 5)) | whole(range(6, 8)), stream(8, 8.5))
)


@pytest.mark.parametrize(("hour", "chosen"), [(2, "b2"), (3.5, "b2"), (6, "b6"), (6.9, "b6"), (8.5, "b7")])
def test_the_newest_base_before_the_moment_is_chosen(hour: float, chosen: str) -> None:
    assert choose([BROKEN], Wanted(at(hour)), ZONE).id == chosen


@pytest.mark.parametrize(
    ("hour", "why"),
    [
        (1, "the window begins at 2026-11-28 03:00:00 Europe/Berlin"),
        (5, "the window is broken from 2026-11-28 05:00:00 Europe/Berlin to 2026-11-28 07:00:00 Europe/Berlin"),
        (9, "the last possible moment is 2026-11-28 09:30:00 Europe/Berlin"),
    ],
)
def test_a_moment_that_none_brings_back_is_told_with_those_that_can_be_had(hour: float, why: str) -> None:
    with pytest.raises(NotFound) as refused:
        choose([BROKEN], Wanted(at(hour)), ZONE)
    assert why in refused.value.message
    assert "from 2026-11-28 03:00:00 Europe/Berlin to 2026-11-28 05:00:00" in refused.value.hint


def test_no_second_is_named_that_would_be_refused() -> None:
    early, late = (base(number, number + 0.3 / 3600) for number in (2, 6))
    parts = Cluster([early, late], Received({early.first: at(4), late.first: at(6 + 0.8 / 3600)}))
    with pytest.raises(NotFound) as refused:
        choose([parts], Wanted(at(2)), ZONE)
    assert "begins at 2026-11-28 03:00:01" in refused.value.message
    assert "from 2026-11-28 03:00:01 Europe/Berlin to 2026-11-28 05:00:00 Europe/Berlin. " in refused.value.hint


def test_a_part_that_holds_no_whole_second_is_still_told_from_none() -> None:
    early = base(2, 2 + 0.3 / 3600)
    with pytest.raises(NotFound) as refused:
        choose([Cluster([early], Received({early.first: at(2 + 0.8 / 3600)}))], Wanted(at(3)), ZONE)
    assert "the last possible moment is 2026-11-28 03:00:00.800000 Europe/Berlin" in refused.value.message
    assert "from 2026-11-28 03:00:00.300000 Europe/Berlin to 2026-11-28 03:00:00.8" in refused.value.hint


def test_without_a_base_there_is_no_moment() -> None:
    with pytest.raises(NotFound, match="no moment can be brought back") as refused:
        choose([], Wanted(at(1)), ZONE)
    assert "BACKUP_PITR=on" in refused.value.hint


@pytest.mark.parametrize(
    ("place", "chosen"),
    [
        (2 * SIZE + 299, ""),
        (2 * SIZE + 300, "b2"),
        (5 * SIZE - 1, "b2"),
        (5 * SIZE, ""),
        (6 * SIZE + 300, "b6"),
        (8 * SIZE + 500, "b7"),
        (8 * SIZE + 501, ""),
    ],
)
def test_a_place_is_within_what_is_behind_a_base_and_was_received(place: int, chosen: str) -> None:
    if chosen:
        assert choose([BROKEN], Wanted(place=place), ZONE).id == chosen
        return
    with pytest.raises(NotFound, match="is not in the WAL that is here"):
        choose([BROKEN], Wanted(place=place), ZONE)


def test_of_two_clusters_the_one_that_was_there_is_taken() -> None:
    older = Cluster([base(1, 1).model_copy(update={"system_identifier": "2"})], Received(whole(range(1, 3))))
    assert choose([BROKEN, older], Wanted(at(2) - timedelta(minutes=1)), ZONE).system_identifier == "2"
    assert choose([BROKEN, older], Wanted(at(3)), ZONE).system_identifier == "1"
