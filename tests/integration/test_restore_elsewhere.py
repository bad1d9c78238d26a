"""Sets and files that lie outside of the backup volume: on a clean machine, or made by somebody else."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_restore import NEW, OLD, SEED, clean, drop_kept, live
from tests.integration.test_restore import target as target
from tests.support.breaking import BREAKER
from tests.support.database import USER, Server, start_server
from tests.support.sidecar import Sidecar

ROLE = "clerk_elsewhere"


def dumped(server: Server, database: str, *options: str) -> bytes:
    """What the server's own pg_dump makes of a database."""
    command = ["docker", "exec", server.container.id, "pg_dump", "-U", USER, "-h", "127.0.0.1", *options, database]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
def empty_server() -> Iterator[Server]:
    server = start_server(17, "db-elsewhere", in_memory=True)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def theirs(servers: Callable[[int], Server], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the old state as others keep it, made by others' tools."""
    server, folder, media = servers(17), tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("old") / "media"
    name = server.new_database()
    server.execute(name, SEED)
    for each, text in (("kind.txt", "old"), ("only-old/file", "old"), ("uploads/a.txt", "a file\n")):
        (media / each).parent.mkdir(parents=True, exist_ok=True)
        (media / each).write_text(text)
    os.mkfifo(media / "uploads/pipe")
    plain, custom = dumped(server, name), dumped(server, name, "-Fc")
    (folder / "plain").write_bytes(plain)
    (folder / "packed").write_bytes(gzip.compress(plain))
    (folder / "custom.sql").write_bytes(custom)
    (folder / "packed-custom.sql.gz").write_bytes(gzip.compress(custom))
    for name, mode in (("archive.zip", "w"), ("archive.sql", "w:gz")):
        with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(media, "media")
    return folder


@pytest.fixture
def files(theirs: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(theirs, tmp_path / "theirs"))


def test_a_clean_machine_from_the_files_of_a_set_alone(
    target: Sidecar, server: Server, empty_server: Server, tmp_path: Path
) -> None:
    source = target.environment["DB_NAME"]
    server.execute("postgres", f"CREATE ROLE {ROLE} LOGIN PASSWORD 'x'")
    try:
        server.execute(source, f"ALTER TABLE later OWNER TO {ROLE}")
        made = target.run("create", "weekly")
        assert made.code == 0, made.output
        stored = next(each for each in target.sets() if each.tier == "weekly")
        carried = tmp_path / "carried"
        carried.mkdir()
        for name in stored.files:
            shutil.copy(stored.directory / name, carried)
        (tmp_path / "fresh").mkdir()
        fresh = Sidecar.make(tmp_path / "fresh", empty_server, "obcms_new")
        shutil.rmtree(fresh.media)
        fresh.media.mkdir()
        checked = fresh.run("verify", str(carried))
        assert checked.code == 0 and stored.id in checked.output, checked.output
        done = fresh.run("restore", str(carried), "--force")
        assert done.code == 0, done.output
        assert live(fresh, empty_server) == (NEW, "new")
        owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'later'"
        assert empty_server.value("obcms_new", owner) == ROLE
        assert sorted(path.name for path in carried.iterdir()) == sorted(stored.files)
    finally:
        server.execute(source, f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def test_files_are_what_their_bytes_are(target: Sidecar, server: Server, files: Path) -> None:
    for name in ("plain", "packed", "custom.sql", "packed-custom.sql.gz"):
        done = target.run("restore", str(files / name), "--force", "--no-safety")
        assert done.code == 0, done.output
        assert live(target, server) == (OLD, "new"), name
        assert target.run("undo", "--force").code == 0
    for name in ("archive.zip", "archive.sql"):
        done = target.run("restore", str(files / name), "--force", "--no-safety")
        assert done.code == 0, done.output
        assert live(target, server) == (NEW, "old"), name
        assert target.run("undo", "--force").code == 0
    assert live(target, server) == (NEW, "new")


def test_what_is_loaded_is_what_was_verified(target: Sidecar, server: Server, files: Path, tmp_path: Path) -> None:
    """Also of a dump of which nobody noted a checksum, when somebody writes it anew meanwhile."""
    target.program = tmp_path / "breaker.py"
    target.program.write_text(BREAKER)
    changed = f"sed -i 's/old 7$/odd 7/' {files / 'plain'}"
    done = target.run(
        "restore", str(files / "plain"), "--force", "--no-safety", BREAK_STEP="loading", BREAK_COMMAND=changed
    )
    assert done.code == 50 and "plain has changed since it was verified a moment ago" in done.output, done.output
    assert live(target, server) == (NEW, "new")
    clean(target, server)


def test_a_strangers_commands_for_psql_are_named_and_never_run(target: Sidecar, server: Server, files: Path) -> None:
    plain = (files / "plain").read_bytes()
    key = re.search(rb"(?m)^\\restrict (\w+)$", plain)
    unlocked = re.sub(rb"(?m)^\\(?:un)?restrict .*\n", b"", plain)
    line, beside = b"\\echo canary-of-a-stranger\n", b"SELECT 1 \\echo canary-of-a-stranger\n;\n"
    unlocking = b"\\unrestrict %b\n" % key[1] if key else b""

    def within(dump: bytes, what: bytes) -> bytes:
        place = dump.rindex(b"--\n-- Name: ")
        return dump[:place] + what + dump[place:]

    (files / "without-a-key").write_bytes(within(unlocked, line))
    (files / "beside-a-statement").write_bytes(within(unlocked, beside))
    (files / "with-its-own-key").write_bytes(within(plain, unlocking + line))
    databases = server.databases()
    for name in ("beside-a-statement", "with-its-own-key"):
        done = target.run("restore", str(files / name), "--force", "--no-safety")
        assert "a psql command" in done.output, done.output
        assert (
            "\ncanary" not in done.output and live(target, server) == (NEW, "new") and server.databases() == databases
        ), name
        assert done.code == 50, (name, done.output)
    for command in ("verify", "import"):
        told = target.run(command, str(files / "without-a-key"))
        assert told.code == 0 and "\\echo canary-of-a-stranger; a restore stops at the first" in told.output, (
            told.output
        )


def test_a_file_of_several_gzip_members_with_zeros_behind(target: Sidecar, server: Server, files: Path) -> None:
    """As `cat a.gz b.gz`, parallel packers and tapes make them: what is accepted is restored."""
    for name in ("packed", "packed-custom.sql.gz", "archive.sql"):
        plain = gzip.decompress((files / name).read_bytes())
        half = len(plain) // 2
        (files / name).write_bytes(gzip.compress(plain[:half]) + gzip.compress(plain[half:]) + bytes(512))
        for words in (("verify",), ("restore", "--dry-run"), ("restore", "--force", "--no-safety")):
            done = target.run(words[0], str(files / name), *words[1:])
            assert done.code == 0, done.output
        assert live(target, server) == ((NEW, "old") if name == "archive.sql" else (OLD, "new")), name
        assert target.run("undo", "--force").code == 0


def test_a_folder_with_a_dump_and_an_archive(target: Sidecar, server: Server, files: Path) -> None:
    several = target.run("restore", str(files), "--force")
    assert several.code == 44 and "4 dumps" in several.output and "packed-custom.sql.gz" in several.output
    for name in ("plain", "custom.sql", "packed-custom.sql.gz", "archive.sql"):
        (files / name).unlink()
    planned = target.run("restore", str(files), "--dry-run")
    assert planned.code == 0 and "no manifest" in planned.output and "archive of media/" in planned.output
    assert target.run("verify", str(files)).code == 0
    done = target.run("restore", str(files), "--force")
    left_out = "media: FIFOs and devices were left out (uploads/pipe)"
    assert done.code == 0 and done.output.count(left_out) == 2, done.output
    assert left_out in next(run for run in target.runs() if run.operation == "restore").message
    assert live(target, server) == (OLD, "old")
    assert target.run("undo", "--force").code == 0
    clean(target, server, kept=True)


def test_a_dump_and_an_archive_named_together(target: Sidecar, server: Server, files: Path) -> None:
    several = target.run("restore", str(files / "plain"), str(files / "packed"), "--force")
    assert several.code == 44 and "2 dumps were named: packed, plain" in several.output, several.output
    names = str(files / "custom.sql"), str(files / "archive.zip")
    planned = target.run("restore", *names, "--dry-run")
    assert planned.code == 0 and "archive of media/" in planned.output, planned.output
    for command in ("verify", "drill"):
        done = target.run(command, *names)
        assert done.code == 0 and "archive.zip + custom.sql" in done.output, done.output
    done = target.run("restore", *names, "--force", "--no-safety")
    assert done.code == 0 and live(target, server) == (OLD, "old"), done.output
    assert target.run("undo", "--force").code == 0 and live(target, server) == (NEW, "new")


def test_files_of_one_run_of_the_old_scripts_are_one_set(target: Sidecar, server: Server, files: Path) -> None:
    """Whichever of its names is given, with one undo; also a pilot's dump, whose name tells neither tier nor format."""
    dump, media = "obcms_backup_weekly_2025-10-20_02-00-00.sql.gz", "obcms_media_weekly_2025-10-20_02-00-07.tar.gz"
    pilot = "bmms_pilot_20251021_010000.sql"
    (target.root / "weekly").mkdir(mode=0o700)
    for name, source in ((dump, "packed"), (media, "archive.sql"), (pilot, "custom.sql")):
        shutil.copy(files / source, target.root / "weekly" / name)
    listed = target.run("list", "weekly").output.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["weekly_2025-10-21_01-00-00", "weekly_2025-10-20_02-00-00"]
    for name, both in ((media, True), (dump, True), ("weekly_2025-10-20_02-00-07", True), (pilot, False)):
        done = target.run("restore", name, "--force", "--no-safety")
        assert done.code == 0 and live(target, server) == (OLD, "old" if both else "new"), done.output
        assert target.run("undo", "--force").code == 0 and live(target, server) == (NEW, "new")
    for name in (media, pilot):
        drilled = target.run("drill", name)
        assert drilled.code == 0 and "is proven" in drilled.output, drilled.output
        assert target.run("verify", name).code == 0
    assert target.run("list", "weekly").output.count("old script, proven") == 2
    assert "no drill has ever" not in target.run("restore", pilot, "--dry-run").output
    os.utime(target.root / "weekly" / dump)
    assert target.run("list", "weekly").output.count("old script, proven") == 1, "it is of another file"
    cut = target.root / "weekly" / dump
    cut.write_bytes(cut.read_bytes()[:-100])
    failed = target.run("drill", media)
    assert failed.code == 40 and "old script, damaged" in target.run("list", "weekly").output, failed.output
    assert "the last drill of weekly_2025-10-20_02-00-00 failed" in target.run("status").output


def test_what_cannot_be_a_backup_is_refused(target: Sidecar, server: Server, files: Path) -> None:
    custom, plain = (files / "custom.sql").read_bytes(), (files / "plain").read_bytes()
    archive = (files / "archive.zip").read_bytes()
    with tarfile.open(files / "flat.tar", "w") as flat:
        flat.add(files / "plain", "dump.txt")
    bad = {
        "page.sql.gz": gzip.compress(b"<!DOCTYPE html><html>404</html>"),
        "noise.sql": bytes(range(256)) * 300,
        "nothing.tar": b"",
        "cut.sql": plain[: len(plain) // 2],
        "cut.sql.gz": gzip.compress(plain)[:-9],
        "cut.dump": custom[: len(custom) - 40],
        "cut.tar": archive[: len(archive) // 2 + 100],
        "dump.tar": dumped(server, target.environment["DB_NAME"], "-Ft"),
        "created.sql": dumped(server, target.environment["DB_NAME"], "--create", "--inserts"),
        "flat.tar": (files / "flat.tar").read_bytes(),
    }
    before, databases = target.files(), server.databases()
    for name, data in bad.items():
        (files / name).write_bytes(data)
        done = target.run("restore", str(files / name), "--force", "--no-safety")
        assert done.code in (40, 50), (name, done.code, done.output)
        assert "Traceback" not in done.output and name in done.output, done.output
        assert live(target, server) == (NEW, "new"), name
        assert server.databases() == databases, name
    absent = target.run("restore", str(files / "absent.sql"), "--force")
    assert absent.code == 44 and "-v" in absent.output
    assert target.files() == before
    drop_kept(server, target.environment["DB_NAME"])


def test_a_statement_that_works_for_longer_than_the_patience_is_waited_for(
    target: Sidecar, server: Server, tmp_path: Path
) -> None:
    """An index of a large table takes longer than psql's pipe can stand still; the session is seen to be at work.

    Also when it is asked about between two statements.
    """
    plain = dumped(server, target.environment["DB_NAME"])
    head, trailer = plain.split(b"--\n-- PostgreSQL database dump complete", 1)
    # More than a pipe holds comes after it, so that psql takes nothing while the statement runs.
    slow = b"SELECT pg_catalog.pg_sleep(13);\n" + b"SELECT 1;\n" * 30_000
    file = tmp_path / "slow.sql"
    file.write_bytes(head + slow + b"--\n-- PostgreSQL database dump complete" + trailer)
    done = target.run("restore", str(file), "--force", "--no-safety", BACKUP_STALL_TIMEOUT="5")
    assert done.code == 0, done.output
