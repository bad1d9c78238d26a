"""A dump's contents: made with large tables, of the dump as it lies, and not where it is encrypted."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from backup.operations.set_artifacts import contents_of, read_part
from tests.support.database import Server
from tests.support.keys import key_pair
from tests.support.sidecar import Sidecar

SCRIPT = """
    CREATE TABLE "Large one" (id int, body text); CREATE TABLE small AS SELECT 1 AS i;
    INSERT INTO "Large one" SELECT i, E'a\\tb\\n\\\\.\\n' || md5(i::text) FROM generate_series(1, 40000) i;
"""


def test_a_large_table_can_be_read_alone(server: Server, tmp_path: Path) -> None:
    database = server.new_database()
    server.execute(database, SCRIPT)
    sidecar = Sidecar.make(tmp_path, server, database)
    result = sidecar.run("create", "daily", "--only", "database")
    assert result.code == 0, result.output
    (stored,) = sidecar.catalog.sets()
    kinds = [artifact.kind for artifact in stored.manifest.artifacts]
    assert kinds == ["database", "contents", "roles"]
    assert (contents := contents_of(stored))
    assert [(part.table, part.rows) for part in contents.parts] == [("", 0), ('public."Large one"', 40000), ("", 0)]
    dump = (stored.directory / stored.manifest.artifacts[0].file).read_bytes()
    parts = [b"".join(read_part(stored, part)) for part in contents.parts]
    assert b"".join(parts) == gzip.decompress(dump)
    assert parts[0].endswith(b"FROM stdin;\n") and parts[2].startswith(b"\\.\n")
    folder = stored.directory
    subprocess.run(["gzip", "-t", *sorted(path.name for path in folder.glob("*.gz"))], cwd=folder, check=True)
    subprocess.run(["sha256sum", "-c", "--quiet", f"obcms_set_{stored.id}.sha256"], cwd=folder, check=True)
    assert sidecar.run("verify", "latest").code == 0
    assert sidecar.run("restore", "latest", "--force", "--no-safety").code == 0
    assert server.value(database, 'SELECT count(*) FROM "Large one"') == 40000


@pytest.mark.parametrize("kind", ["volume", "database"])
def test_what_is_damaged_is_found_beside_the_load(server: Server, tmp_path: Path, kind: str) -> None:
    """Also where the load does without it, as of the media: nothing is proven."""
    database = server.new_database()
    server.execute(database, SCRIPT)
    sidecar = Sidecar.make(tmp_path, server, database, BACKUP_LOAD_JOBS="2")
    (sidecar.media / "a").write_bytes(os.urandom(4 << 20))
    assert sidecar.run("create", "daily").code == 0
    (stored,) = sidecar.catalog.sets()
    assert contents_of(stored)
    path = stored.directory / next(each.file for each in stored.manifest.artifacts if each.kind == kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = sidecar.run("drill", "latest")
    assert result.code == 40 and path.name in result.output, result.output
    (stored,) = sidecar.catalog.sets()
    assert not stored.good and not stored.proven


def test_an_encrypted_dump_has_none(server: Server, tmp_path: Path) -> None:
    database = server.new_database()
    server.execute(database, SCRIPT)
    recipient = key_pair(tmp_path / "key")
    sidecar = Sidecar.make(tmp_path, server, database, BACKUP_ENCRYPT="all", BACKUP_AGE_RECIPIENTS=recipient)
    assert sidecar.run("create", "daily", "--only", "database").code == 0
    (stored,) = sidecar.catalog.sets()
    assert [artifact.kind for artifact in stored.manifest.artifacts] == ["database", "roles"]
    assert stored.encrypted and contents_of(stored) is None
