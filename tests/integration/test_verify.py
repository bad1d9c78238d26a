"""Damage of every kind is found: in a set as it was published, in one whose checksums were made to fit, in old files.

The sets are real. What is damaged is judged beside the product by Python's gzip, tarfile and hashlib.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.catalog import Catalog
from backup.model.backup_set import Proof, StoredSet, Verdict
from backup.operations.verify.run import Checked, check_set, verify_set
from backup.postgres.dump.dump_digest import Outline, differences, same_order
from backup.progress import Silent
from tests.support.database import USER, Server
from tests.support.sidecar import Sidecar

SCHEMA = """
    CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people SELECT i, md5(i::text) FROM generate_series(1, 3000) i;
    CREATE TABLE "odd; Type: TABLE" (a int); INSERT INTO "odd; Type: TABLE" VALUES (1), (2);
    CREATE INDEX by_name ON people (name); SELECT lo_from_bytea(0, 'large'); GRANT SELECT ON people TO PUBLIC;
"""  # noqa: E501
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(servers: Callable[[int], Server], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup volume with two sets: one database and one volume, the media changed in between."""
    server = servers(17)
    sidecar = Sidecar.make(tmp_path_factory.mktemp("made"), server, server.new_database())
    server.execute(sidecar.environment["DB_NAME"], SCHEMA)
    media = sidecar.media
    (media / "picture.jpg").write_bytes(random.Random(1).randbytes(60_000))  # noqa: S311
    os.link(media / "picture.jpg", media / "uploads" / "same picture.jpg")
    (media / "sym").symlink_to("picture.jpg")
    (media / "new\nline").write_text("n")
    (media / ("ü" * 100)).write_text("long")
    with (media / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"x" * 5000)
        file.truncate(5 << 20)
    assert sidecar.run("create", "daily").code == 0
    (media / "uploads" / "b.txt").write_text("later\n")
    assert sidecar.run("create", "daily").code == 0
    return sidecar.root


@dataclass
class Kept:
    """A copy of one set, to be damaged."""

    root: Path

    @property
    def stored(self) -> StoredSet:
        (stored,) = self.catalog.sets()
        return stored

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.root, ZoneInfo("UTC"))

    def path(self, part: str) -> Path:
        (path,) = (self.root / "daily").glob(f"*{part}")
        return path

    def files(self) -> list[Path]:
        return sorted((self.root / "daily").iterdir())

    def plain(self, part: str) -> bytes:
        return gzip.decompress(self.path(part).read_bytes())

    def check(self, *, quick: bool = False, outline: Outline | None = None) -> Checked:
        return check_set(self.stored, Silent(), quick=quick, outline=outline)

    def manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.path(".json")
        manifest = json.loads(path.read_bytes())
        change(manifest)
        path.write_text(json.dumps(manifest))

    def refit(self, part: str, data: bytes, plain: bytes | None) -> None:
        """Store other bytes, and make sizes and checksums of the manifest and the list fit them."""
        path = self.path(part)
        path.write_bytes(data)

        def change(manifest: dict[str, Any]) -> None:
            artifact = next(a for a in manifest["artifacts"] if a["file"] == path.name)
            artifact["stored_size"], artifact["stored_sha256"] = len(data), hashlib.sha256(data).hexdigest()
            if plain is not None:
                artifact["plain_size"] = len(plain)
            if plain is not None and artifact["plain_sha256"]:
                artifact["plain_sha256"] = hashlib.sha256(plain).hexdigest()
            lines = (f"{a['stored_sha256']}  {a['file']}\n" for a in manifest["artifacts"])
            self.path(".sha256").write_text("".join(lines))

        self.manifest(change)

    def repack(self, part: str, change: Callable[[bytes], bytes]) -> None:
        """Change what a packed file holds, and make all sizes and checksums fit."""
        before = self.plain(part)
        plain = change(before)
        assert plain != before
        self.refit(part, gzip.compress(plain, 1), plain)

    def without_manifest(self) -> None:
        """As the old scripts left their files."""
        for part in (".json", ".sha256", ".files.gz", "roles*"):
            self.path(part).unlink()


def copy(made: Path, target: Path, number: int) -> Kept:
    ids = sorted(path.name.split("_", 2)[2].removesuffix(".json") for path in (made / "daily").glob("*.json"))
    (target / "daily").mkdir(parents=True)
    for path in (made / "daily").glob(f"*{ids[number]}*"):
        if path.suffix != ".verdict":  # what the run itself noted; these tests make their own
            shutil.copy2(path, target / "daily")
    return Kept(target)


