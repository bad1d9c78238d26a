"""Which sets there are, in what state; what a dead publication left goes, what is not ours stays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.delete import mark_name
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.catalog.set_reader import SetReader
from backup.errors import NotFound, StoreError
from backup.model.backup_set import Pin, Proof, Verdict, manifest_name, newest_good, pin_name, verdict_name
from backup.model.manifest import Artifact, FileChange, Manifest, Tier, VolumePart, to_json
from backup.operations.offsite.remote_state import Book, BookFile
from backup.storage import directory as local
from backup.storage.directory import LocalStore
from backup.storage.staged_file import StagedFile, staged_name

MANILA = ZoneInfo("Asia/Manila")
NOW = datetime(2025, 10, 20, 2, 0, tzinfo=UTC)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path, MANILA)


def sealed(catalog: Catalog, identifier: str, tier: Tier = Tier.DAILY) -> list[tuple[Artifact, StagedFile]]:
    """Two staged files of a set, ready for publication."""
    made = []
    for what, suffix in (("backup", "sql.gz"), ("media", "tar.gz")):
        staged = catalog.store(tier).stage(f"obcms_{what}_{identifier}.{suffix}")
        staged.write(f"{what} of {identifier}".encode())
        staged.seal()
        sha = staged.sha256
        artifact = Artifact(
            kind="volume", name=what, file=staged.name, stored_size=staged.size, stored_sha256=sha,
            plain_size=staged.size, plain_sha256=sha,
        )  # fmt: skip
        made.append((artifact, staged))
    return made


def described(identifier: str, artifacts: list[Artifact], tier: Tier, started: datetime) -> Manifest:
    return Manifest(
        id=identifier, tier=tier, run="r", started=started, ended=started, started_local="", ended_local="",
        zone="Asia/Manila", product_version="1", artifacts=tuple(artifacts),
    )  # fmt: skip


def published(catalog: Catalog, tier: Tier = Tier.DAILY, now: datetime = NOW) -> str:
    """A set in the catalogue; its id."""
    identifier = catalog.new_id(tier, now)
    made = sealed(catalog, identifier, tier)
    catalog.publish(described(identifier, [a for a, _ in made], tier, now), [s for _, s in made])
    return identifier


def everything(catalog: Catalog) -> dict[str, bytes]:
    return {str(p.relative_to(catalog.root)): p.read_bytes() for p in catalog.root.rglob("*") if p.is_file()}


def test_a_published_set_is_complete(catalog: Catalog) -> None:
    identifier = published(catalog)
    assert identifier == "daily_2025-10-20_10-00-00"
    (stored,) = catalog.sets()
    assert (stored.id, stored.state, stored.time, stored.good) == (identifier, "complete", NOW, True)
    sums = (catalog.root / "daily" / f"obcms_set_{identifier}.sha256").read_text().splitlines()
    for line in sums:
        digest, name = line.split("  ")
        assert hashlib.sha256((catalog.root / "daily" / name).read_bytes()).hexdigest() == digest
    assert len(sums) == 2 and not (catalog.root / "state/publishing.json").exists()


def test_sets_are_newest_first_over_all_tiers(catalog: Catalog) -> None:
    made = [published(catalog, tier, NOW + timedelta(hours=n)) for n, tier in enumerate(Tier)]
    assert [s.id for s in catalog.sets()] == made[::-1]
    assert [s.id for s in catalog.sets(Tier.WEEKLY)] == [made[1]]
    newest, weekly = newest_good(catalog.sets()), newest_good(catalog.sets(Tier.WEEKLY))
    # The last tier is that of snapshots, which hold no database.
    assert newest and newest.id == made[-2] and weekly and weekly.id == made[1]


# --- publication: wholly or not at all ---------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing that would clean up may run, so `finish_publishing` is taken away."""


