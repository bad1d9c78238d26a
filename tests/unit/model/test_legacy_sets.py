"""Which files without a manifest are one set: each belongs to exactly one, whatever the order they are listed in."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.model.legacy_sets import WITHIN, pair
from backup.model.manifest import Tier, parse_file_name, stamp_time
from tests.support.set_factory import UTC_ZONE


def paired(*names: str, taken: tuple[str, ...] = ()) -> list[list[str]]:
    """The sets of these files in the folder `daily`, each as what its names end with."""
    parsed = {name: found for name in names if (found := parse_file_name(name, Tier.DAILY))}
    assert len(parsed) == len(names)
    return sorted(sorted(files) for files in pair(parsed, taken, UTC_ZONE).values())


def dump(at: str) -> str:
    return f"obcms_backup_daily_2025-10-20_{at}.sql.gz"


def archive(at: str, volume: str = "media") -> str:
    return f"obcms_{volume}_daily_2025-10-20_{at}.tar.gz"


def test_an_archive_belongs_to_the_dump_before_it() -> None:
    files = dump("02-00-00"), archive("02-00-07")
    assert paired(*files) == [[*files]]


def test_two_runs_a_few_minutes_apart_never_mix() -> None:
    first, second = (dump("02-00-00"), archive("02-00-20")), (dump("02-02-00"), archive("02-02-20"))
    assert paired(*first, *second) == [[*first], [*second]]
    assert paired(first[0], *second) == [[first[0]], [*second]]
    assert paired(*first, second[1]) == [[*first], [second[1]]], "an archive of a run whose dump failed"
    assert paired(first[1], *second) == [[*second], [first[1]]], "nor is one of an older dump"


@pytest.mark.parametrize(("at", "together"), [("02-05-00", True), ("02-05-01", False), ("01-59-59", False)])
def test_five_minutes_are_the_limit_and_only_what_comes_after_counts(at: str, together: bool) -> None:
    assert (len(paired(dump("02-00-00"), archive(at))) == 1) is together


def test_of_several_volumes_each_is_in_a_set_once() -> None:
    files = dump("02-00-00"), archive("02-00-07"), archive("02-00-09", "ocr")
    again = archive("02-00-30")
    assert paired(*files, again) == [sorted(files), [again]]
    alone = archive("03-00-00"), archive("03-00-00", "ocr")
    assert paired(*alone) == [[*alone]], "of one second they are one, as ever"


def test_dumps_of_older_names_lead_sets_too() -> None:
    for name in (
        "obcms_backup_20251020_020000.sql.gz",
        "obcms_backup_20251020_020000.sql",
        "bmms_pilot_20251020_020000.sql",
    ):
        assert paired(name, archive("02-00-07")) == [sorted([name, archive("02-00-07")])]
        found = pair({name: parse_file_name(name, Tier.WEEKLY)}, (), UTC_ZONE)  # type: ignore[dict-item]
        assert found == {"weekly_2025-10-20_02-00-00": [name]}, "its tier is the folder's"
        assert parse_file_name(name) is None, "and nothing tells it elsewhere"
    assert parse_file_name("obcms_backup_20251340_020000.sql.gz", Tier.DAILY) is None


def test_two_dumps_of_one_second_are_two_sets() -> None:
    twin = "obcms_backup_20251020_020000.sql.gz"
    files = twin, dump("02-00-00"), archive("02-00-00"), dump("02-00-01")
    found = pair({name: parse_file_name(name, Tier.DAILY) for name in files}, (), UTC_ZONE)  # type: ignore[misc]
    assert found == {
        "daily_2025-10-20_02-00-00": [*files[1:3]],
        "daily_2025-10-20_02-00-01": [files[3]],
        "daily_2025-10-20_02-00-02": [twin],
    }
    ours = pair({twin: parse_file_name(twin, Tier.DAILY)}, {"daily_2025-10-20_02-00-00"}, UTC_ZONE)  # type: ignore[dict-item]
    assert ours == {"daily_2025-10-20_02-00-01": [twin]}, "nor does it enter a set that has a manifest"


seconds = st.integers(0, 900).map(lambda each: f"{2 + each // 3600:02d}-{each // 60 % 60:02d}-{each % 60:02d}")
tiers = st.sampled_from(["daily", "weekly"])
names = st.one_of(
    st.builds("obcms_backup_{}_2025-10-20_{}.sql.gz{}".format, tiers, seconds, st.sampled_from(["", ".age"])),
    st.builds(
        "obcms_{}_{}_2025-10-20_{}.tar.gz{}".format,
        *(st.sampled_from(["media", "ocr", "backup"]), tiers, seconds, st.sampled_from(["", ".age"])),
    ),
    st.builds(
        "{}_20251020_{}.sql{}".format,
        *(st.sampled_from(["obcms_backup", "bmms_pilot"]), seconds.map(lambda each: each.replace("-", ""))),
        st.sampled_from(["", ".gz"]),
    ),
)


@given(st.lists(names, unique=True, max_size=14), st.randoms(use_true_random=False), st.sets(seconds, max_size=3))
def test_every_file_is_in_one_set_of_one_dump_and_one_archive_a_volume(listed: list[str], chance, others) -> None:  # type: ignore[no-untyped-def]
    parsed = {name: found for name in listed if (found := parse_file_name(name, Tier.DAILY))}
    taken = {f"daily_2025-10-20_{each}" for each in others}
    found = pair(parsed, taken, UTC_ZONE)
    assert sorted(name for files in found.values() for name in files) == sorted(listed)
    for identifier, files in found.items():
        parts = [parsed[name] for name in files]
        assert max(Counter((part.content, part.what) for part in parts).values()) == 1
        assert len({part.tier for part in parts}) == 1 and identifier.startswith(f"{parts[0].tier}_")
        times = [stamp_time(part.stamp, UTC_ZONE) for part in sorted(parts, key=lambda part: part.content)]
        assert all(timedelta() <= time - times[0] <= WITHIN for time in times)
    assert not taken & found.keys()
    shuffled = list(parsed.items())
    chance.shuffle(shuffled)
    assert pair(dict(shuffled), taken, UTC_ZONE) == found
