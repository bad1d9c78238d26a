"""A set with the contents of its dump: parts are read from it alone, and it is judged as a whole."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.catalog import Catalog
from backup.errors import IntegrityError
from backup.model.backup_set import StoredSet, manifest_name
from backup.model.manifest import Artifact, DatabasePart, Manifest, Tier, file_name, to_json
from backup.operations.set_artifacts import contents_of, read_part
from backup.operations.verify.run import check_set
from backup.pipeline import age
from backup.postgres.dump.contents import LEAST, Contents, Cutter, Part
from backup.postgres.dump.dump_reader import DumpReader
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from tests.support.keys import key_pair

NOW = datetime(2025, 10, 20, 2, 0, tzinfo=UTC)
ROWS = b"".join(b"%d\tperson %d\n" % (i, i * 7919) for i in range(LEAST // 12))
DUMP = (
    b"--\n-- PostgreSQL database dump\n--\n\nSET xmloption = content;\n\nCOPY public.small (a) FROM stdin;\n1\n\\.\n\n"
    b"COPY public.large (a, b) FROM stdin;\n" + ROWS + b"\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
)


@dataclass
class Kept:
    """A set on a disk, to be damaged."""

    catalog: Catalog
    id: str

    @property
    def stored(self) -> StoredSet:
        return self.catalog.find(self.id)

    @property
    def contents(self) -> Contents:
        assert (found := contents_of(self.stored))
        return found

    def path(self, suffix: str, what: str = "backup") -> Path:
        return self.catalog.root / "daily" / file_name(what, self.id, suffix)

    def problems(self, *, quick: bool = False) -> str:
        return "\n".join(check_set(self.stored, Silent(), quick=quick).problems)

    def manifest(self, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Change what the manifest says of the files; the list of checksums follows."""
        path = self.path("json", "set")
        manifest = json.loads(path.read_bytes())
        change(manifest["artifacts"])
        path.write_text(json.dumps(manifest))
        sums = "".join(f"{each['stored_sha256']}  {each['file']}\n" for each in manifest["artifacts"])
        self.path("sha256", "set").write_text(sums)

    def refit(self, suffix: str, plain: bytes) -> None:
        """Store other content, and make all sizes and checksums fit it."""
        path, packed = self.path(suffix), gzip.compress(plain)
        path.write_bytes(packed)

        def change(artifacts: list[dict[str, Any]]) -> None:
            (artifact,) = (each for each in artifacts if each["file"] == path.name)
            artifact |= {"stored_size": len(packed), "stored_sha256": hashlib.sha256(packed).hexdigest()}
            artifact |= {"plain_size": len(plain), "plain_sha256": hashlib.sha256(plain).hexdigest()}

        self.manifest(change)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    catalog = Catalog(tmp_path, ZoneInfo("UTC"))
    identifier, store = catalog.new_id(Tier.DAILY, NOW), catalog.store(Tier.DAILY)
    reader = DumpReader()
    with (
        ArtifactWriter(store, file_name("backup", identifier, "sql.gz"), "database") as writer,
        ArtifactWriter(store, file_name("backup", identifier, "contents.gz"), "contents") as listing,
    ):
        cutter = Cutter(reader, writer)
        for start in range(0, len(DUMP), 70_001):
            reader.feed(DUMP[start : start + 70_001])
            cutter.write(DUMP[start : start + 70_001])
        cutter.finish()
        dump = writer.finish()
        assert (contents := cutter.contents(writer.marks, dump.stored_size)) and not writer.encrypted
        listing.write(contents.encode())
        catalog.publish(manifest(identifier, (dump, listing.finish()), reader.rows), [writer.staged, listing.staged])
    return Kept(catalog, identifier)


def manifest(identifier: str, artifacts: tuple[Artifact, ...], rows: dict[str, int]) -> Manifest:
    database = DatabasePart(
        name="app", oid=1, system_identifier="7", server_version="17", client_version="17", command=(), rows=rows
    )
    return Manifest(
        id=identifier, tier=Tier.DAILY, run="r", started=NOW, ended=NOW, started_local="", ended_local="", zone="UTC",
        product_version="1", artifacts=artifacts, database=database,
    )  # fmt: skip


class Counted(Silent):
    def __init__(self) -> None:
        self.bytes = 0

    def advance(self, count: int) -> None:
        self.bytes += count


def test_parts_are_read_alone(kept: Kept) -> None:
    parts, told = kept.contents.parts, Counted()
    assert [part.table for part in parts] == ["", "public.large", ""]
    assert parts[1].rows == ROWS.count(b"\n")
    read = [list(read_part(kept.stored, part, told)) for part in parts[::-1]][::-1]
    assert b"".join(piece for pieces in read for piece in pieces) == DUMP and b"".join(read[1]) == ROWS
    assert max(len(piece) for pieces in read for piece in pieces) <= 1 << 20
    assert told.bytes == kept.stored.manifest.artifacts[0].stored_size - 10
    assert kept.problems() == kept.problems(quick=True) == ""
    pieces = read_part(kept.stored, parts[1])
    next(pieces)
    pieces.close()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sha256": "0" * 64}, "does not unpack to what was packed from byte"),
        ({"offset": 4000}, "from byte 4,000"),
        ({"offset": 1 << 50}, "truncated"),
        ({"size": 1 << 40}, "cannot be unpacked"),
        ({"size": 100}, "does not unpack"),
        ({"stored": 1000}, "truncated"),
    ],
)
def test_a_part_that_is_not_as_it_was_written_is_refused_at_its_end(
    kept: Kept, changed: dict[str, Any], said: str
) -> None:
    part: Part = replace(kept.contents.parts[1], **changed)
    with pytest.raises(IntegrityError, match=said):
        list(read_part(kept.stored, part))


