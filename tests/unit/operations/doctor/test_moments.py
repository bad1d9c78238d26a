"""What the doctor says of point-in-time recovery: each lack with the statement that mends it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backup.errors import BackupError
from backup.model.finding import Finding
from backup.operations.doctor import moments
from backup.postgres.replication import ClusterFacts
from backup.postgres.wal_rights import WalRights
from backup.postgres.wal_slot import Slots, SlotState
from tests.support.facts import NOW
from tests.support.windows import a_base, a_stream, a_window

RIGHTS = WalRights(role="obcms_user", allowed=True, level="replica", senders=10, used=1, standby=False)
HOUR = timedelta(hours=1)


def told(streaming: bool = True, tablespaces: tuple[str, ...] = (), **changed: object) -> list[Finding]:
    rights = replace(RIGHTS, **changed)  # type: ignore[arg-type]
    return list(moments.server(rights, tablespaces, streaming=streaming))


@pytest.mark.parametrize("level", ["replica", "logical"])
def test_all_is_well(level: str) -> None:
    (line,) = told(level=level)
    assert (line.level, line.text) == (
        "pass",
        f"obcms_user may receive WAL (wal_level {level}; 1 of 10 senders are in use)",
    )


@pytest.mark.parametrize(
    ("changed", "level", "words", "remedy"),
    [
        ({"level": "minimal"}, "fail", "wal_level is minimal", "ALTER SYSTEM SET wal_level = 'replica';"),
        ({"allowed": False}, "fail", "may not receive WAL", "ALTER ROLE obcms_user REPLICATION;"),
        ({"senders": 0, "used": 0}, "fail", "0 of max_wal_senders = 0", "ALTER SYSTEM SET max_wal_senders = 6;"),
        ({"used": 10}, "fail", "1 more is needed", "ALTER SYSTEM SET max_wal_senders = 16;"),
        ({"standby": True}, "fail", "is a standby", "primary"),
        ({"tablespaces": ("fast\x1b[31m",)}, "fail", "tablespaces of its own", "BACKUP_PITR=off"),
    ],
)
def test_each_lack_says_what_to_do(changed: dict[str, object], level: str, words: str, remedy: str) -> None:
    (line,) = told(**changed)  # type: ignore[arg-type]
    assert (line.level, words in line.text, remedy in line.hint, "\x1b" in line.text) == (level, True, True, False)


def test_senders_are_counted_for_the_stream_and_a_base() -> None:
    assert told(streaming=False, used=8)[0].level == "pass"
    assert told(streaming=False, used=9)[0].level == "warn"
    assert told(streaming=True, used=9)[0].level == "pass"
    assert told(streaming=False, used=10)[0].level == "fail"


def test_several_lacks_are_all_told() -> None:
    assert len(told(level="minimal", allowed=False, senders=0, used=0, tablespaces=("a", "b"))) == 4


def test_who_is_let_in_nowhere_is_told_what_to_write() -> None:
    few = replace(RIGHTS, used=RIGHTS.senders - 1)
    refused = BackupError("no pg_hba.conf entry", "of another kind")
    *_, line = moments.server(few, (), streaming=False, refused=refused)
    assert (line.level, "no pg_hba.conf" in line.text) == ("fail", True)
    assert "`host replication obcms_user ADDRESS" in line.hint
    (line,) = moments.server(RIGHTS, (), streaming=False, refused=BackupError("timed out", "wait"))
    assert ("timed out" in line.text, line.hint) == (True, "wait")


def test_a_refusal_that_has_a_reason_already_is_told_once() -> None:
    (line,) = moments.server(
        replace(RIGHTS, allowed=False), (), streaming=False, refused=BackupError("permission denied")
    )
    assert "may not receive WAL" in line.text


@pytest.mark.parametrize(("there", "level", "hint"), [(True, "pass", ""), (False, "warn", "docker pull postgres:17")])
def test_the_image_of_a_server_elsewhere_is_told(there: bool, level: str, hint: str) -> None:
    line = moments.recovery("postgres:17", there=there)
    assert (line.level, "postgres:17" in line.text, hint in line.hint) == (level, True, True)


def test_the_room_is_what_is_still_to_come() -> None:
    # Eight bases of 20 MB and 30 MB of WAL a day; one base and 60 MB are here.
    window = a_window(
        NOW, [a_base(1, NOW - 48 * HOUR)], {n: NOW for n in range(1, 21)}, stream=a_stream(21, NOW, NOW), kept=8
    )
    more = 8 * 20_000_000 + 7 * 30_000_000 - 20_000_000 - 60_000_000
    line = moments.room(window, more, 252_000_000, NOW)
    assert (line.level, line.text) == (
        "pass",
        "8 base backups of 20.0 MB and 30.0 MB of WAL a day for 7 days: 290.0 MB more, 290.0 MB are free",
    )
    assert moments.room(window, more - 1, 252_000_000, NOW).level == "warn"


def test_of_incremental_ones_there_is_room_for_what_the_oldest_builds_on() -> None:
    full = a_base(1, NOW - 48 * HOUR)
    step = a_base(2, NOW - 24 * HOUR, size=1_000_000).model_copy(update={"parent": full.id})
    window = a_window(NOW, [full, step], {n: NOW for n in range(1, 3)}, stream=a_stream(3, NOW, NOW), kept=8)
    line = moments.room(window, 10**9, 252_000_000, NOW)
    assert line.text.startswith("2 base backups of 20.0 MB, 12 incremental ones of 1.0 MB and "), line.text
    # Four a day make more of them, and no more full ones.
    line = moments.room(replace(window, kept=29), 10**9, 252_000_000, NOW)
    assert line.text.startswith("2 base backups of 20.0 MB, 51 incremental ones of 1.0 MB and "), line.text
    # Each hour a chain has its most long before the week is over.
    hourly = replace(window, kept=169)
    line = moments.room(hourly, 10**9, 252_000_000, NOW)
    assert line.text.startswith("7 base backups of 20.0 MB, 189 incremental ones of 1.0 MB and "), line.text
    assert "for 8 days" in line.text
    # And for the WAL behind that: 60 MB of it came within two days.
    window = replace(window, segments=20, segment_bytes=60_000_000)
    more = 2 * 20_000_000 + 12 * 1_000_000 + 13 * 30_000_000 - 21_000_000 - 60_000_000
    line = moments.room(window, more, 252_000_000, NOW)
    assert line.level == "pass" and line.text.endswith(
        "and 30.0 MB of WAL a day for 13 days: 361.0 MB more, 361.0 MB are free"
    )
    assert moments.room(window, more - 1, 252_000_000, NOW).level == "warn"
    # On the night of the next full one it is no other.
    later = a_base(3, NOW - HOUR)
    line = moments.room(replace(window, bases=(full, step, later)), 10**9, 252_000_000, NOW)
    assert line.text.startswith("2 base backups of 20.0 MB, 12 incremental ones of 1.0 MB and "), line.text


@pytest.mark.parametrize(
    ("version", "on", "said"),
    [
        ("16.4", False, []),
        ("17.12", False, ["ALTER SYSTEM SET summarize_wal = on; and SELECT pg_reload_conf();"]),
        ("18.6", True, ["summarize_wal is on"]),
    ],
)
def test_what_makes_base_backups_small_is_told_where_the_server_can(version: str, *, on: bool, said: list[str]) -> None:
    found = list(moments.increments(ClusterFacts(version, "1", 1 << 24, on, False, 1, (), ())))
    assert [each.level for each in found] == ["pass"] * len(said)
    assert all(words in each.text for words, each in zip(said, found, strict=True))


def test_before_the_first_base_the_cluster_is_the_measure() -> None:
    line = moments.room(a_window(NOW, kept=8), 10**9, 252_000_000, NOW)
    assert line.level == "warn" and line.text.startswith(
        "8 base backups of at most 252.0 MB, and WAL for 7 days: 2.0 GB"
    )


@pytest.mark.parametrize(
    ("state", "looked", "wanted"), [("streaming", 1, True), ("down", 1, False), ("streaming", 400, False)]
)
def test_our_own_sender_is_one_that_was_seen_of_late(state: str, looked: int, *, wanted: bool) -> None:
    stream = a_stream(1, NOW, NOW - timedelta(seconds=looked), state=state)
    assert moments.is_streaming(a_window(NOW, stream=stream), NOW) is wanted
    assert not moments.is_streaming(a_window(NOW), NOW)


OWN = "obcms_backup_wal_0123456789ab"
OTHER = "obcms_backup_wal_ffffffffffff"


@pytest.mark.parametrize(
    ("cap", "wanted", "slots", "level", "words"),
    [
        (-1, True, [], "fail", "max_slot_wal_keep_size is -1: it could fill the disk of the database; WAL is received"),
        (0, True, [OWN], "fail", "max_slot_wal_keep_size is 0: the server would keep nothing by it; WAL is received"),
        (10240, True, [OWN], "pass", f"the slot {OWN} keeps 30.0 MB of WAL"),
        (10240, False, [OWN], "warn", f"the slot {OWN} is left on the server"),
        (-1, False, [f"{OTHER} extended"], "warn", f"{OTHER} of another backup volume keeps 30.0 MB"),
    ],
)
def test_slots_are_refused_shown_or_left(cap: int, slots: list[str], level: str, words: str, *, wanted: bool) -> None:
    (line,) = moments.slot(a_server(cap, slots), OWN, wanted=wanted)
    assert line.level == level and words in line.text
    assert (level == "warn") == ("pg_drop_replication_slot('obcms_backup_wal_" in line.hint)
    assert (level == "fail") == ("ALTER SYSTEM SET max_slot_wal_keep_size = '" in line.hint)


def test_of_slots_that_cost_nothing_nothing_is_said() -> None:
    assert list(moments.slot(a_server(-1, [OTHER]), OWN, wanted=False)) == []
    assert list(moments.slot(a_server(10, []), OWN, wanted=True)) == []


def a_server(cap: int, slots: list[str]) -> Slots:
    states = [f"{each} reserved".split()[:2] for each in slots]
    return Slots(cap, tuple(SlotState(name, 0, status, 30_000_000, 50) for name, status in states))
