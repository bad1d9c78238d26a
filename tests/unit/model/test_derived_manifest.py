"""A manifest that nobody wrote says what the files show, states the rest as unknown, and makes no set a good one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.catalog.catalog import Catalog
from backup.catalog.retention import identity_of
from backup.documents.results import DOCUMENTS
from backup.errors import IntegrityError
from backup.model.backup_set import StoredSet, holds_database, manifest_name, precedent, volumes_of
from backup.model.derived_manifest import DerivedManifest, bare_file, derive
from backup.model.manifest import Tier, from_json, to_json
from backup.operations.set_artifacts import archive_of, dump_of
from tests.support.set_factory import UTC_ZONE, in_memory, on_disk

NOW = datetime(2025, 10, 20, 2, tzinfo=UTC)
KINDS = ["verified", "damaged", "incomplete", "mixed up", "unreadable", "old script"]


@given(st.sampled_from(Tier), st.sampled_from(KINDS), st.sampled_from(["d", "m", "dm"]))
def test_every_set_has_a_manifest_and_only_a_written_one_makes_it_good(tier: Tier, kind: str, halves: str) -> None:
    stored = in_memory(tier, NOW, kind, halves=halves)
    assert stored.derived == (kind in ("unreadable", "old script")) == isinstance(stored.manifest, DerivedManifest)
    assert (holds_database(stored), volumes_of(stored)) == ("d" in halves, ["media"] if "m" in halves else [])
    if stored.derived:
        assert not (stored.good or stored.verified or stored.loads or stored.proven)
        assert stored.manifest.database is None and stored.manifest.volumes == () and identity_of(stored) is None
        assert all(each.stored_sha256 == "" for each in stored.manifest.artifacts)
        assert DOCUMENTS["set"].of(stored, media=[]).manifest is None


def test_what_is_not_noted_is_like_nothing() -> None:
    made = in_memory(Tier.DAILY, NOW)
    assert made.manifest.database
    part = made.manifest.database.model_copy(update={"definitions": "", "environment": ""})
    assert precedent([in_memory(Tier.DAILY, NOW, "old script")], part) is None


def test_names_tell_the_parts_of_a_set_that_lost_its_manifest(tmp_path: Path) -> None:
    made = on_disk(tmp_path, Tier.DAILY, NOW)
    (tmp_path / "daily" / manifest_name(made)).unlink()
    roles, index = f"obcms_roles_{made}.sql.gz.age", f"obcms_media_{made}.files.gz"
    contents = f"obcms_backup_{made}.contents.gz"
    for name in (roles, index, contents):
        (tmp_path / "daily" / name).write_text("x")
    stored = Catalog(tmp_path, UTC_ZONE).find(made)
    kinds = {each.kind: (each.file, each.stored_size, each.encryption) for each in stored.manifest.artifacts}
    assert stored.state == "unreadable" and stored.derived and stored.encrypted
    assert (kinds["roles"], kinds["index"]) == ((roles, 1, "age"), (index, 1, ""))
    assert kinds["contents"] == (contents, 1, "") and dump_of(stored) == kinds["database"][0]
    assert archive_of(stored, "media") == (kinds["volume"][0], index, "media"), "what is unpacked is held against it"
    assert kinds["database"][1] == (stored.directory / kinds["database"][0]).stat().st_size


def test_the_dump_of_a_set_comes_before_one_of_another_name() -> None:
    names = [f"obcms_{what}_daily_2025-10-20_02-00-00.sql.gz" for what in ("a", "backup", "roles")]
    made = derive("x", Tier.DAILY, NOW, filter(None, (bare_file(name, Tier.DAILY, UTC_ZONE) for name in names)))
    dump = made.artifact("database")
    assert dump and dump.file == names[1] and [each.kind for each in made.artifacts].count("database") == 2
    assert made.dated("database") == NOW and made.dated("volume") is None


def test_one_that_was_derived_is_no_manifest_on_a_disk() -> None:
    made = derive("x", Tier.DAILY, NOW, filter(None, [bare_file(f"obcms_backup_daily_{'2025-10-20_02-00-00'}.sql.gz",
                                                                 Tier.DAILY, UTC_ZONE)]))  # fmt: skip
    with pytest.raises(IntegrityError):
        from_json(to_json(made), "x")


def test_a_set_elsewhere_is_named_by_all_of_its_paths() -> None:
    stored = StoredSet(Path("/r"), "x", Tier.MANUAL, NOW, "old script", (), 0, paths=("/r/a b", "/r/c"))
    assert stored.query == "'/r/a b' /r/c" and stored.loose == ()