@pytest.mark.parametrize("at", range(14))
def test_a_kill_at_any_step_of_a_publication_leaves_all_or_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    earlier = published(catalog, now=NOW - timedelta(days=1))
    before = everything(catalog)
    identifier = catalog.new_id(Tier.DAILY, NOW)
    made = sealed(catalog, identifier)
    steps = iter(range(at))

    def step(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            if next(steps, None) is None:
                raise Killed
            return real(*arguments, **options)

        return call

    manifest = described(identifier, [a for a, _ in made], Tier.DAILY, NOW)
    with monkeypatch.context() as patch:
        for owner, name in ((Path, "rename"), (os, "fsync"), (Path, "unlink")):
            patch.setattr(owner, name, step(getattr(owner, name)))
        try:
            catalog.publish(manifest, [s for _, s in made])
        except Killed:
            pass
    for stored in catalog.sets():
        assert stored.good or stored.state == "old script"
    there = {s.id for s in catalog.sets() if s.good}
    again = Catalog(catalog.root, MANILA)
    again.sweep()
    assert {s.id: s.state for s in again.sets()} == dict.fromkeys(there, "complete") and earlier in there
    after = everything(again)
    assert before.items() <= after.items()
    assert len(after) == (8 if identifier in there else 4), sorted(after)


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_publication_that_fails_takes_everything_back(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    published(catalog, now=NOW - timedelta(days=1))
    before = everything(catalog)
    identifier = catalog.new_id(Tier.DAILY, NOW)
    made = sealed(catalog, identifier)
    owner = Path if call == "rename" else os
    real, left = getattr(owner, call), iter(range(nth - 1))

    def once(*arguments):  # type: ignore[no-untyped-def]
        if next(left, None) is None:
            monkeypatch.setattr(owner, call, real)
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(owner, call, once)
    try:
        catalog.publish(described(identifier, [a for a, _ in made], Tier.DAILY, NOW), [s for _, s in made])
    except StoreError:
        for _, staged in made:  # as ArtifactWriter does when its body fails
            staged.path.unlink(missing_ok=True)
        assert everything(catalog) == before
    else:
        assert {s.id for s in catalog.sets() if s.good} >= {identifier}


def test_a_file_that_takes_the_name_meanwhile_is_neither_overwritten_nor_removed(catalog: Catalog) -> None:
    """The old scripts run at the same minutes and use the same names."""
    identifier = catalog.new_id(Tier.DAILY, NOW)
    made = sealed(catalog, identifier)
    foreign = catalog.root / "daily" / made[1][1].name
    foreign.write_text("the old script's own")
    with pytest.raises(StoreError, match="exists already"):
        catalog.publish(described(identifier, [a for a, _ in made], Tier.DAILY, NOW), [s for _, s in made])
    catalog.sweep()
    assert {p.name: p.read_text() for p in (catalog.root / "daily").iterdir()} == {foreign.name: foreign.read_text()}
    assert foreign.read_text() == "the old script's own"


def test_a_set_is_not_taken_apart_where_inodes_have_other_numbers_after_a_new_mount(
    catalog: Catalog, tmp_path: Path
) -> None:
    """As on FAT: of a publication that was killed at its very end, only some numbers may fit by chance."""
    identifier = published(catalog)
    files = {path.name: path.stat().st_ino for path in (tmp_path / "daily").iterdir()}
    last = manifest_name(identifier)
    intent = {"tier": "daily", "manifest": last, "files": files | {last: files[last] + 1}}
    (tmp_path / "state" / "publishing.json").write_text(json.dumps(intent))
    assert catalog.sweep() == []
    assert catalog.find(identifier).good and not (tmp_path / "state" / "publishing.json").exists()


@pytest.mark.parametrize(
    "intent",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"tier": "nope", "manifest": "m", "files": []}',
        b'{"tier": "daily", "manifest": "m", "files": ["../../../etc/passwd"]}',
        b'{"tier": "daily", "manifest": "m", "files": {"../evil": 1, "note.txt": 1, "obcms_backup_x.sql.gz": 1}}',
        b'{"tier": "daily", "manifest": "m", "files": {"obcms_backup_daily_2025-01-01_00-00-00.sql.gz": "x"}}',
        b'{"tier": "daily", "manifest": "m", "files": [1, null, {}]}',
    ],
)
def test_a_damaged_intent_harms_nothing(catalog: Catalog, intent: bytes, tmp_path: Path) -> None:
    published(catalog)
    (tmp_path / "evil").write_text("x")
    for name in ("note.txt", "obcms_backup_daily_2025-01-01_00-00-00.sql.gz"):
        (tmp_path / "daily" / name).write_text("x")
    before = everything(catalog)
    (tmp_path / "state" / "publishing.json").write_bytes(intent)
    catalog.sweep()
    assert everything(catalog) == before


