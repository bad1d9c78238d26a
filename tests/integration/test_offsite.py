"""Offsite copies by the commands that people type, with a real database: sent, lost here, brought back, equal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest

from backup.model.run import Outcome
from tests.support.database import Server
from tests.support.faults import ended, eventually, under_way
from tests.support.s3 import Service
from tests.support.sidecar import Sidecar


@dataclass
class Copied(Sidecar):
    """A sidecar whose sets are copied to a folder, or to a bucket of a real gateway."""

    scheme: str = "copy"
    service: Service | None = None

    @property
    def _bucket(self) -> dict[str, str]:
        return {"Bucket": self.environment["AWS_S3_BACKUP_BUCKET"]}

    @property
    def folder(self) -> Path:
        return Path(self.environment["BACKUP_COPY_DIR"])

    def keys(self) -> list[str]:
        """What is really there, by a client that is none of ours."""
        if self.service:
            listed = self.service.client().list_objects_v2(**self._bucket).get("Contents", [])
            return sorted(each["Key"] for each in listed)
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob("[a-z]*/*") if path.is_file())

    def replace(self, key: str) -> None:
        """One byte of an object becomes another, behind everybody's back."""
        if self.service:
            client = self.service.client()
            data = client.get_object(Key=key, **self._bucket)["Body"].read()
            client.put_object(Key=key, Body=self._flipped(data), **self._bucket)
        else:
            path = self.folder / key
            path.chmod(0o600)
            path.write_bytes(self._flipped(path.read_bytes()))

    @staticmethod
    def _flipped(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    def delete(self, key: str) -> None:
        """An object is deleted behind everybody's back."""
        if self.service:
            self.service.client().delete_object(Key=key, **self._bucket)
        else:
            (self.folder / key).unlink()


@pytest.fixture(params=["copy", "s3"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Copied:
    """A sidecar with a small database, one file and a place for copies."""
    name = server.new_database()
    server.execute(
        name,
        "CREATE TABLE person (id int PRIMARY KEY, name text);"
        "INSERT INTO person SELECT i, i || ' x' FROM generate_series(1, 500) i",
    )
    made = Copied.make(tmp_path, server, name)
    assert isinstance(made, Copied)
    made.scheme = request.param
    if request.param == "s3":
        made.service = request.getfixturevalue("gateway")
        made.environment |= made.service.settings()
    else:
        (tmp_path / "copies").mkdir()
        made.environment["BACKUP_COPY_DIR"] = str(tmp_path / "copies")
    return made


def done(sidecar: Sidecar, *command: str, code: int = 0, prefix: tuple[str, ...] = ()) -> str:
    with sidecar.start(*command, prefix=prefix) as process:
        result = ended(process, 120)
    assert result.code == code, result.output
    return result.output


def lose(sidecar: Sidecar) -> None:
    """The backup volume is lost, wholly."""
    for each in sidecar.root.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def test_what_was_sent_comes_back_equal(stack: Copied, server: Server, tmp_path: Path) -> None:
    done(stack, "create", "daily")
    made = stack.sets()[0].id
    before = {name: data for name, data in stack.files().items() if not name.endswith(".verdict")}
    output = done(stack, "upload", "--all")
    assert f"{made} is offsite" in output and "1 set sent to" in output
    assert f"{made}\t" in (listed := done(stack, "offsite", "list")) and "\toffsite\there\t" in listed
    assert "1 set there already" in done(stack, "upload", "daily")
    done(stack, "offsite", "verify", "--download")
    lose(stack)
    assert "\toffsite\tthere\tonly remote" in done(stack, "offsite", "list")
    assert "fetched from" in done(stack, "offsite", "pull", "latest")
    assert {name: data for name, data in stack.files().items() if not name.endswith(".verdict")} == before
    assert stack.sets()[0].verified
    done(stack, "verify", "latest")
    assert "is here already" in done(stack, "offsite", "pull", made, code=46)
    dump = next(path for path in (stack.root / "daily").iterdir() if path.name.startswith("obcms_backup_"))
    dump.write_bytes(dump.read_bytes()[:-1])
    assert "the copy replaces it" in done(stack, "offsite", "pull", made)
    assert {name: data for name, data in stack.files().items() if not name.endswith(".verdict")} == before
    assert stack.sets()[0].verified and not list((stack.root / "damaged").iterdir())
    to = tmp_path / "to"
    done(stack, "offsite", "pull", made, "--to", str(to))
    done(stack, "verify", str(to))
    assert [run.outcome for run in stack.runs()] == [Outcome.SUCCESS, Outcome.FAILED, Outcome.SUCCESS]


def test_a_copy_is_drilled_and_restored_from_the_place_alone(stack: Copied, server: Server) -> None:
    done(stack, "create", "monthly")
    made = stack.sets()[0].id
    done(stack, "upload", "monthly")
    lose(stack)
    assert f"{made} is proven" in done(stack, "drill", "offsite:latest")
    run = stack.runs()[0]
    assert (run.operation, run.outcome, run.set, run.tier) == ("offsite-drill", Outcome.SUCCESS, made, "monthly")
    name = stack.environment["DB_NAME"]
    server.execute(name, "DELETE FROM person WHERE id > 7")
    (stack.media / "uploads" / "a.txt").write_text("changed")
    assert "is restored" in done(stack, "restore", f"{stack.scheme}:latest", "--force")
    assert server.value(name, "SELECT count(*) FROM person") == 500
    assert (stack.media / "uploads" / "a.txt").read_text() == "a file\n"
    assert not list((stack.root / "temp").iterdir())


def test_a_damaged_copy_is_told_by_command_status_and_exit_code(stack: Copied) -> None:
    done(stack, "create", "monthly")
    made = stack.sets()[0].id
    done(stack, "upload", "--all")
    key = f"monthly/obcms_backup_{made}.sql.gz"
    stack.replace(key)
    assert f"{made} differs" in done(stack, "offsite", "verify", "--download", code=40)
    assert "WARNING" in (said := done(stack, "status")) and "not as sent" in said
    assert "differs from what was sent" in done(stack, "restore", f"{stack.scheme}:{made}", "--force", code=40)
    done(stack, "upload", "--all")
    done(stack, "offsite", "verify", "--download")


def test_without_a_place_every_command_says_what_to_set(stack: Copied) -> None:
    environment = {
        name: value for name, value in stack.environment.items() if "AWS_S3" not in name and name != "BACKUP_COPY_DIR"
    }
    bare = Sidecar(stack.root, stack.spool, stack.volumes, environment)
    for command in (
        ["upload"],
        ["offsite", "list"],
        ["offsite", "verify"],
        ["offsite", "pull", "latest"],
        ["drill", "s3:latest"],
    ):
        assert "Set AWS_S3_BACKUP_BUCKET" in done(bare, *command, code=10)


SLOW = {"BACKUP_UPLOAD_LIMIT_MB": "2"}


def large(sidecar: Sidecar) -> None:
    """Twelve megabytes that do not pack."""
    (sidecar.media / "large.bin").write_bytes(os.urandom(12_000_000))


def manifests(sidecar: Copied) -> list[str]:
    return [name for name in sidecar.keys() if name.endswith(".json")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_upload_that_is_cut_leaves_no_manifest_and_is_ended_later(stack: Copied, number: signal.Signals) -> None:
    large(stack)
    done(stack, "create", "daily")
    made, before = stack.sets()[0].id, stack.files()
    with stack.start("upload", "--all", **SLOW) as process:
        eventually(stack.keys, 60)
        process.send_signal(number)
        code = ended(process).code
    assert code == (143 if number is signal.SIGTERM else -signal.SIGKILL)
    assert manifests(stack) == [] and stack.files() == before
    done(stack, "create", "daily", "--only", "database")
    cut = next(run for run in stack.runs() if run.operation in ("copy", "upload"))
    assert cut.outcome is (Outcome.INTERRUPTED if number is signal.SIGTERM else Outcome.CRASHED)
    if number is signal.SIGKILL:
        assert "degraded: local only" in done(stack, "status")
    done(stack, "upload", "--all")
    assert f"daily/obcms_set_{made}.json" in manifests(stack) and len(manifests(stack)) == 2
    done(stack, "offsite", "verify", "--download")
    assert "degraded" not in done(stack, "status")


def test_neither_backup_nor_restore_waits_for_an_upload_and_a_pruned_set_is_not_offsite(stack: Copied) -> None:
    large(stack)
    done(stack, "create", "manual")
    first = stack.sets()[0]
    with under_way(stack, "upload", "manual", **SLOW) as process:
        # The small files are there, and it is at the large one for seconds: there it stands still.
        eventually(stack.keys, 60)
        process.send_signal(signal.SIGSTOP)
        done(stack, "create", "daily", "--only", "database")
        done(stack, "restore", "latest", "--force", "--no-safety")
        assert process.poll() is None
        assert [run.outcome for run in stack.runs() if run.operation in ("copy", "upload")] == [Outcome.RUNNING]
        stack.catalog.remove(first)
        process.send_signal(signal.SIGCONT)
        result = ended(process, 120)
    assert result.code == 44 and "has no manifest and is no set" in result.output
    assert manifests(stack) == []
    assert next(run for run in stack.runs() if run.operation in ("copy", "upload")).outcome is Outcome.FAILED


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_while_a_set_comes_back_keeps_nothing_of_it(stack: Copied) -> None:
    large(stack)
    done(stack, "create", "daily")
    done(stack, "upload", "--all")
    made = stack.sets()[0].id
    lose(stack)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(stack.root)], check=True)
    try:
        assert "is full" in done(stack, "offsite", "pull", "latest", code=30, prefix=filling(stack))
        assert [path for path in stack.root.rglob("*") if path.is_file() and made in path.name] == []
        (stack.root / "somebody").unlink()
        done(stack, "offsite", "pull", "latest")
        assert stack.sets()[0].verified
        # Where it is clear from the start that it does not fit, nothing is fetched.
        (stack.root / "somebody").write_bytes(bytes(8_000_000))
        assert "needs about" in done(stack, "restore", f"{stack.scheme}:{made}", "--force", code=30)
    finally:
        subprocess.run(["umount", "-l", str(stack.root)], check=True)


def filling(stack: Copied) -> tuple[str, ...]:
    """Somebody takes the room as soon as the large file is on its way."""
    wait = f"until ls {stack.root}/daily/.*.partial >/dev/null 2>&1; do sleep 0.01; done"
    take = f"head -c 30000000 /dev/zero > {stack.root}/somebody 2>/dev/null"
    return ("sh", "-c", f'({wait}; {take}) & exec "$@"', "sh")


def test_what_is_deleted_behind_our_back_is_told_and_sent_again(stack: Copied) -> None:
    done(stack, "create", "monthly")
    made = stack.sets()[0].id
    done(stack, "upload", "--all")
    whole = stack.keys()
    stack.delete(f"monthly/obcms_media_{made}.tar.gz")
    assert f"{made} is incomplete" in done(stack, "offsite", "verify", code=40)
    done(stack, "upload", "--all")
    assert stack.keys() == whole
    done(stack, "offsite", "verify", "--download")


def test_copies_are_encrypted_on_their_way_and_open_with_the_key_alone(stack: Copied, tmp_path: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    stack.environment |= {"BACKUP_ENCRYPT": "offsite", "BACKUP_AGE_RECIPIENTS": str(key.to_public())}
    identity = tmp_path / "key.txt"
    identity.write_text(f"{key}\n")
    large(stack)
    done(stack, "create", "daily")
    done(stack, "upload", "--all")
    assert all(name.endswith(".age") for name in stack.keys() if ".gz" in name)
    assert not any(name.endswith(".age") for name in stack.files())
    done(stack, "offsite", "verify", "--download")
    assert "1 set there already" in done(stack, "upload", "--all")
    lose(stack)
    assert "key" in done(stack, "drill", "offsite:latest", code=45)
    assert "is proven" in done(stack, "drill", "offsite:latest", "--identity", str(identity))
    done(stack, "offsite", "pull", "latest")
    done(stack, "verify", "latest", "--identity", str(identity))
    assert "is restored" in done(stack, "restore", "latest", "--force", "--identity", str(identity))


def test_a_bucket_is_looked_after_by_command(stack: Copied) -> None:
    if not stack.service:
        assert "AWS_S3_BACKUP_BUCKET is not set" in done(stack, "offsite", "check", code=10)
        return
    assert "delete: allowed" in done(stack, "offsite", "check")
    assert "go to GLACIER" in done(stack, "offsite", "setup", "--dry-run")
    stack.environment["BACKUP_MEDIA"] = "incremental"
    shared = done(stack, "offsite", "setup", "--dry-run")
    assert "unfinished uploads end" in shared and "GLACIER" not in shared, "young sets need old packs"
    del stack.environment["BACKUP_MEDIA"]
    written = json.loads(stack.run("offsite", "policy").output)["Statement"]
    assert {each["Sid"] for each in written} >= {"List", "Read", "Send", "NeverAway"}
    assert f"s3://{stack.environment['AWS_S3_BACKUP_BUCKET']} answers; 0 sets there" in stack.run("doctor").output