@pytest.fixture
def kept(made: Path, tmp_path: Path) -> Kept:
    return copy(made, tmp_path / "one", 0)


def told(kept: Kept, words: str, *, quick: bool = False) -> None:
    problems = kept.check(quick=quick).problems
    assert any(words in problem for problem in problems), problems


# --- whole -------------------------------------------------------------------------------------------------------


def test_a_whole_set_has_no_problems_and_nothing_is_left_unchecked(kept: Kept) -> None:
    before = {path: path.read_bytes() for path in kept.files()}
    outline = Outline()
    problems, unchecked, found = kept.check(outline=outline)
    assert (problems, unchecked) == ([], [])
    assert found.rows == {"public.people": 3000, 'public."odd; Type: TABLE"': 2} and found.large_objects == 1
    assert found.rows == outline.rows and outline.sections["TABLE DATA public.people"].rows == 3000
    assert {path: path.read_bytes() for path in kept.files()} == before, "check records nothing"


def test_quick_says_what_it_left_out(kept: Kept) -> None:
    problems, unchecked, found = kept.check(quick=True)
    assert problems == [] and "what the files hold" in unchecked[0]
    assert kept.stored.manifest.database and found.rows == kept.stored.manifest.database.rows, "what was counted once"


def test_a_verdict_is_kept_with_the_proof_of_an_earlier_drill(kept: Kept) -> None:
    proof = Proof(tried=NOW, server_version="17.1")
    kept.catalog.record_verdict(kept.stored, Verdict(checked=NOW, proof=proof))
    assert verify_set(kept.catalog, kept.stored, Silent(), NOW).proof == proof
    assert kept.stored.proven
    kept.repack("backup*.sql.gz", lambda dump: dump.replace(b"\n7\t", b"\n8\t"))
    kept.manifest(lambda manifest: manifest["database"]["rows"].update({"public.people": 1}))
    assert verify_set(kept.catalog, kept.stored, Silent(), NOW).proof is None and not kept.stored.good


def test_a_quick_look_does_not_clear_what_a_full_one_found(kept: Kept) -> None:
    kept.manifest(lambda manifest: manifest["database"]["rows"].update({"public.people": 1}))
    assert verify_set(kept.catalog, kept.stored, Silent(), NOW, quick=True).problems == ()
    assert verify_set(kept.catalog, kept.stored, Silent(), NOW).problems
    assert verify_set(kept.catalog, kept.stored, Silent(), NOW, quick=True).problems and not kept.stored.good


def test_a_set_elsewhere_is_checked_and_nothing_recorded(kept: Kept, tmp_path: Path) -> None:
    elsewhere = Catalog(tmp_path / "elsewhere", ZoneInfo("UTC"))
    assert verify_set(elsewhere, kept.stored, Silent(), NOW).problems == ()
    assert not (tmp_path / "elsewhere").exists() and not list(kept.root.rglob("*.verdict"))


def test_memory_is_flat(kept: Kept) -> None:
    """200 MB of rows that pack a thousand times."""
    row = b"1\t" + b"x" * 998 + b"\n"
    kept.repack("backup*.sql.gz", lambda dump: dump.replace(b"\n7\t", b"\n" + row * 200_000 + b"7\t", 1))
    kept.manifest(lambda manifest: manifest["database"]["rows"].update({"public.people": 203_000}))
    stored = kept.stored
    tracemalloc.start()
    assert check_set(stored, Silent(), outline=Outline()).problems == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20


# --- cut, flipped, mixed up --------------------------------------------------------------------------------------


def offsets(data: bytes, count: int) -> Iterator[int]:
    yield from (0, 1, len(data) - 1, len(data) - 4, len(data) - 8, len(data) - 9, 10, 18)
    source = random.Random(len(data))  # noqa: S311
    yield from (source.randrange(len(data)) for _ in range(count))


def test_every_truncation_is_found(kept: Kept) -> None:
    tried = 0
    for path in kept.files():
        whole = path.read_bytes()
        for offset in offsets(whole, 12):
            path.write_bytes(whole[: max(offset, 0)])
            # The manifest's last byte is a newline that says nothing.
            assert kept.check().problems or (path.suffix == ".json" and offset == len(whole) - 1), (path.name, offset)
            tried += 1
        path.write_bytes(whole)
    assert tried >= 60 and kept.check().problems == []