def test_only_our_own_unfinished_files_are_swept(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    ours = [
        f"daily/{staged_name('obcms_backup_daily_2025-01-01_00-00-00.sql.gz')}",
        f"weekly/{staged_name('obcms_media_weekly_2025-01-01_00-00-00.files.gz')}",
        f"daily/{staged_name(verdict_name(identifier))}",
        f"state/{staged_name('publishing.json')}",
    ]
    (tmp_path / "weekly").mkdir()
    for name in ours:
        (tmp_path / name).write_text("half")
    foreign = ["daily/.download.partial", "daily/..partial", "daily/x.partial", "daily/.hidden", "weekly/obcms.partial"]
    foreign.append(f"state/{staged_name('offsite-s3.json')}")
    for name in foreign:
        (tmp_path / name).write_text("mine")
    directory, link, pipe = (
        tmp_path / "daily" / staged_name(f"obcms_{what}_daily_2025-01-01_00-00-00.tar.gz") for what in "abc"
    )
    directory.mkdir()
    link.symlink_to(tmp_path / "daily" / "x.partial")
    os.mkfifo(pipe)
    assert len(catalog.sweep()) == len(ours)
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).read_text() == "mine" for name in foreign)
    assert directory.is_dir() and link.is_symlink() and pipe.is_fifo()


# --- what is there -----------------------------------------------------------------------------------------------


def test_files_of_the_old_scripts_are_shown_and_never_removed(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "daily").mkdir()
    old = tmp_path / "daily" / "obcms_backup_daily_2024-01-01_02-00-00.sql.gz"
    old.write_bytes(b"x")
    catalog.sweep()
    (stored,) = catalog.sets()
    assert (stored.state, stored.good, stored.files) == ("old script", False, (old.name,)) and old.exists()
    with pytest.raises(NotFound, match="no good set"):
        catalog.find("latest")
    assert catalog.find(old.name).id == catalog.find(str(old)).id == "daily_2024-01-01_02-00-00"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_other_things_with_matching_names_are_not_sets(catalog: Catalog, tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    identifier = published(catalog)
    for name in (manifest_name("daily_2020-01-01_00-00-00"), "obcms_backup_daily_2021-01-01_00-00-00.sql.gz"):
        make(tmp_path / "daily" / name)
    assert [s.id for s in catalog.sets()] == [identifier]
    catalog.sweep()
    assert len(list((tmp_path / "daily").iterdir())) == 6


def test_a_set_in_another_tiers_directory_is_not_counted(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    (tmp_path / "weekly").mkdir()
    for path in (tmp_path / "daily").iterdir():
        (tmp_path / "weekly" / path.name).write_bytes(path.read_bytes())
    assert [(s.id, s.tier) for s in catalog.sets()] == [(identifier, Tier.DAILY)]


def test_a_manifest_of_a_later_format_is_shown_as_unreadable(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    path = tmp_path / "daily" / manifest_name(identifier)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 3}))
    (stored,) = catalog.sets()
    assert stored.state == "unreadable" and not stored.good and "format" in stored.problem
    catalog.sweep()
    assert len(stored.files) == 4 and all((tmp_path / "daily" / name).exists() for name in stored.files)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xff", b"{}"])
def test_a_damaged_manifest_is_shown_as_unreadable(catalog: Catalog, tmp_path: Path, damage: bytes) -> None:
    identifier = published(catalog)
    (tmp_path / "daily" / manifest_name(identifier)).write_bytes(damage)
    assert [(s.id, s.state) for s in catalog.sets()] == [(identifier, "unreadable")]


def test_every_truncation_and_flip_of_a_manifest_is_survived(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    path = tmp_path / "daily" / manifest_name(identifier)
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        for data in (whole[:offset], whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :]):
            path.write_bytes(data)
            (stored,) = catalog.sets()
            assert stored.state in ("unreadable", "damaged", "complete"), stored


