"""A restore of bad input: whatever a set, a server or an archive is, the live data are as before, and it says why."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backup.postgres.server import roles
from tests.support.database import Server
from tests.support.faults import seeded
from tests.support.restoring import Target, boundaries

EXTENSION = b"""--
-- Name: nosuch; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS nosuch WITH SCHEMA public;


--
-- Name: kind; Type: TABLE; Schema: public;"""
KIND = b"--\n-- Name: kind; Type: TABLE; Schema: public;"


# --- damage -------------------------------------------------------------------------------------------------------


def test_cut_anywhere_it_is_refused(spoilt: Target) -> None:
    """Sixty cuts, each found by its size, and by what the file holds where manifest and checksums agree with it."""
    moments, found = seeded(), 0
    for what, suffix in (("backup", "sql.gz"), ("media", "tar.gz"), ("media", "files.gz")):
        path = spoilt.path(what, suffix)
        whole = path.read_bytes()
        offsets = sorted(moments.sample(range(len(whole)), 20))
        for offset in offsets:
            path.write_bytes(whole[:offset])
            assert spoilt.stored().state == "damaged" and spoilt.problems(), (path.name, offset)
            if offset == offsets[10]:
                spoilt.refused(spoilt.restore(), 50, "nothing was touched", path.name)
            spoilt.reseal()
            assert spoilt.problems(), (path.name, offset)
            found += 1
        path.write_bytes(whole)
        spoilt.reseal()
        assert spoilt.would_refuse() == ""
    assert found == 60


def test_cut_between_the_members_of_gzip_and_tar(spoilt: Target) -> None:
    """Where each layer's own checks are content: files of old scripts, packed piece by piece."""
    dump = gzip.decompress(spoilt.path().read_bytes()).splitlines(keepends=True)
    archive = gzip.decompress(spoilt.path("media", "tar.gz").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        starts = [member.offset for member in members]
        end = members.offset
    tar = [archive[a:b] for a, b in zip(starts, [*starts[1:], end], strict=True)] + [archive[end : end + 512]]
    sql = [b"".join(dump[at : at + 20]) for at in range(0, len(dump), 20)]
    for path, pieces in ((spoilt.old_file("backup", "sql.gz"), sql), (spoilt.old_file("media", "tar.gz"), tar)):
        cuts = boundaries(path, pieces)
        whole = path.read_bytes()
        stored = spoilt.sidecar.catalog.find(path.name)
        for cut in cuts:
            path.write_bytes(whole[:cut])
            assert spoilt.problems_of(stored), (path.name, cut)
        assert len(cuts) > 3
        spoilt.refused(spoilt.sidecar.run("restore", path.name, "--force"), 40, path.name)
        path.unlink()


def test_one_flipped_bit_anywhere_is_found_or_changes_nothing(spoilt: Target) -> None:
    moments = seeded()
    for what, suffix in (("backup", "sql.gz"), ("roles", "sql.gz"), ("media", "tar.gz"), ("media", "files.gz")):
        path = spoilt.path(what, suffix)
        whole = path.read_bytes()
        plain = gzip.decompress(whole)
        for offset in range(0, len(whole), max(1, len(whole) // 25)):
            data = bytearray(whole)
            data[offset] ^= 1 << moments.randrange(8)
            path.write_bytes(data)
            assert spoilt.problems(), (path.name, offset)
            spoilt.reseal()
            # Gzip's own head says nothing of the content.
            assert spoilt.problems() or gzip.decompress(bytes(data)) == plain, (path.name, offset)
            path.write_bytes(whole)
            spoilt.reseal()
        assert spoilt.problems() == []


# --- sets that are not what they say ------------------------------------------------------------------------------


@pytest.mark.parametrize("edited", ["nothing", "sums", "manifest"])
@pytest.mark.parametrize(("what", "suffix"), [("backup", "sql.gz"), ("media", "tar.gz")])
def test_a_file_of_another_set(spoilt: Target, what: str, suffix: str, edited: str) -> None:
    """Under this set's name; with the checksums edited to match, or the manifest too."""
    path, other = spoilt.path(what, suffix), spoilt.path(what, suffix, "weekly")
    shutil.copyfile(other, path)
    if edited == "sums":
        sums = spoilt.path("set", "sha256")
        before = json.loads(spoilt.path("set", "json").read_bytes())["artifacts"]
        old = next(a["stored_sha256"] for a in before if a["file"] == path.name)
        sums.write_text(sums.read_text().replace(old, hashlib.sha256(path.read_bytes()).hexdigest()))
    if edited == "manifest":
        plain = gzip.decompress(path.read_bytes())

        def change(manifest: dict[str, Any]) -> None:
            artifact = next(a for a in manifest["artifacts"] if a["file"] == path.name)
            known = artifact["plain_sha256"] and hashlib.sha256(plain).hexdigest()
            artifact |= {"plain_size": len(plain), "plain_sha256": known}

        spoilt.reseal(change)
    assert spoilt.would_refuse()
    if edited != "nothing":
        spoilt.refused(spoilt.restore(), 50 if spoilt.stored().state == "damaged" else 40, path.name)


def edited(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(fields)


def fewer_rows(manifest: dict[str, Any]) -> None:
    manifest["database"]["rows"]["public.app_case"] -= 1


def one_file_more(manifest: dict[str, Any]) -> None:
    manifest["volumes"][0]["files"] += 1


def no_media(manifest: dict[str, Any]) -> None:
    manifest["volumes"] = []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited(format=3), ("format", "newer release")),
        (edited(id="daily_2020-01-01_00-00-00"), ("is that of daily_2020-01-01_00-00-00",)),
        (fewer_rows, ("public.app_case", "has 100 rows instead of 99")),
        (one_file_more, ("holds 2 files instead of 3",)),
        (no_media, ("contradicts itself",)),
    ],
)
def test_an_edited_manifest(spoilt: Target, change: Callable[[dict[str, Any]], None], words: tuple[str, ...]) -> None:
    spoilt.reseal(change)
    result = spoilt.restore()
    spoilt.refused(result, 50 if "this cannot be restored" in result.output else 40, *words)


def test_a_manifest_that_is_no_manifest_or_gone(spoilt: Target) -> None:
    path, name = spoilt.path("set", "json"), spoilt.stored().id
    path.write_bytes(b"\0" * 100)
    spoilt.refused(spoilt.sidecar.run("restore", name, "--force"), 50, "unreadable", path.name)
    path.unlink()
    spoilt.refused(spoilt.sidecar.run("restore", name, "--force"), 50, "unreadable", "its manifest is missing")


# --- what the server does not take --------------------------------------------------------------------------------


def test_an_error_in_the_middle_of_the_dump(spoilt: Target) -> None:
    spoilt.edit("backup", KIND, b"SELECT no_such_function();\n" + KIND)
    assert spoilt.problems() == []
    spoilt.refused(spoilt.restore("--no-safety"), 50, "no_such_function", "not touched")
    run = spoilt.sidecar.runs()[0]
    assert (run.operation, run.outcome, run.exit_code) == ("restore", "failed", 50) and "no_such" in run.message


def test_a_role_that_nobody_has(spoilt: Target) -> None:
    spoilt.edit("backup", b"OWNER TO obcms_user;", b"OWNER TO nobody_here;")
    spoilt.refused(spoilt.restore("--no-safety"), 50, 'role "nobody_here" does not exist', "CREATE ROLE")


def test_roles_that_a_failed_restore_made_are_removed(spoilt: Target) -> None:
    made = b"CREATE ROLE made_here;\nGRANT made_here TO obcms_user;\n"
    spoilt.edit("roles", b"CREATE ROLE obcms_user;\n", b"CREATE ROLE obcms_user;\n" + made)
    spoilt.edit(
        "backup",
        KIND,
        b"CREATE TABLE public.odd (); ALTER TABLE public.odd OWNER TO made_here; SELECT nosuch();\n" + KIND,
    )
    assert spoilt.problems() == []
    said = spoilt.refused(spoilt.restore("--no-safety"), 50, "nosuch")
    assert "making 1 missing role: made_here" in said
    assert "made_here" not in roles(spoilt.sidecar.app().source().login)


def test_an_extension_that_the_server_lacks(spoilt: Target) -> None:
    """Named in the plan by the manifest; for a set of an earlier release, whose manifest does not tell, by the dump."""
    spoilt.edit("backup", KIND, EXTENSION, extensions=["nosuch"])
    planned = spoilt.sidecar.run("restore", spoilt.stored().id, "--dry-run")
    spoilt.refused(planned, 50, "does not have the extensions nosuch", "Install them")
    spoilt.reseal(lambda manifest: manifest["database"].pop("extensions") and None)
    assert spoilt.problems() == []
    spoilt.refused(spoilt.restore(), 50, "does not have the extensions nosuch", "Install them")
    assert [stored.tier for stored in spoilt.sidecar.sets()].count("pre-restore") == 0


def test_an_extension_is_noted_in_the_set(spoilt: Target) -> None:
    spoilt.server.execute(spoilt.database, "CREATE EXTENSION pg_trgm")
    try:
        spoilt.create("manual")
        manifest = spoilt.stored("manual").manifest
        assert manifest and manifest.database and manifest.database.extensions == ("pg_trgm",)
        assert spoilt.would_refuse("manual") == ""
    finally:
        spoilt.server.execute(spoilt.database, "DROP EXTENSION pg_trgm")


def test_a_set_of_a_newer_server(spoilt: Target, servers: Callable[[int], Server], tmp_path: Path) -> None:
    newer = servers(18)
    made = newer.new_database()
    newer.execute(made, "CREATE TABLE kind (name text)")
    result = spoilt.sidecar.run("create", "monthly", DB_SERVICE=newer.service, DB_NAME=made)
    assert result.code == 0, result.output
    name = spoilt.stored("monthly").id
    for option in ("--dry-run", "--force"):
        result = spoilt.sidecar.run("restore", name, option)
        spoilt.refused(result, 50, "the set is from PostgreSQL 18, the server is 17", "version 18 or later")
