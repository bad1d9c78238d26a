"""The old scripts' files in the tiers: a dump and the archives of its run are one set, whatever their names."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.retention import RetentionPolicy, decide
from backup.catalog.run_records import Records
from backup.cli.render.set_tables import sets_lines, shown_state
from backup.documents.status import SET
from backup.errors import NotFound, NotProven
from backup.model.backup_set import Proof, StoredSet, Verdict, holds_database, pin_name, verdict_name, volumes_of
from backup.model.manifest import Tier
from backup.operations.drill.run import DrillContext, prove_set
from backup.operations.inspect import one_file
from backup.operations.set_artifacts import archive_of, dump_of, read_roles
from backup.operations.verify.run import verify_set
from backup.progress import Silent
from tests.support.set_factory import UTC_ZONE, on_disk

NOW = datetime(2025, 10, 21, 5, tzinfo=UTC)
ID, LATER = "daily_2025-10-20_02-00-00", "daily_2025-10-20_02-00-07"
DUMP, MEDIA = f"obcms_backup_{ID}.sql.gz", f"obcms_media_{LATER}.tar.gz"
OLDER, PILOT = "obcms_backup_20251020_140000.sql.gz", "bmms_pilot_20251020_160000.sql"
PLAIN = b"--\n-- PostgreSQL database dump\n--\n\n--\n-- PostgreSQL database dump complete\n--\n\n"


def packed_media() -> bytes:
    with tarfile.open(fileobj=(data := io.BytesIO()), mode="w:gz") as archive:
        folder = tarfile.TarInfo("media")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        info = tarfile.TarInfo("media/a.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"a"))
    return data.getvalue()


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A volume with a pair and two dumps of older names in `daily`."""
    daily = tmp_path / "daily"
    daily.mkdir()
    for name, data in ((DUMP, gzip.compress(PLAIN)), (MEDIA, packed_media())):
        (daily / name).write_bytes(data)
    (daily / OLDER).write_bytes(gzip.compress(PLAIN))
    (daily / PILOT).write_bytes(PLAIN)
    return Catalog(tmp_path, UTC_ZONE)


def test_a_pair_is_one_set_and_older_names_are_listed_in_their_folders_tier(catalog: Catalog) -> None:
    assert [(each.id, each.files, each.state) for each in catalog.sets()] == [
        ("daily_2025-10-20_16-00-00", (PILOT,), "old script"),
        ("daily_2025-10-20_14-00-00", (OLDER,), "old script"),
        (ID, (DUMP, MEDIA), "old script"),
    ]
    pair, pilot = catalog.find(ID), catalog.find(PILOT)
    assert (holds_database(pair), volumes_of(pair)) == (True, ["media"])
    assert pair.size == sum((pair.directory / name).stat().st_size for name in (DUMP, MEDIA))
    assert (dump_of(pair), archive_of(pair, "media")) == (DUMP, (MEDIA, "", "media"))
    assert (holds_database(pilot), volumes_of(pilot), dump_of(pilot)) == (True, [], PILOT)
    assert sorted(os.listdir(catalog.root / "daily")) == sorted([DUMP, MEDIA, OLDER, PILOT]), "names stay"


def test_either_name_and_either_id_finds_it(catalog: Catalog) -> None:
    for query in (ID, LATER, DUMP, MEDIA, f"/backups/daily/{MEDIA}"):
        assert catalog.find(query).files == (DUMP, MEDIA), query
    assert catalog.find(OLDER).id == catalog.find("daily_2025-10-20_14-00-00").id
    with pytest.raises(NotFound):
        catalog.find("daily_2025-10-20_03-00-00")


def test_files_of_a_set_with_a_manifest_are_never_paired(catalog: Catalog) -> None:
    made = on_disk(catalog.root, Tier.WEEKLY, NOW, halves="d")
    alone = f"obcms_media_weekly_{NOW + timedelta(seconds=5):%Y-%m-%d_%H-%M-%S}.tar.gz"
    (catalog.root / "weekly" / alone).write_bytes(packed_media())
    twin = f"obcms_backup_{NOW:%Y%m%d_%H%M%S}.sql"
    (catalog.root / "weekly" / twin).write_bytes(PLAIN)
    ours, theirs = catalog.find(made), catalog.find(twin)
    assert ours.state == "complete" and not {alone, twin} & set(ours.files)
    assert theirs.files == (twin, alone) and theirs.id != ours.id
    (catalog.root / "weekly" / f".obcms_set_{made}.json.removing").write_bytes(b"{}")
    (catalog.root / "weekly" / f"obcms_set_{made}.json").unlink()
    assert [each.files for each in catalog.sets(Tier.WEEKLY)] == [(twin, alone)], "nor of one that is leaving"


def test_a_new_set_does_not_get_the_id_of_an_older_dump(catalog: Catalog) -> None:
    assert catalog.new_id(Tier.DAILY, datetime(2025, 10, 20, 14, tzinfo=UTC)) == "daily_2025-10-20_14-00-01"


def test_it_goes_as_one_with_its_verdict_and_not_while_either_is_pinned(catalog: Catalog) -> None:
    pair = catalog.find(ID)
    catalog.record_verdict(pair, Verdict(checked=NOW), NOW)
    (catalog.root / "daily" / pin_name(LATER)).write_text("{}")
    assert catalog.find(ID).pin, "as it was pinned when it was a set of its own"
    assert not catalog.remove(pair)
    assert catalog.unpin(pair) and not catalog.find(ID).pin
    assert catalog.remove(pair)
    assert sorted(os.listdir(catalog.root / "daily")) == sorted([OLDER, PILOT])