def test_a_missing_or_resized_file_is_damage(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    path = tmp_path / "daily" / f"obcms_media_{identifier}.tar.gz"
    path.write_bytes(path.read_bytes() + b"x")
    assert "bytes instead of" in catalog.find(identifier).problem
    path.unlink()
    stored = catalog.find(identifier)
    assert stored.state == "damaged" and f"{path.name} is missing" in stored.problem and not stored.good
    path.symlink_to("/etc/passwd")
    assert catalog.find(identifier).state == "damaged"


def test_a_manifest_under_anothers_name_is_damage(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    other = "daily_2030-01-01_00-00-00"
    (tmp_path / "daily" / manifest_name(other)).write_bytes(
        (tmp_path / "daily" / manifest_name(identifier)).read_bytes()
    )
    stored = catalog.find(other)
    assert stored.state == "damaged" and identifier in stored.problem


def test_changes_are_in_the_state(catalog: Catalog, tmp_path: Path) -> None:
    identifier = catalog.new_id(Tier.DAILY, NOW)
    made = sealed(catalog, identifier)
    part = VolumePart(
        name="media", files=1, directories=1, links=0, hard_links=0, bytes=1, excludes=(),
        changed=(FileChange(path="a", what="grew while read"),), changed_total=1,
    )  # fmt: skip
    manifest = described(identifier, [a for a, _ in made], Tier.DAILY, NOW).model_copy(update={"volumes": (part,)})
    catalog.publish(manifest, [s for _, s in made])
    (stored,) = catalog.sets()
    assert stored.state == "complete with changes" and stored.good


@pytest.mark.parametrize("suffix", ["sha256", "media", "backup", "both"])
def test_a_set_of_ours_without_its_manifest_is_unreadable(catalog: Catalog, tmp_path: Path, suffix: str) -> None:
    identifier = published(catalog)
    folder = tmp_path / "daily"
    (folder / manifest_name(identifier)).unlink()
    if suffix in ("media", "both"):
        (folder / f"obcms_media_{identifier}.files.gz").write_bytes(b"x")
    if suffix in ("backup", "both"):
        (folder / f"obcms_backup_{identifier}.contents.gz").write_bytes(b"x")
    if suffix in ("media", "backup"):
        (folder / f"obcms_set_{identifier}.sha256").unlink()
    (stored,) = catalog.sets()
    assert (stored.state, stored.problem, stored.good) == ("unreadable", "its manifest is missing", False)
    before = everything(catalog)
    catalog.sweep()
    assert everything(catalog) == before


def test_a_set_that_is_being_published_is_not_yet_judged(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The health endpoint looks at any moment."""
    seen: list[str] = []
    real = local.rename_new

    def looking(path: Path, target: Path) -> None:
        real(path, target)
        seen.extend(stored.state for stored in Catalog(catalog.root, MANILA).sets())

    monkeypatch.setattr(local, "rename_new", looking)
    published(catalog)
    assert len(seen) > 3 and set(seen) == {"old script", "complete"}


# --- verdicts, names and ids -------------------------------------------------------------------------------------


def test_the_newest_verdict_counts(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    catalog.record_verdict(catalog.find(identifier), Verdict(checked=NOW, problems=("a bit flipped",)))
    stored = catalog.find(identifier)
    assert (stored.state, stored.problem, stored.good) == ("damaged", "a bit flipped", False)
    catalog.record_verdict(stored, Verdict(checked=NOW))
    assert catalog.find(identifier).good and catalog.find(identifier).verdict == Verdict(checked=NOW)
    (tmp_path / "daily" / verdict_name(identifier)).write_text("{")
    stored = catalog.find(identifier)
    assert stored.state == "damaged" and not stored.good, "it may have said so; only a new verification clears it"


def test_looks_at_the_same_time_lose_nothing_of_each_other(catalog: Catalog) -> None:
    """A verification that took hours ends after a drill has noted its finding, and the other way round."""
    identifier = published(catalog)
    stored = catalog.find(identifier)
    begun, later = NOW, NOW + timedelta(hours=1)
    proof = Proof(tried=later, differences=("a table is missing",))
    catalog.record_verdict(stored, Verdict(checked=later, proof=proof), later, locked=True)
    kept = catalog.record_verdict(stored, Verdict(checked=begun), begun)
    assert kept.proof == proof and catalog.find(identifier).verdict == kept
    newer = Proof(tried=later + timedelta(hours=1))
    assert catalog.record_verdict(stored, Verdict(checked=begun, proof=newer), begun).proof == newer
    assert catalog.record_verdict(stored, Verdict(checked=later, proof=proof), later).proof == newer
    found = Verdict(checked=later, problems=("a bit flipped",))
    assert catalog.record_verdict(stored, found, later) == found, "damage ends a proof"
    assert catalog.record_verdict(stored, Verdict(checked=begun, proof=newer), begun) == found, "found meanwhile"
    again = later + timedelta(hours=2)
    assert catalog.record_verdict(stored, Verdict(checked=again), again).problems == (), "a new look counts"


def verdict_leftover(catalog: Catalog, monkeypatch: pytest.MonkeyPatch, identifier: str) -> Path:
    """What a verification that is killed between its verdict and the verdict's name leaves."""

    def killed(*_: object) -> Path:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            catalog.record_verdict(catalog.find(identifier), Verdict(checked=NOW, problems=("half",)))
    (left,) = (catalog.root / "daily").glob(".*.partial")
    return left


def test_a_killed_verification_does_not_block_the_next(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = published(catalog)
    left = verdict_leftover(catalog, monkeypatch, identifier)
    catalog.record_verdict(catalog.find(identifier), Verdict(checked=NOW, problems=("a bit flipped",)))
    assert catalog.find(identifier).problem == "a bit flipped"
    two_hours_ago = left.stat().st_mtime - 7200
    os.utime(left, (two_hours_ago, two_hours_ago))
    assert catalog.sweep() == [left.name] and not left.exists()


def test_a_sweep_takes_no_verdict_from_a_verification_at_work(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = published(catalog)
    real = StagedFile.seal

    def sealed_then_swept(staged: StagedFile) -> None:
        real(staged)
        Catalog(catalog.root, MANILA).sweep()  # as a `create` does that starts just now

    monkeypatch.setattr(StagedFile, "seal", sealed_then_swept)
    catalog.record_verdict(catalog.find(identifier), Verdict(checked=NOW, problems=("a bit flipped",)))
    assert catalog.find(identifier).problem == "a bit flipped"
    assert not list((catalog.root / "daily").glob(".*"))


def test_where_all_is_dated_ahead_latest_says_that_the_clock_is_behind(catalog: Catalog) -> None:
    published(catalog, now=datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(NotFound, match="every good set is dated ahead of this machine's clock"):
        catalog.find("latest")


def test_a_sweep_takes_nothing_from_those_who_write_under_another_lock(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StagedFile.seal

    def sealed_then_swept(staged: StagedFile) -> None:
        real(staged)
        Catalog(catalog.root, MANILA).sweep()

    monkeypatch.setattr(StagedFile, "seal", sealed_then_swept)
    known = Book(looked=NOW)
    assert BookFile(catalog.root, "s3").change(lambda _: known) == BookFile(catalog.root, "s3").read() == known
    file, state = ScheduleFile(catalog.root), ScheduleState().counted({"daily": "0 2 * * *"}, NOW, MANILA)
    file.write(state)
    assert file.read(NOW) == state
    assert not list((catalog.root / "state").glob(".*.partial"))


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_verdict_that_cannot_be_kept_is_a_store_error(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    identifier = published(catalog)
    real = os.fsync

    def failing(*arguments: object) -> Path:
        # Of the file itself or of the directory afterwards: the name must be durable as well.
        if call == "fsync" and not Path(f"/proc/self/fd/{arguments[0]}").is_dir():
            return real(arguments[0])  # type: ignore[arg-type, return-value]
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path if call == "replace" else os, call, failing)
    with pytest.raises(StoreError):
        catalog.record_verdict(catalog.find(identifier), Verdict(checked=NOW, problems=("a bit flipped",)))


def test_find_names_what_it_does_not_find(catalog: Catalog) -> None:
    published(catalog)
    for query in ("nothing", "\x1b[31m", "", ".", "..", "/", "../../etc/passwd", "daily_2025-10-20_10-00-00/..", "*"):
        with pytest.raises(NotFound) as caught:
            catalog.find(query)
        assert caught.value.exit_code == 44 and "\x1b" not in caught.value.message


def test_a_set_that_is_named_by_its_id_is_read_without_the_others(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted, _ = (published(catalog, now=NOW + timedelta(hours=n)) for n in range(3))
    read, manifest = list[str](), SetReader._manifest
    monkeypatch.setattr(SetReader, "_manifest", lambda self, name, *_: read.append(name) or manifest(self, name, *_))
    assert catalog.find(wanted).id == wanted and read == [manifest_name(wanted)]


def test_latest_is_the_newest_good_set(catalog: Catalog, tmp_path: Path) -> None:
    first, second = published(catalog), published(catalog, now=NOW + timedelta(hours=1))
    assert catalog.find("latest").id == second
    (tmp_path / "daily" / f"obcms_backup_{second}.sql.gz").unlink()
    assert catalog.find("latest").id == first
    safety = published(catalog, tier=Tier.PRE_RESTORE, now=NOW + timedelta(hours=2))
    assert catalog.find("latest").id == first and catalog.find(safety).id == safety
    (tmp_path / "daily" / f"obcms_backup_{first}.sql.gz").unlink()
    with pytest.raises(NotFound):
        catalog.find("latest")


def test_ids_never_collide(catalog: Catalog, tmp_path: Path) -> None:
    made = [published(catalog) for _ in range(5)]
    assert made == [f"daily_2025-10-20_10-00-0{n}" for n in range(5)]
    (tmp_path / "daily" / staged_name("obcms_backup_daily_2025-10-20_10-00-05.sql.gz")).touch()
    (tmp_path / "daily" / "obcms_media_daily_2025-10-20_10-00-06.tar.gz").touch()
    (tmp_path / "daily" / verdict_name("daily_2025-10-20_10-00-07")).touch()
    assert catalog.new_id(Tier.DAILY, NOW) == "daily_2025-10-20_10-00-08"
    assert catalog.new_id(Tier.WEEKLY, NOW) == "weekly_2025-10-20_10-00-00"


def test_ids_do_not_collide_in_the_hour_that_comes_twice(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, ZoneInfo("Europe/Berlin"))
    first = published(catalog, now=datetime(2025, 10, 26, 0, 30, tzinfo=UTC))
    second = published(catalog, now=datetime(2025, 10, 26, 1, 30, tzinfo=UTC))
    assert first != second and [s.id for s in catalog.sets()] == [second, first]


def test_an_id_is_free_of_links_and_pipes_too(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "daily").mkdir()
    (tmp_path / "daily" / "obcms_backup_daily_2025-10-20_10-00-00.sql.gz").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "daily" / manifest_name("daily_2025-10-20_10-00-01"))
    assert catalog.new_id(Tier.DAILY, NOW) == "daily_2025-10-20_10-00-02"


def test_a_directory_that_cannot_be_read_is_not_an_empty_one(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "daily").write_text("a file")
    with pytest.raises(StoreError):
        catalog.sets()


def test_a_manifest_is_what_was_given(catalog: Catalog) -> None:
    identifier = published(catalog)
    stored = catalog.find(identifier)
    assert stored.manifest and to_json(stored.manifest) == LocalStore(catalog.root / "daily").read(
        manifest_name(identifier)
    )


def steps(patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
    """Raise `error` instead of the call number `at`, and of every later one, that changes a file."""
    left = iter(range(at))

    def step(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            if next(left, None) is None:
                raise error
            return real(*arguments, **options)

        return call

    for owner, name in ((Path, "rename"), (os, "fsync"), (Path, "unlink")):
        patch.setattr(owner, name, step(getattr(owner, name)))


@pytest.mark.parametrize("at", range(11))
def test_a_removal_that_is_killed_is_finished_or_has_not_begun(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    stays = published(catalog, now=NOW - timedelta(days=1))
    gone = published(catalog)
    catalog.record_verdict(catalog.find(gone), Verdict(checked=NOW))
    stored, before = catalog.find(gone), everything(catalog)
    with monkeypatch.context() as patch:
        steps(patch, at, Killed())
        with contextlib.suppress(Killed):
            catalog.remove(stored)
    listed = {s.id for s in catalog.sets()}
    assert listed == ({stays, gone} if at == 0 else {stays}), "unlisted first, and never shown as unreadable"
    catalog.sweep()
    assert {s.id for s in catalog.sets() if s.good} == listed
    after = everything(catalog)
    assert after == {name: data for name, data in before.items() if at == 0 or gone not in name}


@pytest.mark.parametrize("at", range(11))
def test_a_removal_that_fails_has_not_begun_or_is_finished_later(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    gone = published(catalog)
    stored, before = catalog.find(gone), everything(catalog)
    with monkeypatch.context() as patch:
        steps(patch, at, OSError(errno.EIO, "Input/output error"))
        with contextlib.suppress(StoreError):
            catalog.remove(stored)
        assert [s.id for s in catalog.sets() if s.good] in ([], [gone])
        catalog.sweep()  # a disk that fails must not fail whoever sweeps
    catalog.finish_removing()
    assert everything(catalog) in ({}, before)


def test_a_set_whose_files_cannot_be_removed_is_listed_again(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = published(catalog)
    before = everything(catalog)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreError, match="not permitted"):
        catalog.remove(catalog.find(identifier))
    assert catalog.find(identifier).good and everything(catalog) == before


def test_a_removal_takes_what_the_manifest_names_and_no_more(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    folder, stored = tmp_path / "daily", catalog.find(identifier)
    others = [f"obcms_other_{identifier}.sql.gz", f"obcms_backup_{identifier}.sql.gz.old", f"x{identifier}"]
    for name in others:
        (folder / name).write_text("mine")
    archive = folder / f"obcms_media_{identifier}.tar.gz"
    archive.unlink()
    archive.symlink_to(tmp_path / "daily" / others[0])
    dump = folder / f"obcms_backup_{identifier}.sql.gz"
    dump.unlink()
    os.mkfifo(dump)
    assert catalog.remove(stored)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*others, archive.name, dump.name])
    assert archive.is_symlink() and dump.is_fifo() and (folder / others[0]).read_text() == "mine"


def test_a_manifest_that_names_files_of_another_set_cannot_remove_them(catalog: Catalog) -> None:
    victim, identifier = published(catalog), published(catalog)
    stored = catalog.find(identifier)
    assert stored.manifest
    name = f"obcms_backup_{victim}.sql.gz"
    crafted = stored.manifest.model_copy(
        update={"artifacts": tuple(a.model_copy(update={"file": name}) for a in stored.manifest.artifacts)}
    )
    (catalog.root / "daily" / manifest_name(identifier)).write_bytes(to_json(crafted))
    assert catalog.remove(catalog.find(identifier))
    assert catalog.find(victim).good


def test_a_set_whose_manifest_was_put_back_stays(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    path = tmp_path / "daily" / manifest_name(identifier)
    (path.parent / mark_name(identifier)).write_bytes(path.read_bytes())
    assert catalog.find(identifier).good
    catalog.sweep()
    assert catalog.find(identifier).good and not (path.parent / mark_name(identifier)).exists()


def test_a_damaged_mark_removes_nothing_and_stands_in_nobodys_way(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    path = tmp_path / "daily" / manifest_name(identifier)
    path.rename(path.parent / mark_name(identifier)).write_text("{")
    before = everything(catalog)
    catalog.sweep()
    assert everything(catalog) == before and catalog.sets() == []
    with pytest.raises(StoreError, match="cannot be removed"):
        catalog.finish_removing()
    assert catalog.new_id(Tier.DAILY, NOW) != identifier


def test_a_set_that_is_being_removed_is_never_seen_in_pieces(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The health endpoint looks at any moment."""
    identifier = published(catalog)
    seen: list[str] = []
    for owner, name in ((Path, "rename"), (os, "fsync"), (Path, "unlink")):
        real = getattr(owner, name)

        def looking(*arguments, real=real, **options):  # type: ignore[no-untyped-def]
            done = real(*arguments, **options)
            seen.extend(stored.state for stored in Catalog(catalog.root, MANILA).sets())
            return done

        monkeypatch.setattr(owner, name, looking)
    # Its directory was listed before, and is read while the set goes.
    names = catalog.store(Tier.DAILY).names()
    catalog.remove(catalog.find(identifier))
    monkeypatch.setattr(LocalStore, "names", lambda store, **_: names if store.directory.name == "daily" else [])
    assert catalog.sets() == [] and seen == []


# --- pins --------------------------------------------------------------------------------------------------------


def test_a_pin_is_kept_beside_its_set(catalog: Catalog, tmp_path: Path) -> None:
    identifier = published(catalog)
    catalog.pin(catalog.find(identifier), " before\nthe migration ", NOW)
    assert catalog.find(identifier).pin == Pin(since=NOW, reason="before the migration")
    copied = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "daily", copied / "daily")
    (elsewhere,) = Catalog(copied, MANILA).sets()
    assert elsewhere.pin == Pin(since=NOW, reason="before the migration") and elsewhere.good
    catalog.sweep()
    assert catalog.unpin(catalog.find(identifier)) and not catalog.unpin(catalog.find(identifier))
    assert catalog.find(identifier).pin is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"since": 1e999}', "\0" * 100_000])
def test_a_damaged_pin_is_a_pin(catalog: Catalog, tmp_path: Path, damage: str) -> None:
    identifier = published(catalog)
    (tmp_path / "daily" / pin_name(identifier)).write_text(damage)
    assert catalog.find(identifier).pin and not catalog.remove(catalog.find(identifier))
    assert catalog.find(identifier).good and catalog.unpin(catalog.find(identifier))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_file_pins_too_and_is_not_touched(catalog: Catalog, tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    identifier = published(catalog)
    path = tmp_path / "daily" / pin_name(identifier)
    make(path)
    stored = catalog.find(identifier)
    assert stored.pin and not catalog.remove(stored)
    for change in (lambda: catalog.pin(stored, "", NOW), lambda: catalog.unpin(stored)):
        with pytest.raises(StoreError, match="not a regular file"):
            change()
    assert os.path.lexists(path) and catalog.find(identifier).good


def test_a_pin_and_a_removal_at_once_agree(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is second sees the first: a set that was said to be pinned is there afterwards."""
    identifier = published(catalog)
    stored, other, real = catalog.find(identifier), Catalog(catalog.root, MANILA), Path.rename

    def pinned_first(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", real)
        other.pin(stored, "", NOW)  # before the set is unlisted
        return real(path, target)

    monkeypatch.setattr(Path, "rename", pinned_first)
    assert not catalog.remove(stored)
    assert catalog.find(identifier).good and catalog.unpin(stored)

    def pinned_second(path: Path, target: Path) -> Path:
        done = real(path, target)
        monkeypatch.setattr(Path, "rename", real)
        with pytest.raises(NotFound, match="being removed"):
            other.pin(stored, "", NOW)
        return done

    monkeypatch.setattr(Path, "rename", pinned_second)
    assert catalog.remove(stored)
    assert not list((catalog.root / "daily").iterdir())


def test_an_id_of_a_lost_set_whose_pin_is_left_is_not_given_again(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "daily").mkdir()
    (tmp_path / "daily" / pin_name("daily_2025-10-20_10-00-00")).touch()
    assert catalog.new_id(Tier.DAILY, NOW) == "daily_2025-10-20_10-00-01"


def test_files_without_a_manifest_are_removed_by_their_names(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "daily"
    folder.mkdir()
    for what in ("backup_daily_2024-01-01_02-00-00.sql.gz", "media_daily_2024-01-01_02-00-00.tar.gz"):
        (folder / f"obcms_{what}").write_text("old")
    (folder / "obcms_backup_daily_2024-01-01_02-00-01.sql.gz").write_text("another")
    _, stored = catalog.sets()
    assert catalog.remove(stored)
    assert [path.name for path in folder.iterdir()] == ["obcms_backup_daily_2024-01-01_02-00-01.sql.gz"]
