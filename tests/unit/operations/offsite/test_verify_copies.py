"""What is found of copies that were changed, lost or archived behind our back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import pytest

from backup.errors import IntegrityError, NotFound, RemoteDamaged, RemoteFailed
from backup.model.manifest import Tier
from backup.model.run import Outcome
from backup.operations.offsite import copy_status, verify_copies
from backup.operations.offsite.remote_state import Book
from tests.support.memory_remote import MemoryPlace
from tests.unit.operations.offsite.conftest import Stack

_DAY = timedelta(days=1)


def states(stack: Stack) -> dict[str, str]:
    return {row.id: row.state for row in verify_copies.rows(stack.context())}


def archive(identifier: str) -> str:
    return f"daily/obcms_media_{identifier}.tar.gz"


def test_what_is_as_it_was_sent_is_confirmed(stack: Stack) -> None:
    made = [stack.make(days) for days in (1, 0)]
    stack.upload()
    stack.place.requests.clear()
    report = verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert {name: copy.state for name, copy in report.copies.items()} == dict.fromkeys(made, "offsite")
    assert stack.place.requests == {"list": 1, "get": 2, "stat": 10} and report.read == 0
    assert stack.records.all()[0].operation == "offsite-verify"


def test_the_list_says_what_is_where(stack: Stack) -> None:
    both, gone, here = (stack.make(days) for days in (2, 1, 0))
    stack.upload()
    for path in list((stack.root / "daily").glob(f"*{gone}*")):
        path.unlink()
    for key in stack.keys(here):
        stack.place.lose(key)
    stack.context().book.path.unlink()
    unverified = stack.make(0.5, kind="unverified")
    rows = {row.id: row for row in verify_copies.rows(stack.context())}
    assert {name: (row.state, row.local) for name, row in rows.items()} == {
        both: ("offsite", True),
        gone: ("offsite", False),
        here: ("only local", True),
        unverified: ("only local", True),
    }
    assert rows[gone].note == "only remote" and "not verified" in rows[unverified].note


@pytest.mark.parametrize(
    ("mishap", "state", "words"),
    [
        ("lose", "incomplete", "tar.gz is missing"),
        ("lay", "differs", "has 5 bytes instead of"),
        ("same size", "differs", "another SHA-256"),
        ("unknown", "differs", "another SHA-256"),
        ("lose manifest", "incomplete", "its manifest is missing"),
        ("bad manifest", "differs", "cannot be used"),
        ("other manifest", "differs", "its manifest has other bytes than were sent"),
        ("lose all", "gone", "is gone now"),
    ],
)
def test_a_mishap_behind_our_back_is_reported(stack: Stack, mishap: str, state: str, words: str) -> None:
    made = stack.make()
    other = stack.make(1)
    stack.upload()
    key, size = archive(made), len(stack.place.objects[archive(made)])
    manifest = f"daily/obcms_set_{made}.json"
    if mishap == "lose":
        stack.place.lose(key)
    elif mishap == "lay":
        stack.place.lay(key, b"other")
    elif mishap == "same size":
        stack.place.lay(key, b"x" * size)
    elif mishap == "unknown":
        stack.place.lay(key, b"x" * size)
        stack.place.facts[key] = stack.place.facts[key].__class__(key, size, stack.place.facts[key].modified)
    elif mishap == "lose manifest":
        stack.place.lose(manifest)
    elif mishap == "bad manifest":
        stack.place.lay(manifest, b"{")
    elif mishap == "other manifest":
        stack.place.lay(manifest, stack.place.objects[manifest].replace(b'"zone": "', b'"zone": "x'))
    else:
        for each in stack.keys(made):
            stack.place.lose(each)
    with pytest.raises(IntegrityError, match="1 set at s3://memory not as sent") as raised:
        verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert (
        f"{made} {'' if state == 'differs' else 'is '}{state}" in raised.value.message and words in raised.value.message
    )
    assert other not in raised.value.message
    book = stack.context().book.read()
    assert book.copies[made].state == state and book.copies[other].state == "offsite"
    assert stack.records.all()[0].outcome is Outcome.FAILED
    assert states(stack)[made] == state or mishap in ("same size", "unknown")
    seen = copy_status.Seen("s3", "s3://memory", book, [], stack.context().ages[Tier.DAILY])
    assert any(made in each.text and state in each.text for each in copy_status.copy_findings(seen, [], stack.now))
    # The local set is still here: the next upload puts it right, and the next look says so.
    stack.upload()
    verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert stack.context().book.read().copies[made].state == "offsite"


def test_an_archived_copy_is_a_state_and_no_error(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    stack.place.archive(archive(made))
    report = verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert report.copies[made].state == "archived" and "1 of them archived" in report.words
    assert states(stack)[made] == "archived"
    assert stack.upload().same == 1


def test_a_flipped_bit_is_found_when_the_bytes_are_read(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    stack.place.flip(archive(made))
    verify_copies.verify_copies(verify_copies.Request(), stack.context())
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())
    assert stack.context().book.read().copies[made].state == states(stack)[made] == "differs"
    # Its checksum is still the right one: that is no reason to believe it again.
    with pytest.raises(IntegrityError):
        verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert stack.upload().sent == [made]
    verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())


@pytest.mark.parametrize("way", ["flip", "lay", "lose"])
def test_each_file_of_a_copy_is_looked_at_and_sent_again(stack: Stack, way: str) -> None:
    """Also the list for `sha256sum -c`. The page is made new by each release, so only its being there can be judged."""
    made = stack.make()
    stack.upload()
    for key in [each for each in stack.keys(made) if "RESTORE" not in each]:
        if way == "flip":
            stack.place.flip(key)
        elif way == "lay":
            stack.place.lay(key, bytes(len(stack.place.objects[key])))
        else:
            stack.place.lose(key)
        with pytest.raises(IntegrityError):
            verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())
        assert states(stack)[made] != "offsite", key
        assert stack.upload().sent == [made], key
        verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())


@pytest.mark.parametrize("file", ["media", "set"])
@pytest.mark.long
def test_a_rotten_copy_keeps_no_other_from_being_read_and_is_sent_again(stack: Stack, file: str) -> None:
    made = [stack.make(days) for days in range(4)]
    stack.upload()
    rotten = made[-1]
    stack.place.flip(archive(rotten) if file == "media" else f"daily/obcms_set_{rotten}.json")
    for day in range(28):
        with contextlib.suppress(IntegrityError):
            verify_copies.verify_copies(
                verify_copies.Request(share=True, trigger="schedule", slot=stack.now), stack.context()
            )
        stack.now += _DAY / 2
        assert day or states(stack)[rotten] == "differs"
    copies = stack.context().book.read().copies
    assert {name for name, copy in copies.items() if copy.read} == set(made[:-1])
    assert stack.upload().sent == [rotten]
    verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())


def test_a_bit_that_flips_on_its_way_back_is_no_damage(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real, flipped = stack.make(), MemoryPlace.get, []

    def get(place: MemoryPlace, key: str) -> Iterator[bytes]:
        yield from real(place, key)
        if key == archive(made) and not flipped:
            flipped.append(key)
            raise RemoteDamaged("other bytes")

    stack.upload()
    monkeypatch.setattr(MemoryPlace, "get", get)
    verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())
    assert flipped and stack.context().book.read().copies[made].read


def test_what_cannot_be_read_keeps_no_other_from_being_read_and_fails_the_look(stack: Stack) -> None:
    made = [stack.make(days) for days in range(4)]
    stack.upload()
    stack.place.broken.add(archive(made[-1]))
    with pytest.raises(RemoteFailed, match="cannot be read"):
        verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())
    copies = stack.context().book.read().copies
    assert [bool(copies[name].read) for name in made] == [True, True, True, False] and copies[made[-1]].held
    assert stack.records.all()[0].outcome is Outcome.FAILED


def test_a_copy_of_which_the_manifest_is_archived_is_as_it_was(stack: Stack) -> None:
    older, newer = stack.make(1), stack.make()
    stack.upload()
    for key in stack.keys(older):
        stack.place.archive(key)
    verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert states(stack) == {older: "archived", newer: "offsite"}
    # Of what nothing is known, nothing is claimed.
    stack.context().book.path.unlink()
    with pytest.raises(IntegrityError, match="archived"):
        verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert states(stack) == {older: "incomplete", newer: "offsite"}


def test_a_folder_that_is_empty_is_taken_for_one_that_is_not_mounted(stack: Stack) -> None:
    made = [stack.make(days) for days in (1, 0)]
    context = stack.context(place="copy")
    stack.upload(place="copy")
    away, stack.place.facts = stack.place.facts, {}
    for attempt in (
        lambda: stack.upload(place="copy"),
        lambda: verify_copies.verify_copies(verify_copies.Request(), context),
    ):
        with pytest.raises(RemoteFailed, match="where 2 sets should be; nothing was sent"):
            attempt()
    assert stack.place.facts == {} and all(context.book.read().copies[name].held for name in made)
    stack.place.facts = away
    assert verify_copies.verify_copies(verify_copies.Request(), context).bad == []
    stack.place.facts = {}
    verify_copies.verify_copies(verify_copies.Request(accept=True), context)
    assert stack.upload(place="copy").sent == made[::-1]


def test_what_fails_at_one_place_is_told_of_that_place(stack: Stack) -> None:
    """The other's success, a moment later, does not hide it."""
    stack.make()
    stack.upload()
    stack.place.truncated = True
    with pytest.raises(RemoteFailed):
        verify_copies.verify_copies(verify_copies.Request(), stack.context())
    stack.place.truncated = False
    verify_copies.verify_copies(verify_copies.Request(), stack.context(place="copy"))
    runs, limit = stack.records.all(), timedelta(days=2)
    texts = {
        place: [
            each.text
            for each in copy_status.copy_findings(copy_status.Seen(place, "x", Book(), [], limit), runs, stack.now)
        ]
        for place in ("s3", "copy")
    }
    assert "the last check of the offsite copies failed" in texts["s3"][0] and texts["copy"] == []


