"""What is sent to a place of WAL and base backups, in which order, and what a failure, a kill or the rules leave."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from backup.app.shipping import shippers
from backup.app.volume import BackupVolume
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.wal_archive import StreamFile, WalArchive
from backup.catalog.wal_copies import WalCopies
from backup.config.loader import Settings, load_settings
from backup.errors import IntegrityError, LockHeld, RemoteFailed
from backup.model.wal import Base, Segment, SegmentId, Stream, lsn_text
from backup.model.wal_object import SegmentObject
from backup.monitoring.window import offsite_words
from backup.operations.pitr.pull import PulledArchive, read_place, remote_window
from backup.operations.pitr.ship import BaseShipper, ShipContext, Shipper, ship_all, ship_wal
from backup.operations.pitr.window_reader import read_offsite, read_window
from backup.pipeline import age
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.remote import Removal
from backup.storage.s3.bucket import Bucket
from tests.support.keys import key_pair
from tests.support.memory_remote import MemoryPlace
from tests.support.windows import SIZE, SYSTEM, a_base

NOW = datetime(2026, 11, 28, 16, tzinfo=UTC)
FILLED = 0x4000


@dataclass
class Machine:
    """A volume with WAL, a place, and a clock that a test moves."""

    root: Path
    place: MemoryPlace = field(default_factory=MemoryPlace)
    now: datetime = NOW
    looks: int = 1

    def __post_init__(self) -> None:
        self.archive.prepare()

    @property
    def archive(self) -> WalArchive:
        return WalArchive(self.root, SYSTEM)

    @property
    def copies(self) -> WalCopies:
        return WalCopies(self.archive, "s3")

    def context(self, **changes: Any) -> ShipContext:
        settled: dict[str, Any] = {
            "place": "s3",
            "remote": self.place,
            "catalog": Catalog(self.root, ZoneInfo("UTC")),
            "records": Records(self.root / "state" / "runs"),
            "lock": self.root / "state" / "lock",
            "tiers": (),
            "ages": {},
            "clock": lambda: self.now,
            "every": 60.0,
            "keep": timedelta(days=7),
            "wait": lambda _: False,
        }
        return ShipContext(**{**settled, **changes})

    def shipper(self, **changes: Any) -> Shipper:
        return Shipper(self.context(**changes))

    def ship(self, **changes: Any) -> None:
        """One look of a new process."""
        self.shipper(**changes).look()
        BaseShipper(self.context(**changes)).look()

    def segment(self, number: int, received: datetime | None = None, *, partial: bool = False) -> Segment:
        """A packed segment; its content is its number."""
        name = SegmentId(1, number).name(SIZE)
        with ArtifactWriter(self.archive.segments, f"{name}.gz", "segment", name) as writer:
            writer.write(bytes([number]) * 4096)
            segment = Segment(name=name, artifact=writer.finish(), received=received or self.now, partial=partial)
        self.archive.keep(segment, writer.staged)
        return segment

    def base(self, number: int, ended: datetime, parent: Base | None = None) -> Base:
        identifier = f"{ended:%Y%m%dT%H%M%SZ}"
        with ArtifactWriter(self.archive.bases, f"{identifier}.tar.gz", "base") as writer:
            writer.write(b"cluster" * 1000)
            own = {"id": identifier, "artifact": writer.finish(), "parent": parent.id if parent else ""}
            base = a_base(number, ended).model_copy(update=own)
            self.archive.keep_base(base, writer.staged)
        return base

    def stream(self, number: int, filled: int = FILLED, level: datetime | None = None) -> None:
        """The segment that is being received, and what is said of it."""
        path = self.archive.stream.directory / f"{SegmentId(1, number).name(SIZE)}.partial"
        for each in self.archive.stream.directory.glob("*.partial"):
            each.unlink()
        # What lies behind the place that is known to be received may be torn.
        path.write_bytes(b"w" * filled + b"torn" + bytes(SIZE - filled - 4))
        place = lsn_text(number * SIZE + filled)
        known = {"received": place, "current": place, "system_identifier": SYSTEM, "timeline": 1}
        told = {"looked": self.now, "state": "streaming", "level": level or self.now, **known}
        StreamFile(self.root).write(Stream.model_validate(told))

    def objects(self) -> list[SegmentObject]:
        return [found for key in self.place.objects if (found := SegmentObject.parse(key))]

    def said(self, place: str = "s3") -> Stream:
        found = StreamFile(self.root, place).read()
        assert found
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_each_segment_is_an_object_of_its_own_bytes_and_costs_nothing_the_next_time(machine: Machine) -> None:
    made = [machine.segment(number) for number in (5, 6)]
    machine.stream(7)
    machine.ship(every=0)
    for segment in made:
        (found,) = [each for each in machine.objects() if each.name == segment.name]
        assert hashlib.sha256(machine.place.objects[found.key]).hexdigest() == found.sha256
        assert found.sha256 == segment.artifact.stored_sha256 and found.level == segment.received
    machine.place.requests.clear()
    machine.ship(every=0)
    assert machine.place.requests == {"list": 1}


def test_what_is_being_received_is_sent_as_far_as_it_is_known_to_be_here(machine: Machine) -> None:
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    (partial,) = [each for each in machine.objects() if each.received]
    assert (partial.part, partial.level) == (f"{FILLED:08x}", machine.now)
    data = gzip.decompress(machine.place.objects[partial.key])
    assert data == b"w" * FILLED + bytes(SIZE - FILLED) and len(machine.place.objects[partial.key]) < 100_000
    said = machine.said()
    assert (said.level, said.behind, said.received) == (machine.now, 0, lsn_text(6 * SIZE + FILLED))


def test_it_is_sent_again_only_when_it_has_changed_and_not_more_often_than_is_wanted(machine: Machine) -> None:
    shipper = machine.shipper()
    machine.stream(6)
    shipper.look()
    later = machine.now + timedelta(hours=1)
    machine.now = later
    machine.stream(6)
    shipper.look()
    assert len(machine.objects()) == 1 and machine.said().level == later
    machine.stream(6, FILLED + 100)
    shipper.look()
    (second,) = machine.objects()
    assert second.part == f"{FILLED + 100:08x}"
    machine.now += timedelta(seconds=59)
    machine.stream(6, FILLED + 200)
    shipper.look()
    assert machine.objects() == [second] and machine.said().behind == 100
    # Nothing is claimed that is not there.
    assert machine.said().level == later
    machine.now += timedelta(seconds=1)
    shipper.look()
    assert [each.part for each in machine.objects()] == [f"{FILLED + 200:08x}"]


def test_one_that_does_not_change_is_sent_anew_each_day(machine: Machine) -> None:
    machine.stream(6)
    machine.ship()
    machine.now += timedelta(days=1)
    machine.stream(6)
    machine.ship()
    assert [each.level for each in machine.objects()] == [machine.now]


def test_a_key_that_may_not_delete_leaves_them_and_that_is_said(machine: Machine) -> None:
    machine.place.deny = frozenset({"delete", "overwrite"})
    shipper = machine.shipper()
    for number in range(3):
        machine.stream(6, FILLED + number)
        shipper.look()
        machine.now += timedelta(minutes=1)
    assert len(machine.objects()) == 3 and len(machine.copies.segments()) == 1
    assert machine.place.requests["remove"] == 1
    machine.now += timedelta(days=1)
    machine.stream(6, FILLED + 9)
    shipper.look()
    assert "objects there that no moment needs" in machine.said().message
    assert max(machine.objects(), key=lambda each: each.worth).part == f"{FILLED + 9:08x}"


def test_a_whole_segment_takes_the_place_of_what_was_sent_of_it(machine: Machine) -> None:
    machine.stream(6)
    machine.ship()
    machine.segment(6)
    machine.stream(7)
    machine.ship()
    assert sorted((each.name, each.part) for each in machine.objects()) == [
        (SegmentId(1, 6).name(SIZE), ""),
        (SegmentId(1, 7).name(SIZE), f"{FILLED:08x}"),
    ]


def test_a_base_counts_once_its_record_is_there(machine: Machine) -> None:
    base = machine.base(5, NOW - timedelta(hours=1))
    machine.segment(5)
    machine.stream(6)

    def refuse(key: str) -> None:
        if key.endswith(".json"):
            raise RemoteFailed("gone")

    machine.place.fail = refuse
    with pytest.raises(RemoteFailed):
        machine.ship()
    assert read_place(machine.context())[0].bases == []
    machine.place.fail = lambda _: None
    machine.ship()
    assert machine.place.requests["put"] == 5  # the base's file is not sent again
    (there,) = read_place(machine.context())
    assert [each.id for each in there.bases] == [base.id]
    window = remote_window(machine.context(), timedelta(days=7))
    assert (window.start, window.end) == (base.ended, machine.now)


def test_a_lost_note_costs_a_question_and_no_second_object(machine: Machine) -> None:
    machine.base(5, NOW - timedelta(hours=1))
    machine.segment(5)
    machine.stream(6)
    machine.ship(every=0)
    before = dict(machine.place.objects)
    (machine.archive.directory / "offsite-s3.jsonl").unlink()
    machine.place.requests.clear()
    machine.ship(every=0)
    assert machine.place.objects == before and "put" not in machine.place.requests
    assert len(machine.copies.all()) == 2


def test_a_place_that_fails_keeps_what_was_said_of_when_all_was_there(machine: Machine) -> None:
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    before = machine.said()
    machine.segment(6)
    machine.stream(7)
    machine.now += timedelta(minutes=9)

    def away(_: str) -> None:
        raise RemoteFailed("s3://memory does not answer", "Is it there?")

    machine.place.fail = away
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        if seconds:
            waited.append(seconds)
        return len(waited) > 6

    ship_wal(machine.shipper(wait=wait))
    said = machine.said()
    assert (said.state, said.looked, said.level) == ("down", before.looked, before.level)
    assert "does not answer" in said.message and said.hint == "Is it there?"
    assert waited == [20, 40, 80, 160, 300, 300, 300]
    machine.place.fail = lambda _: None
    machine.ship()
    assert machine.said().up and machine.said().level == NOW


def test_a_damaged_segment_is_not_sent_and_keeps_no_other_from_it(machine: Machine) -> None:
    one, two = machine.segment(5), machine.segment(6)
    path = machine.archive.segments.directory / one.artifact.file
    path.write_bytes(bytes(one.artifact.stored_size))
    machine.stream(7)
    with pytest.raises(IntegrityError):
        machine.ship()
    assert [each.name for each in machine.objects() if not each.part] == [two.name]
    assert (machine.said().state, machine.said().level) == ("starting", None)


def test_what_is_gone_there_is_sent_again(machine: Machine) -> None:
    segment = machine.segment(5)
    machine.base(5, NOW - timedelta(hours=1))
    machine.stream(6)
    machine.ship(every=0)
    before = dict(machine.place.objects)
    for key in before:
        machine.place.lose(key)
    machine.ship(every=0)
    assert machine.place.objects == before and machine.objects()[0].name == segment.name


def prepared(machine: Machine) -> tuple[Base, Base]:
    """Two bases that are eight days apart, and the WAL between them."""
    old = machine.base(5, NOW - timedelta(days=16))
    for number in (5, 6, 7):
        machine.segment(number, NOW - timedelta(days=15))
    new = machine.base(7, NOW - timedelta(days=8))
    machine.stream(8)
    machine.ship(every=0)
    return old, new


def test_what_left_the_window_here_is_removed_there(machine: Machine) -> None:
    old, new = prepared(machine)
    assert len(machine.copies.bases()) == 2
    machine.archive.remove_base(old)
    machine.archive.remove_segments([each for each in machine.archive.list_segments() if each.name[-1] in "56"])
    machine.ship(every=0)
    assert [each.id for each in machine.copies.bases()] == [new.id]
    assert not [key for key in machine.place.objects if old.id in key]
    assert [each.name for each in machine.objects()] == [SegmentId(1, 7).name(SIZE)]


def test_a_file_of_a_base_goes_there_though_its_record_went_first(machine: Machine) -> None:
    """The removal was killed in between: nobody knows the file any more."""
    old, new = prepared(machine)
    machine.archive.remove_base(old)

    def killed(key: str) -> Removal:
        if not key.endswith(".json"):
            raise KeyboardInterrupt
        return remove(key)

    remove = machine.place.remove
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.place, "remove", killed)
        machine.ship(every=0)

    def files(base: Base) -> list[str]:
        return [key for key in machine.place.objects if base.id in key]

    for _ in range(2):  # what was known is compared, then it is known no more
        machine.ship(every=0)
    (orphan,) = files(old)
    # It may be of an upload that is under way, whose record is still to come.
    assert orphan.endswith(".tar.gz") and "1 object there that no moment needs" in machine.said().message
    facts = machine.place.facts
    facts[orphan] = replace(facts[orphan], modified=max(each.modified for each in facts.values()) - timedelta(days=8))
    machine.ship(every=0)
    assert files(old) == [] and len(files(new)) == 2 and machine.said().message == ""


def test_of_a_base_whose_record_there_is_not_known_nothing_goes(machine: Machine) -> None:
    old, _ = prepared(machine)
    before = set(machine.place.objects)
    machine.archive.remove_base(old)
    (machine.archive.directory / "offsite-s3.jsonl").unlink()
    facts = machine.place.facts
    for key in [key for key in before if old.id in key]:
        facts[key] = replace(facts[key], modified=facts[key].modified - timedelta(days=400))
    machine.ship(every=0)
    assert set(machine.place.objects) == before


def test_what_builds_on_another_base_is_sent_behind_it(machine: Machine) -> None:
    full = machine.base(5, NOW - timedelta(hours=3))
    one = machine.base(5, NOW - timedelta(hours=2), full)
    two = machine.base(5, NOW - timedelta(hours=1), one)
    alone = machine.base(5, NOW)
    machine.segment(5)
    machine.stream(6)
    machine.ship(every=0)
    records = [key.split("/")[-1].split(".")[0] for key in machine.place.objects if key.endswith(".json")]
    assert records == [alone.id, full.id, one.id, two.id]
    (there,) = read_place(machine.context())
    assert [each.id for each in there.bases] == [full.id, one.id, two.id, alone.id] and there.problems == []
    (window,) = remote_window(machine.context(), timedelta(days=7)).spans
    assert [each.id for each in window.bases] == [full.id, one.id, two.id, alone.id]


def test_of_a_place_that_has_lost_a_base_none_counts_that_builds_on_it(machine: Machine) -> None:
    full = machine.base(5, NOW - timedelta(hours=3))
    one = machine.base(5, NOW - timedelta(hours=2), full)
    two = machine.base(5, NOW - timedelta(hours=1), one)
    machine.segment(5)
    machine.stream(6)
    machine.ship(every=0)
    machine.place.lose(next(key for key in machine.place.objects if one.id in key and key.endswith(".json")))
    (there,) = read_place(machine.context())
    (problem,) = there.problems
    assert f"{two.id} does not count: {one.id}, which it builds on" in problem.text
    (span,) = remote_window(machine.context(), timedelta(days=7)).spans
    assert [each.id for each in span.bases] == [full.id]


def test_a_base_that_another_one_builds_on_stays_there_with_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = machine.base(5, NOW - timedelta(days=20))
    steps = [machine.base(5, NOW - timedelta(days=19), full)]
    steps.append(machine.base(5, NOW - timedelta(days=8), steps[0]))
    machine.segment(5, NOW - timedelta(days=6))
    machine.stream(6)
    machine.ship(every=0)
    for base in (full, *steps):
        machine.archive.remove_base(base)
    machine.ship(every=0)
    assert [each.id for each in machine.copies.bases()] == [full.id, *(each.id for each in steps)]
    # Once there is a newer one from before all that is kept, they go: the one that they build on last.
    machine.base(5, NOW - timedelta(days=7, hours=1))
    removed: list[str] = []
    remove = machine.place.remove
    monkeypatch.setattr(machine.place, "remove", lambda key: (removed.append(key.split("/")[-1]), remove(key))[1])
    for _ in range(2):  # sent, then counted
        machine.ship(every=0)
    assert len(machine.copies.bases()) == 1 and not [key for key in machine.place.objects if full.id in key]
    assert [name.split(".")[0] for name in removed if name.endswith(".json")] == [
        each.id for each in (*steps[::-1], full)
    ]


def test_what_is_lost_here_stays_there_while_a_moment_needs_it(machine: Machine) -> None:
    _, new = prepared(machine)
    before = set(machine.place.objects)
    for base in machine.archive.list_bases():
        machine.archive.remove_base(base)
    machine.archive.remove_segments(machine.archive.list_segments())
    machine.now += timedelta(days=400)  # our own clock counts for nothing
    machine.ship(every=0)
    kept = {key for key in machine.place.objects if new.id in key or SegmentId(1, 7).name(SIZE) in key}
    assert len(kept) == 3 and kept <= before


def test_another_history_of_the_same_cluster_is_another_archive(machine: Machine) -> None:
    machine.base(5, NOW - timedelta(hours=2))
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    machine.archive.set_aside(NOW)
    machine.archive.prepare()
    machine.segment(5, NOW + timedelta(hours=1))
    machine.stream(6)
    machine.ship()
    one, two = read_place(machine.context())
    assert one.name != two.name and sorted([len(one.bases), len(two.bases)]) == [0, 1]
    assert all(len(each.segments) == 2 for each in (one, two))


@pytest.mark.parametrize("harm", ["flip", "lose", "swap"])
def test_nothing_is_read_that_is_not_as_it_was_sent(machine: Machine, tmp_path: Path, harm: str) -> None:
    machine.base(5, NOW - timedelta(hours=1))
    segments = [machine.segment(number) for number in (5, 6)]
    machine.stream(7)
    machine.ship(every=0)
    keys = [next(each.key for each in machine.objects() if each.name == one.name) for one in segments]
    (there,) = read_place(machine.context())
    archive = PulledArchive(machine.context(), tmp_path / "fetched", there)
    known = {each.name: each.artifact for each in archive.list_segments()}
    harms: dict[str, Callable[[], None]] = {
        "flip": lambda: machine.place.flip(keys[0]),
        "lose": lambda: machine.place.lose(keys[0]),
        "swap": lambda: machine.place.lay(keys[0], machine.place.objects[keys[1]]),
    }
    harms[harm]()
    with pytest.raises(IntegrityError, match="cannot be used"):
        archive.provide(archive.segments, known[segments[0].name])
    assert archive.segments.names(foreign=True) == []
    archive.provide(archive.segments, known[segments[1].name])
    assert archive.segments.names() == [known[segments[1].name].file]


def test_a_record_of_a_base_that_was_changed_makes_no_base(machine: Machine) -> None:
    machine.base(5, NOW - timedelta(hours=1))
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    (record,) = [key for key in machine.place.objects if key.endswith(".json")]
    machine.place.lay(record, machine.place.objects[record].replace(b"17.12", b"17.13"))
    (there,) = read_place(machine.context())
    assert there.bases == [] and "does not count" in there.problems[0].text


def settings_of(machine: Machine, **more: str) -> Settings:
    known = {"BACKUP_DIR": str(machine.root), "BACKUP_PITR": "on", "AWS_S3_BACKUP_BUCKET": "copies", "DB_NAME": "x"}
    return load_settings(known | more)


def test_what_a_place_alone_brings_back_is_told_without_asking_it(machine: Machine) -> None:
    machine.base(5, NOW - timedelta(hours=1))
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    machine.place.requests.clear()
    settings = settings_of(machine)
    later = machine.now + timedelta(seconds=50)
    window = read_offsite(settings, machine.root, read_window(settings, machine.root, later))
    (there,) = window.offsite
    assert [(each.start, each.end) for each in there.spans] == [(each.start, each.end) for each in window.spans]
    assert there.live and (there.segments, len(there.bases)) == (2, 1)
    assert there.follows(later) and there.max_lag == timedelta(seconds=420)
    assert machine.place.requests == {}
    words = offsite_words(there, later, settings.zone)
    assert words == "any moment from 2026-11-28 15:00 to now, 50.0 s behind (s3://copies)"
    shown = remote_window(machine.context(), timedelta(days=7))
    assert [(each.start, each.end) for each in shown.spans] == [(each.start, each.end) for each in there.spans]


def test_what_is_sent_all_the_time_takes_little_memory(machine: Machine) -> None:
    """Of two uploads at once each has the part that is sent, and the one that is read, in memory."""
    found = shippers(BackupVolume(settings_of(machine)), lambda _: False)
    assert [cast(Bucket, each.context.remote).options.parallel for each in found] == [1, 1]


def test_where_there_is_no_place_there_is_no_window_of_one(machine: Machine) -> None:
    settings = settings_of(machine, AWS_S3_BACKUP_BUCKET="")
    assert read_offsite(settings, machine.root, read_window(settings, machine.root, NOW)).offsite == ()


def test_what_is_still_here_is_not_removed_there_whatever_the_clock_shows(machine: Machine) -> None:
    old, _ = prepared(machine)
    machine.now += timedelta(days=400)
    machine.ship(every=0)
    assert "remove" not in machine.place.requests
    # Of segments and of bases alike.
    machine.archive.remove_base(old)
    machine.ship(every=0)
    assert not [key for key in machine.place.objects if old.id in key] and len(machine.objects()) == 3


def test_of_a_cluster_that_is_no_more_all_goes_when_it_is_too_old_and_gone_here(machine: Machine) -> None:
    prepared(machine)
    other = Stream(looked=NOW, state="streaming", system_identifier="7", timeline=1, level=NOW + timedelta(days=9))
    StreamFile(machine.root).write(other)
    machine.ship(every=0)
    assert len(machine.copies.bases()) == 2
    for base in machine.archive.list_bases():
        machine.archive.remove_base(base)
    machine.archive.remove_segments(machine.archive.list_segments())
    machine.ship(every=0)
    assert machine.place.objects == {} and machine.copies.all() == {}


def test_with_encryption_on_the_way_no_plain_byte_is_there(machine: Machine, tmp_path: Path) -> None:
    public = key_pair(tmp_path / "key")
    to = age.recipients([public])
    machine.base(5, NOW - timedelta(hours=1))
    machine.segment(5)
    machine.stream(6)
    machine.ship(encrypt=lambda chunks: age.encrypt(chunks, to), recipients=to)
    bodies = {key: data for key, data in machine.place.objects.items() if not key.endswith(".json")}
    assert len(bodies) == 3 and all(data.startswith(b"age-encryption.org") for data in bodies.values())
    assert all(key.endswith(".age") for key in bodies)
    machine.place.requests.clear()
    machine.ship(encrypt=lambda chunks: age.encrypt(chunks, to), recipients=to, every=0)
    assert machine.place.requests == {"list": 1}
    assert not any((machine.root / "temp").iterdir())


def test_two_that_send_to_one_place_are_one_at_a_time(machine: Machine) -> None:
    machine.segment(5)
    machine.stream(6)
    said: list[str] = []

    def beside(_: str) -> None:
        with pytest.raises(LockHeld) as held:
            machine.shipper().look()
        said.append(held.value.message)

    machine.place.fail = beside
    machine.ship(every=0)
    assert said and len(machine.objects()) == 1


def test_an_upload_ends_when_it_is_told_to(machine: Machine) -> None:
    machine.segment(5)
    machine.stream(6)
    asked: list[float] = []

    def wait(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) > 1

    ship_wal(machine.shipper(wait=wait))
    assert machine.place.objects == {} and machine.said().state == "starting"


def test_a_bug_ends_all_of_them(machine: Machine) -> None:
    ended = threading.Event()

    def bug(_: str) -> None:
        raise ValueError("a bug")

    machine.place.fail = bug
    machine.segment(5)
    machine.stream(6)
    with pytest.raises(ValueError, match="a bug"):
        ship_all([machine.shipper(wait=ended.wait), BaseShipper(machine.context(wait=ended.wait))], ended)
    assert ended.is_set()


def test_a_note_of_another_history_counts_for_nothing(machine: Machine) -> None:
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    (book,) = machine.archive.directory.glob("offsite-*")
    kept = book.read_text()
    machine.archive.set_aside(NOW)
    machine.archive.prepare()
    (machine.archive.directory / book.name).write_text(kept)
    assert machine.copies.all() == {}
    machine.segment(5)
    machine.stream(6)
    machine.ship()
    assert len(machine.copies.segments()) == 2 and len(machine.objects()) == 4


def test_a_clock_that_was_put_back_holds_nothing_up(machine: Machine) -> None:
    shipper = machine.shipper()
    machine.stream(6)
    shipper.look()
    machine.now -= timedelta(hours=3)
    machine.stream(6, FILLED + 1, NOW)
    shipper.look()
    assert [each.part for each in machine.objects()] == [f"{FILLED + 1:08x}"]


def test_a_removal_that_fails_keeps_nothing_from_being_sent(machine: Machine) -> None:
    """It was an upload of ours that did not end; the store answers to its removal with an error, for days."""
    old, _ = prepared(machine)
    left = next(key for key in machine.place.objects if old.id in key and key.endswith(".tar.gz"))
    orphan = f"{left.rpartition('/')[0]}/20260101T000000Z.{'a' * 16}.tar.gz"
    machine.place.lay(orphan, b"a part of one")
    facts = machine.place.facts
    facts[orphan] = replace(facts[orphan], modified=facts[orphan].modified - timedelta(days=30))

    def fails(key: str) -> Removal:
        raise RemoteFailed(f"{key} cannot be removed now")

    new = machine.segment(8)
    shipper = machine.shipper(every=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.place, "remove", fails)
        with contextlib.suppress(RemoteFailed):  # of what left the window, behind what was sent
            shipper.look()
    assert new.name in {each.name for each in machine.objects()} and orphan in machine.place.objects
    assert shipper.cleanup.left.startswith("1 object there that no moment needs")
    machine.ship(every=0)
    assert orphan not in machine.place.objects
