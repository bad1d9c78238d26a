"""Encrypted sets on a real server: made with public keys alone, opened with the private one, by us and by `age`."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.model.backup_set import SEALED, StoredSet
from backup.pipeline.age import MAGIC
from tests.integration.test_restore import CHANGE, OLD, SEED, drop_kept, live
from tests.support.database import Server
from tests.support.keys import key_pair
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "key.txt"


@pytest.fixture
def target(tmp_path: Path, server: Server, key: Path) -> Iterator[Sidecar]:
    """An encrypted set of the old state, made without the key, with the new state live."""
    database = server.new_database()
    server.execute(database, SEED)
    sidecar = Sidecar.make(tmp_path, server, database, BACKUP_ENCRYPT="all", BACKUP_AGE_RECIPIENTS=key_pair(key))
    (sidecar.media / "kind.txt").write_text("old")
    (sidecar.media / "only-old").mkdir()
    (sidecar.media / "only-old" / "file").write_text("old" * 100_000)
    result = sidecar.run("create", "daily")
    assert result.code == 0, result.output
    server.execute(database, CHANGE)
    (sidecar.media / "kind.txt").write_text("new")
    (sidecar.media / "only-old" / "file").unlink()
    (sidecar.media / "only-old").rmdir()
    (sidecar.media / "only-new").write_text("new")
    yield sidecar
    drop_kept(server, database)


def only(target: Sidecar) -> StoredSet:
    (stored,) = target.sets()
    return stored


def secret(key: Path) -> str:
    return key.read_text().splitlines()[-1]


def test_what_is_written_and_what_the_verdict_says(target: Sidecar, key: Path) -> None:
    stored = only(target)
    assert stored.manifest and stored.verdict
    for artifact in stored.manifest.artifacts:
        data = (stored.directory / artifact.file).read_bytes()
        assert artifact.file.endswith(".gz.age") and artifact.encryption == "age"
        assert data.startswith(MAGIC) and b"old" not in data
        assert (len(data), hashlib.sha256(data).hexdigest()) == (artifact.stored_size, artifact.stored_sha256)
    assert stored.verified and stored.unopened and stored.verdict.unchecked == (SEALED,)
    assert "encrypted, never opened" in target.run("list").output
    subprocess.run(["sha256sum", "-c", f"obcms_set_{stored.id}.sha256"], cwd=stored.directory, check=True)
    leaks = [path for path in target.root.rglob("*") if path.is_file() and secret(key).encode() in path.read_bytes()]
    assert leaks == [] and target.spooled() == []


@pytest.mark.skipif(not shutil.which("age"), reason="the age command is not installed")
def test_age_opens_it_by_hand(target: Sidecar, key: Path) -> None:
    stored = only(target)
    assert stored.manifest
    for artifact in stored.manifest.artifacts:
        opened = subprocess.run(
            ["age", "-d", "-i", key, stored.directory / artifact.file], capture_output=True, check=True
        )
        plain = gzip.decompress(opened.stdout)
        assert len(plain) == artifact.plain_size
        assert artifact.plain_sha256 in ("", hashlib.sha256(plain).hexdigest())


def test_verify_without_and_with_the_key(target: Sidecar, key: Path, tmp_path: Path) -> None:
    without = target.run("verify", "latest")
    assert without.code == 45 and "--identity FILE" in without.output
    assert target.run("verify", "latest", "--quick").code == 0
    other = tmp_path / "other.txt"
    key_pair(other)
    wrong = target.run("verify", "latest", f"--identity={other}")
    assert wrong.code == 45 and "other keys" in wrong.output
    assert only(target).unopened
    done = target.run("verify", "latest", BACKUP_AGE_IDENTITY_FILE=str(key))
    assert done.code == 0, done.output
    stored = only(target)
    assert stored.verdict and stored.verdict.unchecked == () and not stored.unopened
    assert secret(key) not in done.output


@pytest.mark.parametrize("place", ["header", "middle", "end", "cut"])
def test_damage_is_found_with_the_key_and_without(target: Sidecar, key: Path, place: str) -> None:
    archive = next((target.root / "daily").glob("obcms_media_*.tar.gz.age"))
    data = bytearray(archive.read_bytes())
    if place == "cut":
        del data[-1:]
    else:
        data[{"header": 60, "middle": len(data) // 2, "end": -1}[place]] ^= 1
    archive.write_bytes(data)
    assert target.run("verify", "latest" if place != "cut" else only(target).id, "--quick").code in (40, 44)
    found = target.run("verify", only(target).id, f"--identity={key}")
    assert found.code == 40, found.output


def test_a_drill_proves_it_with_the_key(target: Sidecar, key: Path) -> None:
    assert target.run("drill", "latest").code == 45
    done = target.run("drill", "latest", f"--identity={key}")
    assert done.code == 0, done.output
    assert only(target).proven and not only(target).unopened and target.spooled() == []


def test_restore_needs_the_key_and_puts_all_back(target: Sidecar, server: Server, key: Path) -> None:
    refused = target.run("restore", only(target).id, "--force")
    assert refused.code == 45 and "--identity" in refused.output
    done = target.run("restore", only(target).id, "--force", "--no-safety", f"--identity={key}")
    assert done.code == 0, done.output
    assert live(target, server) == (OLD, "old")
    assert (target.media / "only-old" / "file").read_text() == "old" * 100_000
    assert target.spooled() == [] and secret(key) not in done.output


def test_a_backup_that_has_the_key_verifies_all(target: Sidecar, key: Path) -> None:
    done = target.run("create", "manual", BACKUP_AGE_IDENTITY_FILE=str(key))
    assert done.code == 0, done.output
    stored = next(each for each in target.sets() if each.tier == "manual")
    assert stored.verdict and stored.verdict.unchecked == ()


def test_files_elsewhere_are_known_by_their_bytes(target: Sidecar, server: Server, key: Path, tmp_path: Path) -> None:
    dump = next((target.root / "daily").glob("obcms_backup_*.sql.gz.age"))
    loose = tmp_path / "elsewhere"
    loose.mkdir()
    shutil.copy(dump, loose / "strange name")
    path = str(loose / "strange name")
    refused = target.run("verify", path)
    assert refused.code == 45 and "--identity" in refused.output
    done = target.run("restore", path, "--force", "--no-safety", f"--identity={key}")
    assert done.code == 0, done.output
    assert server.value(target.environment["DB_NAME"], "SELECT name FROM kind") == "old"


def test_a_set_that_lost_its_manifest(target: Sidecar, key: Path) -> None:
    stored = only(target)
    (stored.directory / f"obcms_set_{stored.id}.json").unlink()
    done = target.run("verify", stored.id, f"--identity={key}")
    assert done.code == 40 and "its manifest is missing" in done.output and done.output.count("\n  - ") == 1