@pytest.mark.long
def test_a_share_is_read_each_day_and_all_within_a_month(stack: Stack) -> None:
    made = {stack.make(days / 10, tier) for days in range(40) for tier in (Tier.DAILY,)}
    stack.upload()
    read: dict[str, int] = {}
    most = 0
    for day in range(28):
        began = stack.now
        report = verify_copies.verify_copies(
            verify_copies.Request(share=True, trigger="schedule", slot=stack.now), stack.context()
        )
        most = max(most, report.read)
        for copy in report.copies.values():
            if copy.read and copy.read > began:
                read.setdefault(copy.id, day)
        stack.now += _DAY
    assert set(read) == made and most <= 3 * max(c.size for c in stack.context().book.read().copies.values())


def test_what_was_never_a_set_is_nobodys_loss(stack: Stack) -> None:
    stack.place.lay("daily/obcms_backup_daily_2025-10-01_02-00-00.sql.gz", b"half")
    stack.place.lay("daily/notes.txt", b"mine")
    stack.place.lay("obcms_set_daily_2025-10-01_02-00-00.json", b"elsewhere")
    assert verify_copies.verify_copies(verify_copies.Request(), stack.context()).copies == {}
    assert states(stack) == {"daily_2025-10-01_02-00-00": "incomplete"}


def test_what_is_gone_is_missed_until_its_time_is_over_or_somebody_agrees(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    for key in stack.keys(made):
        stack.place.lose(key)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"{made} is gone"):
            verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert verify_copies.verify_copies(verify_copies.Request(accept=True), stack.context()).copies == {}
    assert stack.context().book.read().copies == {}
    stack.upload()
    for key in stack.keys(made):
        stack.place.lose(key)
    stack.now += 31 * _DAY
    assert verify_copies.verify_copies(verify_copies.Request(), stack.context()).copies == {}


def test_nothing_is_concluded_from_a_part_of_a_listing(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    before = stack.context().book.read()
    stack.place.truncated = True
    for act in (
        lambda: verify_copies.verify_copies(verify_copies.Request(), stack.context()),
        lambda: verify_copies.rows(stack.context()),
    ):
        with pytest.raises(RemoteFailed, match="was cut"):
            act()
    assert stack.context().book.read() == before and before.copies[made].held


def test_a_set_that_is_not_there_is_not_found(stack: Stack) -> None:
    with pytest.raises(NotFound):
        verify_copies.verify_copies(verify_copies.Request(only="daily_2025-10-01_02-00-00"), stack.context())
