"""What is remembered of older sets spares reading them, and changes nothing that is said of any."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import __version__
from backup.catalog import manifest_cache, set_reader
from backup.catalog.catalog import Catalog
from backup.catalog.manifest_cache import ManifestCache
from backup.catalog.run_records import Records
from backup.cli import main
from backup.config.loader import load_settings
from backup.documents.results import DOCUMENTS
from backup.documents.status import STATUS
from backup.errors import IntegrityError
from backup.model.backup_set import StoredSet, Verdict, manifest_name, pin_name, verdict_name
from backup.model.manifest import Manifest, Tier, from_json
from backup.monitoring.health import Limits, evaluate
from backup.operations.status import overview
from backup.storage.directory import LocalStore
from backup.storage.staged_file import staged_name
from tests.support.examples import examples
from tests.support.schemas import checked
from tests.support.set_factory import UTC_ZONE, on_disk

NOW = datetime(2025, 10, 20, 2, tzinfo=UTC)
# How many are read whole here, fewer than elsewhere; and how many are remembered, three of each ten kinds.
WHOLE, OLD = 10, 30
FILE = "state/catalogue-daily.json"


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """What it is about begins with few sets: it is written after fewer changes, in as many lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_reader, "WHOLE", WHOLE)
        patch.setattr(manifest_cache, "MANY", 24)
        patch.setattr(manifest_cache, "_LINE", 10)
        yield


def later() -> datetime:
    """A clock by which nothing was changed just now."""
    return datetime.now(UTC) + timedelta(hours=1)


def catalog(root: Path) -> Catalog:
    return Catalog(root, UTC_ZONE, clock=later)


def told(root: Path) -> list[dict[str, Any]]:
    """All that is known of all sets, with what is read of old ones on demand, or that it cannot be."""
    return [_told(stored) for stored in catalog(root).sets()]


def brief(root: Path) -> list[object]:
    """The same without what is read on demand."""
    return [(s.id, s.state, s.problem, s.time, s.size, s.verdict, s.summary) for s in catalog(root).sets()]


def _told(stored: StoredSet) -> dict[str, Any]:
    known = DOCUMENTS["set"].of(stored, media=[]).model_dump()
    return {**known, "summary": stored.summary, "where": str(stored.directory)}