def test_every_missing_file_is_found(kept: Kept) -> None:
    for path in kept.files():
        whole = path.read_bytes()
        path.unlink()
        assert kept.check().problems, path.name
        path.write_bytes(whole)


ARTIFACT = ("kind", "name", "file", "stored_size", "stored_sha256", "plain_size", "plain_sha256")


def facts(path: Path) -> Any:
    """What a manifest says of its files' content."""
    manifest = json.loads(path.read_bytes())
    artifacts = [{"name": "", **artifact} for artifact in manifest["artifacts"]]
    artifacts = [{k: v for k, v in artifact.items() if k in ARTIFACT} for artifact in artifacts]
    counts = ("files", "links", "directories", "hard_links", "bytes")
    volumes = [{count: volume[count] for count in counts} for volume in manifest["volumes"]]
    database = manifest["database"]["rows"], manifest["database"].get("large_objects", 0)
    return manifest["id"], artifacts, volumes, database


@pytest.mark.parametrize("quick", [False, True])
def test_every_flipped_bit_is_found(kept: Kept, quick: bool) -> None:
    """But for words of the manifest that say nothing of the files. The two look at every other of the bytes."""
    manifest = kept.path(".json")
    before = facts(manifest)
    for path in kept.files():
        whole = path.read_bytes()
        step = max(1, len(whole) // (700 if path == manifest else 60))
        for offset in range(step * quick, len(whole), 2 * step):
            bit = 1 << (offset % 8)
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ bit]) + whole[offset + 1 :])
            if kept.check(quick=quick).problems:
                continue
            assert path == manifest, (path.name, offset)
            if not quick:
                assert facts(manifest) == before, offset
        path.write_bytes(whole)


def test_files_of_two_sets_that_were_swapped_are_found(made: Path, kept: Kept, tmp_path: Path) -> None:
    other = copy(made, tmp_path / "two", 1)
    for part in ("backup*.sql.gz", ".tar.gz", ".files.gz", ".json", ".sha256"):
        path = kept.path(part)
        whole = path.read_bytes()
        path.write_bytes(other.path(part).read_bytes())
        assert (kept.check().problems == []) == (path.read_bytes() == whole), part
        path.write_bytes(whole)


# --- checksums that fit ------------------------------------------------------------------------------------------