def test_a_flipped_bit_in_a_part_is_found(kept: Kept) -> None:
    part, path = kept.contents.parts[1], kept.path("sql.gz")
    whole = path.read_bytes()
    for offset in range(part.offset, part.offset + part.stored, part.stored // 40):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        with pytest.raises(IntegrityError):
            list(read_part(kept.stored, part))
    path.write_bytes(whole)
    assert b"".join(read_part(kept.stored, part)) == ROWS


def test_contents_that_are_not_as_they_were_written_are_refused(kept: Kept) -> None:
    path = kept.path("contents.gz")
    path.write_bytes(gzip.compress(kept.contents.encode(), 1))
    with pytest.raises(IntegrityError, match="is not as it was written"):
        contents_of(kept.stored)
    assert path.name in kept.problems(quick=True) and path.name in kept.problems()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        contents_of(kept.stored)
    path.unlink()
    assert path.name in kept.problems() and not kept.stored.good


def test_a_set_without_contents_has_none(kept: Kept) -> None:
    kept.manifest(lambda artifacts: artifacts[0].update(encryption="age"))
    assert contents_of(kept.stored) is None, "nobody can seek in age's stream"
    kept.manifest(lambda artifacts: artifacts[0].update(encryption=""))
    kept.manifest(lambda artifacts: artifacts.pop())
    kept.path("contents.gz").unlink()
    assert contents_of(kept.stored) is None and kept.problems() == "" and kept.stored.good


def test_contents_that_contradict_their_dump_are_damage(kept: Kept) -> None:
    """All sums of what is stored fit."""
    contents = kept.contents
    head, rows, rest = contents.parts
    moved = replace(head, stored=head.stored + 1), replace(rows, offset=rows.offset + 1, stored=rows.stored - 1), rest
    for parts, problem in (
        ((head,), " cannot be unpacked: the gzip stream does not end where its last part does"),
        ((head, replace(rows, sha256="0" * 64), rest), ": does not hold what its contents list"),
        ((head, replace(rows, table="public.small"), rest), ": does not hold what its contents list"),
        # Nobody could begin there.
        (moved, " cannot be unpacked: "),
    ):
        kept.refit("contents.gz", Contents(parts).encode())
        assert kept.problems().startswith(f"{kept.path('sql.gz').name}{problem}")
        assert kept.problems(quick=True) == ""
    kept.refit("contents.gz", b"{}")
    assert "the contents of the dump cannot be used: parts: Field required" in kept.problems()
    kept.refit("contents.gz", contents.encode())
    assert kept.problems() == ""
    kept.refit("sql.gz", DUMP.replace(b"person 7919\n", b"person 7918\n"))
    assert "cannot be unpacked" in kept.problems()


def test_one_that_lost_its_manifest_is_judged_with_its_contents(kept: Kept) -> None:
    (kept.catalog.root / "daily" / manifest_name(kept.id)).unlink()
    stored = kept.stored
    assert stored.derived and stored.manifest.artifact("contents") and contents_of(stored) is None
    assert kept.problems() == "its manifest is missing"
    kept.path("contents.gz").write_bytes(gzip.compress(Contents(()).encode()))
    assert "contents.gz: the contents of the dump cannot be used: they list nothing" in kept.problems()


def test_a_set_that_was_encrypted_as_a_copy_is_judged_with_its_contents(kept: Kept, tmp_path: Path) -> None:
    """They say where the parts lie in what it is decrypted to."""
    to = age.recipients([key_pair(tmp_path / "key")])

    def encrypted(artifacts: list[dict[str, Any]]) -> None:
        for artifact in artifacts:
            path = kept.catalog.root / "daily" / artifact["file"]
            data = b"".join(age.encrypt([path.read_bytes()], to))
            path.with_name(path.name + age.SUFFIX).write_bytes(data)
            path.unlink()
            artifact |= {"file": path.name + age.SUFFIX, "encryption": "age", "stored_size": len(data)}
            artifact |= {"stored_sha256": hashlib.sha256(data).hexdigest()}

    kept.manifest(encrypted)
    kept.catalog.identity = tmp_path / "key"
    assert kept.problems() == "" and contents_of(kept.stored) is None
    (kept.catalog.root / "daily" / manifest_name(kept.id)).unlink()
    assert kept.stored.derived and kept.problems() == "its manifest is missing"


def test_a_manifest_keeps_what_it_says_of_contents(kept: Kept) -> None:
    made = kept.stored.manifest
    assert [each.kind for each in made.artifacts] == ["database", "contents"]
    assert to_json(made) == kept.path("json", "set").read_bytes()