@pytest.fixture(scope="module")
def planted(few: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sets of all kinds in one tier, and what is remembered of all but the newest."""
    root = tmp_path_factory.mktemp("many")
    kinds = ("verified", "proven", "unverified", "damaged", "old script", "incomplete", "unreadable")
    for number in range(WHOLE + OLD):
        on_disk(root, Tier.DAILY, NOW - timedelta(hours=6 * number), kinds[number % 10 if number % 10 < 7 else 0])
    catalog(root).sets()
    yield root


@pytest.fixture
def many(planted: Path, tmp_path: Path) -> Path:
    """A copy with what it remembers, which is of its own files."""
    shutil.copytree(planted / "daily", tmp_path / "daily")
    catalog(tmp_path).sets()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    return tmp_path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files that are read from now on."""
    names: list[str] = []
    real = LocalStore.read

    def counted(store: LocalStore, name: str, limit: int = 64 << 20) -> bytes:
        names.append(name)
        return real(store, name, limit)

    monkeypatch.setattr(LocalStore, "read", counted)
    return names


def manifests(read: list[str]) -> int:
    return sum(name.startswith("obcms_set_") and name.endswith(".json") for name in read)


def test_only_the_newest_are_read_again(many: Path, read: list[str]) -> None:
    sets = catalog(many).sets()
    unreadable = sum(stored.state == "unreadable" for stored in sets[WHOLE:])
    assert 0 < manifests(read) <= WHOLE + unreadable
    assert sum(name.endswith(".verdict") for name in read) <= WHOLE
    assert [stored.remembered for stored in sets if not stored.derived] == [
        place >= WHOLE for place, stored in enumerate(sets) if not stored.derived
    ]


def test_what_is_asked_of_all_sets_reads_few(many: Path, read: list[str]) -> None:
    """Health, the overview and its JSON: of the older ones, only what the newest is compared with."""
    settings = load_settings({"BACKUP_DIR": str(many), "TZ": "UTC"})
    seen = overview(settings, catalog(many), Records(many / "state" / "runs"), NOW)
    STATUS.of(seen).encode()
    unreadable = sum(stored.state == "unreadable" for stored in seen.sets[WHOLE:])
    assert len(seen.sets) == WHOLE + OLD
    assert manifests(read) <= WHOLE + unreadable + 12  # three days of sets, as many as there are


def test_a_few_sets_are_all_read_and_nothing_is_kept(tmp_path: Path) -> None:
    for number in range(WHOLE):
        on_disk(tmp_path, Tier.DAILY, NOW - timedelta(hours=number))
    assert not any(stored.remembered for stored in catalog(tmp_path).sets())
    assert not (tmp_path / "state").exists()


def test_all_is_said_as_without(many: Path) -> None:
    with_it = told(many)
    (many / FILE).unlink()
    (many / "state").rmdir()
    (many / "state").touch()  # nothing can be kept there
    assert told(many) == with_it
    assert (many / "state").read_bytes() == b""


def test_what_was_changed_just_now_is_not_kept(many: Path, read: list[str]) -> None:
    """It may change once more within the same tick of the file system's clock."""
    (many / FILE).unlink()
    for _ in range(2):
        read.clear()
        Catalog(many, UTC_ZONE, clock=lambda: datetime.now(UTC) - timedelta(minutes=5)).sets()
        assert manifests(read) > OLD / 2
    assert not (many / FILE).exists()


def _old(root: Path, kind: str = "complete") -> StoredSet:
    return next(stored for stored in catalog(root).sets()[WHOLE:] if stored.state == kind and stored.verdict)


def _truncate(stored: StoredSet) -> None:
    os.truncate(stored.directory / stored.files[0], 1)


def _lose(stored: StoredSet) -> None:
    (stored.directory / stored.files[0]).unlink()


def _link(stored: StoredSet) -> None:
    (stored.directory / stored.files[0]).unlink()
    (stored.directory / stored.files[0]).symlink_to("/etc/hostname")


def _found_damaged(stored: StoredSet) -> None:
    verdict = Verdict(checked=NOW, problems=("a bit flipped",))
    (stored.directory / verdict_name(stored.id)).write_text(verdict.model_dump_json())


def _lose_verdict(stored: StoredSet) -> None:
    (stored.directory / verdict_name(stored.id)).unlink()


def _damage_verdict(stored: StoredSet) -> None:
    os.truncate(stored.directory / verdict_name(stored.id), 5)


def _pin(stored: StoredSet) -> None:
    (stored.directory / pin_name(stored.id)).mkdir()


def _edit(stored: StoredSet) -> None:
    """As many bytes, in the same inode."""
    path = stored.directory / manifest_name(stored.id)
    path.write_bytes(path.read_bytes().replace(b'"app"', b'"ape"'))


def _damage(stored: StoredSet) -> None:
    path = stored.directory / manifest_name(stored.id)
    path.write_bytes(b"[" + path.read_bytes()[1:])


def _lose_manifest(stored: StoredSet) -> None:
    (stored.directory / manifest_name(stored.id)).unlink()


def _of_another(stored: StoredSet) -> None:
    path = stored.directory / manifest_name(stored.id)
    path.write_bytes(path.read_bytes().replace(stored.id.encode(), b"daily_2001-01-01_00-00-00"))


def _remove(stored: StoredSet) -> None:
    for name in stored.files:
        (stored.directory / name).unlink()


def _empty(stored: StoredSet) -> None:
    (stored.directory.parent / FILE).write_bytes(b"")


def _fifo(stored: StoredSet) -> None:
    (stored.directory.parent / FILE).unlink()
    os.mkfifo(stored.directory.parent / FILE)


def _elsewhere(stored: StoredSet) -> None:
    """The first year of the calendar, ahead of UTC."""
    path = stored.directory / manifest_name(stored.id)
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {"started": "0001-01-01T00:00:00+14:00"}))


@pytest.mark.parametrize(
    "fault",
    [
        _truncate,
        _lose,
        _link,
        _found_damaged,
        _lose_verdict,
        _damage_verdict,
        _pin,
        _edit,
        _damage,
        _lose_manifest,
        _of_another,
        _remove,
        _empty,
        _fifo,
        _elsewhere,
    ],
)
@pytest.mark.long
def test_every_change_is_seen(many: Path, fault: Callable[[StoredSet], None]) -> None:
    """By a process that comes later, and by one that has listed the sets before."""
    there, before = catalog(many), told(many)
    there.sets()
    fault(_old(many))
    after = told(many)
    assert [_told(stored) for stored in there.sets()] == after
    (many / FILE).unlink(missing_ok=True)
    assert told(many) == after
    assert (after == before) == (fault in (_empty, _fifo))


@examples(30)
@given(st.data())
@pytest.mark.long
def test_a_damaged_catalogue_is_none(planted: Path, data: st.DataObject) -> None:
    path = planted / FILE
    if not path.exists():
        catalog(planted).sets()
    whole = path.read_bytes()
    before = brief(planted)
    place = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):  # one that is as well-formed as it was
        place = next((each for each in range(place, len(whole)) if whole[each : each + 1].isdigit()), 0)
        edit, cut = data.draw(st.sampled_from((b"0", b"1", b"7"))), 1
    else:
        edit, cut = data.draw(st.binary(max_size=20)), data.draw(st.sampled_from((0, 1, 2, 50, len(whole))))
    path.write_bytes(whole[:place] + edit + whole[place + cut :])
    try:
        assert brief(planted) == before
    finally:
        path.write_bytes(whole)


def _signed(*lines: bytes) -> bytes:
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return f"obcms-backup {__version__} {digest}\n".encode() + b"".join(lines)