def archive(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> Callable[[bytes], bytes]:
    """An archive rewritten by tarfile with other members."""

    def rewrite(plain: bytes) -> bytes:
        found = []
        with tarfile.open(fileobj=io.BytesIO(plain)) as source:
            for member in source:
                content = source.extractfile(member) if member.isreg() else None
                found.append((member, content.read() if content else b""))
        change(found)
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as made:
            for member, data in found:
                member.pax_headers = {}
                member.sparse = None  # type: ignore[attr-defined]
                member.size = len(data)
                made.addfile(member, io.BytesIO(data))
        return target.getvalue()

    return rewrite


def extra(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    found.append((tarfile.TarInfo("media/extra"), b"more"))


def cut_rows(dump: bytes) -> bytes:
    return dump.replace(b"\n7\t", b"\n", 1)[:-1] + b"\n"


def one_row_less(dump: bytes) -> bytes:
    begin = dump.index(b"\n7\t")
    return dump[:begin] + dump[dump.index(b"\n", begin + 1) :]


DUMPS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one row less": (one_row_less, "table public.people has 2,999 rows instead of 3,000"),
    "rows cut off": (lambda dump: dump[: dump.index(b"\n7\t") + 1], "an incomplete dump"),
    "no trailer": (lambda dump: dump[: dump.rindex(b"--\n-- PostgreSQL")], "an incomplete dump: it has no completion"),
    "another key": (lambda dump: dump.replace(b"\\unrestrict ", b"\\unrestrict x"), "key it began with"),
    "no beginning": (lambda dump: dump[1:], "does not begin"),
    "no large object": (lambda dump: dump.replace(b"SELECT pg_catalog.lo_open", b"SELECT 1"), "0 large objects"),
    "a table renamed": (lambda dump: dump.replace(b"COPY public.people", b"COPY public.others"), "missing in the dump"),
}


@pytest.mark.parametrize("case", DUMPS)
def test_a_dump_that_fits_its_checksums_and_not_its_facts(kept: Kept, case: str) -> None:
    change, words = DUMPS[case]
    kept.repack("backup*.sql.gz", change)
    assert kept.check(quick=True).problems == []
    told(kept, words)


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "extra member": (archive(extra), "where the file index has its end"),
    "member missing": (archive(lambda found: found.pop(1)), "where the file index has"),
    "last missing": (archive(lambda found: found.pop()), "in the file index, but not in the archive"),
    "order": (archive(lambda found: found.reverse()), "comes before the directory"),
    "content": (lambda tar: tar.replace(b"a file\n", b"A file\n"), "has other content than when it was stored"),
    "elsewhere": (archive(lambda found: setattr(found[0][0], "name", "/etc")), "is not a safe name"),
    "a link less": (
        archive(lambda found: found.remove(next(f for f in found if f[0].issym()))),
        "holds 0 links instead of 1",
    ),
    "no zero blocks": (
        lambda tar: tar.rstrip(b"\0") + bytes(-len(tar.rstrip(b"\0")) % 512),
        "the archive is truncated",
    ),
    "one zero block": (
        lambda tar: tar.rstrip(b"\0") + bytes(-len(tar.rstrip(b"\0")) % 512 + 512),
        "the archive is truncated",
    ),
    "no whole block": (lambda tar: tar[:-1], "the archive is truncated"),
    "behind the end": (lambda tar: tar[:-1] + b"x", "something follows the end"),
    "a second archive": (lambda tar: tar + tar, "something follows the end"),
    "in the padding": (lambda tar: tar.replace(b"a file\n\0", b"a file\nx"), "damaged"),
    "a header": (lambda tar: tar.replace(b"ustar\x0000", b"ustar\x0001"), "damaged"),
    "not an archive": (lambda tar: b"x" * len(tar), "damaged"),
    "empty": (lambda tar: b"", "the archive is truncated"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_fits_its_checksums_and_not_its_index(kept: Kept, case: str) -> None:
    change, words = ARCHIVES[case]
    kept.repack(".tar.gz", change)
    assert kept.check(quick=True).problems == []
    told(kept, words)


INDEXES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a line less": (lambda index: index[index.index(b"\n") + 1 :], "where the file index has"),
    "a line more": (lambda index: index + index[index.rindex(b"\n", 0, -1) + 1 :], "not in the archive"),
    "cut": (lambda index: index[:-1], "of the file index is damaged"),
    "empty line": (lambda index: index + b"\n", "of the file index is damaged"),
    "digest": (lambda index: re.sub(rb"[^\n]{9}(  60000  media/p)", rb"0123456ab\1", index), "has other content"),
    "size": (lambda index: index.replace(b"  60000  media/p", b"  60001  media/p"), "60,000 bytes instead of 60,001"),
    "a link's digest": (lambda index: index.replace(b"  60000  media/u", b"  60001  media/u"), "is listed with other"),
    "nothing": (lambda index: b"", "where the file index has its end"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_fits_its_checksums_and_not_its_archive(kept: Kept, case: str) -> None:
    change, words = INDEXES[case]
    kept.repack(".files.gz", change)
    assert kept.check(quick=True).problems == []
    told(kept, words)


@pytest.mark.parametrize("part", ["backup*.sql.gz", "roles*.sql.gz", ".tar.gz", ".files.gz"])
# Without a time in them: the names of tests are the same in every process.
@pytest.mark.parametrize(
    "added", [b"garbage", b"\0" * 512, gzip.compress(b"", mtime=0), gzip.compress(b"more", mtime=0)]
)
def test_nothing_may_follow_the_end_of_gzip(kept: Kept, part: str, added: bytes) -> None:
    kept.refit(part, kept.path(part).read_bytes() + added, None)
    told(kept, "trailing bytes after the gzip stream")


def test_a_flip_inside_gzip_is_found_by_its_own_crc(kept: Kept) -> None:
    part = "backup*.sql.gz"
    whole = bytearray(kept.path(part).read_bytes())
    whole[-6] ^= 1
    kept.refit(part, bytes(whole), None)
    told(kept, "cannot be unpacked")


def test_roles_that_are_cut_are_found(kept: Kept) -> None:
    kept.repack("roles*.sql.gz", lambda roles: roles[: roles.index(b"dump complete")])
    told(kept, "an incomplete list of roles")


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "rows": (lambda m: m["database"]["rows"].update({"public.people": 5}), "3,000 rows instead of 5"),
    "a table more": (
        lambda m: m["database"]["rows"].update({"public.x\x1b": 0}),
        "public.x\\x1b is missing in the dump",
    ),
    "large objects": (lambda m: m["database"].update(large_objects=2), "1 large object instead of 2"),
    "files": (lambda m: m["volumes"][0].update(files=2), "files instead of 2"),
    "stored sum": (lambda m: m["artifacts"][0].update(stored_sha256="0" * 64), "has changed since"),
    "plain sum": (lambda m: m["artifacts"][0].update(plain_sha256="0" * 64), "does not unpack to what was packed"),
    "plain size": (lambda m: m["artifacts"][0].update(plain_size=7), "bytes instead of 7"),
    "stored size": (lambda m: m["artifacts"][0].update(stored_size=7), "bytes instead of 7"),
    "format": (lambda m: m.update(format=3), "format"),
    "id": (lambda m: m.update(id="daily_2020-01-01_00-00-00"), "the manifest is that of"),
    "no index": (lambda m: m["artifacts"].pop(), "contradicts itself"),
    "no database": (lambda m: m.update(database=None), "contradicts itself"),
    "no volumes": (lambda m: m.update(volumes=[]), "contradicts itself"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_manifest_is_found(kept: Kept, case: str) -> None:
    change, words = EDITS[case]
    kept.manifest(change)
    told(kept, words)


def test_a_list_that_names_the_manifest_too_protects_it(kept: Kept) -> None:
    digest = hashlib.sha256(kept.path(".json").read_bytes()).hexdigest()
    with kept.path(".sha256").open("a") as sums:
        sums.write(f"{digest}  {kept.path('.json').name}\n")
    assert kept.check().problems == []
    kept.manifest(lambda manifest: manifest.update(run="another"))
    told(kept, "has changed since")


# --- without a manifest ------------------------------------------------------------------------------------------


def test_old_files_are_read_to_their_end_and_said_to_have_no_facts(kept: Kept) -> None:
    kept.without_manifest()
    problems, unchecked, found = kept.check()
    assert problems == [] and "no manifest to compare with" in unchecked[0]
    assert found.rows["public.people"] == 3000
    assert set(found.content.values()) == {"sql", "tar"}
    assert verify_set(kept.catalog, kept.stored, Silent(), NOW).problems == ()
    assert kept.stored.shown == "verified" and len(kept.stored.files) == 2, "it is remembered beside them"


@pytest.mark.parametrize("part", [".sql.gz", ".tar.gz"])
def test_every_truncation_and_flip_of_an_old_file_is_found(kept: Kept, part: str) -> None:
    kept.without_manifest()
    path, plain = kept.path(part), kept.plain(part)
    whole = path.read_bytes()
    for offset in offsets(whole, 30):
        path.write_bytes(whole[:offset])
        assert kept.check().problems, offset
    # Near the end, what is wrong is found while a thread still reads.
    for offset in (*range(0, len(whole), len(whole) // 80), *range(len(whole) - 60, len(whole))):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << (offset % 8)
        path.write_bytes(damaged)
        assert kept.check().problems or gzip.decompress(damaged) == plain, offset


def test_an_archive_that_was_cut_before_it_was_packed_is_found(kept: Kept) -> None:
    kept.without_manifest()
    plain, path = kept.plain(".tar.gz"), kept.path(".tar.gz")
    with tarfile.open(fileobj=io.BytesIO(plain)) as source:
        ends = [member.offset for member in source]
    for end in (*ends, *(random.Random(3).randrange(len(plain.rstrip(b"\0"))) for _ in range(20))):  # noqa: S311
        path.write_bytes(gzip.compress(plain[:end]))
        assert kept.check().problems, end


def test_a_dump_that_was_cut_before_it_was_packed_is_found(kept: Kept) -> None:
    kept.without_manifest()
    plain, path = kept.plain(".sql.gz"), kept.path(".sql.gz")
    for end in range(0, len(plain.rstrip()) - 1, len(plain) // 60):
        path.write_bytes(gzip.compress(plain[:end], 1))
        assert kept.check().problems, end


@pytest.mark.parametrize("packed", [True, False])
def test_old_files_are_taken_for_what_they_are(kept: Kept, packed: bool) -> None:
    kept.without_manifest()
    pack = gzip.compress if packed else bytes
    kept.path(".tar.gz").write_bytes(pack(kept.plain(".tar.gz")))
    kept.path(".sql.gz").write_bytes(pack(b"PGDMP\x01\x0e\x00" + bytes(range(256)) * 9))
    problems, unchecked, _ = kept.check()
    assert problems == [] and any("only a restore can tell" in line for line in unchecked)
    cut = kept.path(".sql.gz").read_bytes()[:-1]
    kept.path(".sql.gz").write_bytes(cut)
    assert bool(kept.check().problems) == packed, "what packs it tells, even of what pg_restore alone can read"


def test_members_of_gzip_and_padding_are_allowed_in_old_files(kept: Kept) -> None:
    kept.without_manifest()
    plain, path = kept.plain(".sql.gz"), kept.path(".sql.gz")
    path.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]) + bytes(5000))
    assert kept.check().problems == []
    path.write_bytes(path.read_bytes() + b"x")
    told(kept, "trailing bytes after the gzip stream")


@pytest.mark.parametrize("options", ["--format=gnu", "--format=pax", "--format=ustar", "-S", "-S --format=pax"])
def test_what_other_tars_write_is_read(kept: Kept, tmp_path: Path, options: str) -> None:
    kept.without_manifest()
    tree = tmp_path / "media"
    tree.mkdir()
    (tree / ("deep" * 20)).mkdir()
    (tree / ("deep" * 20) / ("n" * 90)).write_text("x")
    with (tree / "holes").open("wb") as file:
        for number in range(1, 40):
            file.seek(number << 16)
            file.write(b"y" * 4096)
    subprocess.run(["tar", *options.split(), "-czf", kept.path(".tar.gz"), "-C", tmp_path, "media"], check=True)
    assert kept.check().problems == []
    # As a restore does.
    within = ["tar", "-czf", kept.path(".tar.gz"), "-C", tree.rename(tmp_path / "tree")]
    subprocess.run([*within, "."], check=True)
    assert kept.check().problems == []
    subprocess.run([*within, "holes", "."], check=True)
    told(kept, "lies outside of media/")


def test_a_set_that_lost_its_manifest_is_still_held_against_its_checksums_and_index(kept: Kept) -> None:
    kept.path(".json").unlink()
    assert kept.check().problems == ["its manifest is missing"]
    archive_path = kept.path(".tar.gz")
    whole = archive_path.read_bytes()
    archive_path.write_bytes(gzip.compress(ARCHIVES["content"][0](gzip.decompress(whole))))
    problems = kept.check().problems
    assert any("other content" in p for p in problems) and any("since its checksum" in p for p in problems)
    archive_path.unlink()
    told(kept, f"{archive_path.name} is missing")


# --- outlines of real dumps --------------------------------------------------------------------------------------


def dumped(server: Server, database: str) -> tuple[bytes, Outline]:
    command = [
        "docker",
        "exec",
        server.container.id,
        "pg_dump",
        "-h",
        "127.0.0.1",
        "-U",
        USER,
        "--clean",
        "--if-exists",
    ]
    dump = subprocess.run([*command, database], capture_output=True, check=True).stdout
    outline = Outline()
    outline.feed(dump)
    outline.finish()
    return dump, outline


def test_what_was_loaded_again_has_the_same_outline(any_server: Server) -> None:
    first, second = any_server.new_database(), any_server.new_database()
    any_server.execute(first, SCHEMA)
    dump, expected = dumped(any_server, first)
    any_server.load(second, dump)
    _, found = dumped(any_server, second)
    assert differences(expected, found) == [] and same_order(expected, found) and len(expected.sections) > 8
    any_server.execute(second, "DELETE FROM people WHERE id = 7; DROP INDEX by_name; CREATE VIEW v AS SELECT 1")
    any_server.execute(second, 'UPDATE "odd; Type: TABLE" SET a = 3 WHERE a = 2; REVOKE SELECT ON people FROM PUBLIC')
    assert set(differences(expected, dumped(any_server, second)[1])) == {
        "table data public.people: 2,999 rows instead of 3,000",
        "index public.by_name is missing",
        "view public.v is new",
        "table data public.odd; Type: TABLE: same number of rows, other content",
        "acl public.TABLE people is missing",
        "the beginning of the dump (settings and DROP statements) differs",
    }