def test_retention_decides_over_a_pair_once(catalog: Catalog) -> None:
    policy = RetentionPolicy(ages={Tier.DAILY: timedelta(days=30)}, minimum=3, share=100, fresh=timedelta(hours=48))
    at = NOW + timedelta(days=90)
    for each in range(3):
        on_disk(catalog.root, Tier.DAILY, at - timedelta(hours=each), halves="dm" if each else "d")
    decided = {d.stored.id: d for d in decide(catalog.sets(), policy, at)}
    assert decided[ID].keep and "hold the volume media" in decided[ID].reason, "both halves count"
    assert not decided["daily_2025-10-20_14-00-00"].keep
    on_disk(catalog.root, Tier.DAILY, at - timedelta(hours=5))
    assert not {d.stored.id: d for d in decide(catalog.sets(), policy, at)}[ID].keep


# --- what was found of it ----------------------------------------------------------------------------------------


def verified(catalog: Catalog, query: str = ID) -> Verdict:
    return verify_set(catalog, catalog.find(query), Silent(), NOW)


def words(catalog: Catalog, query: str = ID) -> str:
    return shown_state(catalog.find(query))


def test_a_verification_is_remembered_beside_it_and_shown(catalog: Catalog) -> None:
    assert words(catalog) == "old script"
    for query in (ID, OLDER, PILOT):
        assert verified(catalog, query).problems == ()
        assert words(catalog, query) == "old script, verified"
    assert (catalog.root / "daily" / verdict_name(ID)).exists()
    pair = catalog.find(ID)
    assert pair.verdict and pair.verdict.checked == NOW and not (pair.good or pair.verified or pair.proven)
    assert SET.model_validate(pair).verified and "old script, verified" in sets_lines([pair])[0]


def test_a_proof_is_kept_by_later_verifications(catalog: Catalog) -> None:
    catalog.record_verdict(catalog.find(ID), Verdict(checked=NOW, proof=Proof(tried=NOW)), NOW, locked=True)
    assert words(catalog) == "old script, proven" and SET.model_validate(catalog.find(ID)).proven
    verified(catalog)
    assert words(catalog) == "old script, proven"
    differs = Proof(tried=NOW + timedelta(1), differences=("it does not load: no such type",))
    catalog.record_verdict(catalog.find(ID), Verdict(checked=NOW, proof=differs), NOW)
    assert words(catalog) == "old script, does not load" and not SET.model_validate(catalog.find(ID)).proven


@pytest.mark.parametrize("name", [DUMP, MEDIA])
def test_a_file_that_has_changed_makes_it_void(catalog: Catalog, name: str) -> None:
    path = catalog.root / "daily" / name
    for change in (lambda: os.utime(path, (1, 1)), lambda: path.write_bytes(path.read_bytes() + b"\0"), path.unlink):
        verified(catalog)
        assert words(catalog) == "old script, verified"
        change()
        left = [each for each in catalog.sets() if {DUMP, MEDIA} & set(each.files)]
        assert left and all(each.verdict is None for each in left)


def test_one_that_changed_while_it_was_read_is_void_from_the_start(catalog: Catalog) -> None:
    before = catalog.find(ID)
    os.utime(catalog.root / "daily" / DUMP, (1, 1))
    verify_set(catalog, before, Silent(), NOW)
    assert words(catalog) == "old script"
    catalog.record_verdict(before, Verdict(checked=NOW, problems=("cut",)), NOW)
    assert verified(catalog).problems == () and words(catalog) == "old script, verified", "nor is it merged"


def test_damage_is_told_until_a_better_look(catalog: Catalog) -> None:
    path = catalog.root / "daily" / DUMP
    whole, times = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-9])
    assert verified(catalog).problems
    assert words(catalog) == "old script, damaged"
    path.write_bytes(whole)
    assert verified(catalog).problems == () and words(catalog) == "old script, verified"
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_verdict_that_cannot_be_read_says_nothing(catalog: Catalog) -> None:
    verified(catalog)
    (catalog.root / "daily" / verdict_name(ID)).write_text("{")
    assert words(catalog) == "old script" and verified(catalog).problems == ()
    assert words(catalog) == "old script, verified"


# --- what is done with one without asking whether it has a manifest ------------------------------------------------


def test_a_file_comes_out_of_an_archive_that_was_packed_in_pieces(catalog: Catalog) -> None:
    plain, given = gzip.decompress(packed_media()), list[bytes]()
    (catalog.root / "daily" / MEDIA).write_bytes(gzip.compress(plain[:700]) + gzip.compress(plain[700:]))
    assert verified(catalog).problems == ()
    one_file.content(catalog.find(ID), "a.txt", given.append, Silent())
    assert b"".join(given) == b"a"


def test_a_list_of_roles_that_no_manifest_names_makes_none(catalog: Catalog) -> None:
    (catalog.root / "daily" / f"obcms_roles_{ID}.sql.gz").write_bytes(gzip.compress(b"CREATE ROLE stranger SUPERUSER;"))
    found = catalog.find(ID)
    assert found.derived and found.manifest.artifact("roles") and read_roles(found, unchanged=True) == ""
    assert any("roles" in each for each in verified(catalog).problems), "but it is judged"


def test_archives_alone_are_not_drilled_and_no_server_is_started_for_them(catalog: Catalog) -> None:
    for name in (DUMP, OLDER, PILOT):
        (catalog.root / "daily" / name).unlink()

    def places(stored: StoredSet) -> NoReturn:
        raise AssertionError(stored.id)

    there = catalog.root
    context = DrillContext(catalog=catalog, records=Records(there), lock=there, places=places, file_columns=(), jobs=1)
    with pytest.raises(NotProven, match="holds no database"):
        prove_set(catalog.find(LATER), context, "run", {})