def _hostile(root: Path) -> Iterator[bytes]:
    """Of the right checksum, and not what we write."""
    lines = (root / FILE).read_bytes().splitlines(keepends=True)[1:]
    first = json.loads(lines[0])
    name, (identity, summary) = next(iter(first["manifests"].items()))
    for place in range(len(summary)):
        # No artifacts and the like would be believed: whoever may write here may write manifests, too.
        value = ({}, 10**400, [[[]]])[place % 3]
        broken = [*summary[:place], value, *summary[place + 1 :]]
        yield _signed(json.dumps({"manifests": {name: [identity, broken]}, "verdicts": {}}).encode() + b"\n")
    for more in (b"", b"{}\n", b"[]\n", b"null\n", b"\xff\n", b"[" * 100_000 + b"\n", b'{"manifests": {}}\n'):
        yield _signed(more, *lines)
    yield b"obcms-backup 0.0.1 " + (root / FILE).read_bytes().split(b" ", 2)[2]


def test_a_hostile_catalogue_breaks_nothing(many: Path) -> None:
    before = brief(many)
    for body in list(_hostile(many)):
        (many / FILE).write_bytes(body)
        assert brief(many) == before, body[:300]


def test_a_set_that_is_named_is_read_whole(many: Path) -> None:
    old = _old(many)
    assert old.remembered and not catalog(many).find(old.id).remembered
    assert not catalog(many).find(f"/mnt/{old.files[0]}").remembered
    assert old.manifest == from_json((old.directory / manifest_name(old.id)).read_bytes(), "x")


def test_a_manifest_that_is_damaged_after_the_listing_says_so(many: Path) -> None:
    old = _old(many)
    _damage(old)
    with pytest.raises(IntegrityError, match="cannot be used"):
        assert old.manifest


@pytest.mark.parametrize("fault", [_damage, _remove])
def test_status_goes_on_when_a_set_changes_after_it_was_listed(many: Path, fault: Callable[[StoredSet], None]) -> None:
    """Of one that the newest is compared with, so that its manifest is asked for; the next look says what it is."""
    seen: list[StoredSet] = []

    class Changing(Catalog):
        def sets(self, tier: Tier | None = None) -> list[StoredSet]:
            found = super().sets(tier)
            if not seen:
                seen.append(next(each for each in found[WHOLE:] if each.good))
                fault(seen[0])
            return found

    settings = load_settings({"BACKUP_DIR": str(many), "TZ": "UTC"})
    there = Changing(many, UTC_ZONE, clock=later)
    for expected in ("complete", "unreadable" if fault is _damage else None):
        found = overview(settings, there, Records(many / "state" / "runs"), NOW)
        assert {stored.id: stored.state for stored in found.sets}.get(seen[0].id) == expected


def test_a_manifest_that_rots_without_a_trace_is_known_no_more_once_it_was_read(many: Path) -> None:
    """Neither its size nor its times show it."""
    old = _old(many)
    there, name = ManifestCache(many, Tier.DAILY, later), manifest_name(old.id)
    status = (old.directory / name).stat()

    def rotten() -> Manifest:
        raise IntegrityError("rotten")

    assert there.summary(name, status, rotten) == old.summary
    with pytest.raises(IntegrityError):
        there.whole(name, rotten)
    with pytest.raises(IntegrityError):
        there.summary(name, status, rotten)


def test_the_rules_over_all_sets_do_not_read_the_old_ones(many: Path, read: list[str]) -> None:
    sets = catalog(many).sets()
    read.clear()
    evaluate(sets, [], NOW, max_age=timedelta(days=1), scheduler=None, limits=Limits(proof=True))
    assert manifests(read) <= 12


def test_sets_that_a_cleanup_removes_after_the_listing_are_compared_with_no_more(many: Path) -> None:
    sets = catalog(many).sets()
    for stored in sets[WHOLE:]:
        _remove(stored)
    assert evaluate(sets, [], NOW, max_age=timedelta(days=1), scheduler=None).status == "warn"


def test_a_list_for_programs_reads_no_old_manifest(
    many: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], read: list[str]
) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(many))
    old = catalog(many).sets()[WHOLE:]
    read.clear()
    assert main(["list", "--json"]) == 0
    listed = {each["id"]: each for each in checked(capsys.readouterr().out)["sets"]}
    assert len(listed) == WHOLE + OLD and {stored.id for stored in old} <= set(listed)
    whole = [listed[stored.id] for stored in old if stored.state == "complete"]
    assert whole and all(each["database"] for each in whole)
    assert manifests(read) <= WHOLE + sum(stored.state == "unreadable" for stored in old)


def test_a_sweep_leaves_it(many: Path) -> None:
    (many / "state" / staged_name("publishing.json")).touch()
    before = (many / FILE).read_bytes()
    assert catalog(many).sweep() == [staged_name("publishing.json")]
    assert (many / FILE).read_bytes() == before


def test_it_follows_what_has_changed_for_the_most_part(many: Path) -> None:
    """A removed set is not worth writing it anew, many changes are."""
    inode = (many / FILE).stat().st_ino
    sets = catalog(many).sets()[WHOLE:]
    _remove(sets[0])
    catalog(many).sets()
    assert (many / FILE).stat().st_ino == inode
    for path in (many / "daily").iterdir():
        path.touch()
    catalog(many).sets()
    assert (many / FILE).stat().st_ino != inode
