"""Write tests/upgrade/0.1.0.tar.xz: what release 0.1.0 leaves on a machine. A test opens it with today's code.

    .venv/bin/python -m tests.upgrade.write_volume [COMMIT]

The code of that commit runs against a real server, by a clock that is passed in. The archive holds two moments,
`kept` (a restore has ended and can be undone) and `halfway` (the next one was killed between the swap of the database
and that of the files). Each has the backup volume, the media, the folder with copies, and in server.json what the
server held: its identity, and every database with its oid. A release is written once and then stays as it is.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.database import PROJECT, USER, Server, start_server
from tests.support.keys import key_pair

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "1ccfbd9"  # the last commit before the redesign; its version is 0.1.0
ARCHIVE = Path(__file__).with_name("0.1.0.tar.xz")
LAUNCHER = Path(__file__).with_name("old_cli.py")
DATABASE = "obcms_prod"
SEED = """
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE TABLE person (
        id bigserial PRIMARY KEY, name text NOT NULL, mood mood, size int GENERATED ALWAYS AS (length(name)) STORED);
    INSERT INTO person (name, mood) SELECT E'Ñ\\t' || i, 'glad' FROM generate_series(1, 60) i;
    CREATE TABLE visit (id int, day date) PARTITION BY RANGE (day);
    CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    INSERT INTO visit SELECT i, date '2025-01-01' + i FROM generate_series(1, 90) i;
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
    CREATE INDEX ON person (twice(id::int)); CREATE VIEW glad AS SELECT * FROM person WHERE mood = 'glad';
    SELECT lo_from_bytea(4100002, decode(repeat('00ff', 900), 'hex')); COMMENT ON TABLE person IS 'people'
"""


@dataclass
class Writer:
    """One machine on which 0.1.0 runs. `base` holds its folders, `code` its source."""

    base: Path
    code: Path
    server: Server

    def run(self, at: str, *words: str, codes: tuple[int, ...] = (0,), **settings: str) -> None:
        """Run a command of 0.1.0 at a time of November 2026: `27 02:00:10`."""
        day, time = at.split()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.code),
            "AT": f"2026-11-{day}T{time}+00:00",
            **settings_of(self.base),
            "BACKUP_PROJECT": PROJECT,
            "DB_SERVICE": self.server.service,
            **settings,
        }
        command = [sys.executable, str(LAUNCHER), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        print(f"{at}  {' '.join(words)}: {done.returncode}", flush=True)
        if done.returncode not in codes:
            sys.exit(done.stdout + done.stderr)

    def change(self, kind: str) -> None:
        """Rows and files that were not there before."""
        self.server.execute(DATABASE, f"INSERT INTO person (name, mood) VALUES ('{kind}', 'sad')")
        for name in (kind, "kind"):
            path = self.base / "volumes" / "media" / name
            path.write_text(kind)
            os.utime(path, (1_764_000_000, 1_764_000_000))

    def live(self) -> list[str]:
        """The names that tell which state is live."""
        query = "SELECT coalesce(string_agg(name, ' ' ORDER BY id), '') FROM person WHERE mood = 'sad'"
        return str(self.server.value(DATABASE, query)).split()

    def keep(self, moment: str) -> None:
        """Copy all that there is now into the folder of a moment."""
        target = self.base / "moments" / moment
        for name in ("backups", "volumes", "copies"):
            shutil.copytree(self.base / name, target / name, symlinks=True)
        for path in (target / "backups").rglob("*.lock"):
            path.unlink()
        # Random bytes that keep room on the disk: only their number counts.
        if (reserve := target / "backups" / "state" / "restore.reserve").exists():
            reserve.write_bytes(bytes(reserve.stat().st_size))
        (target / "server.json").write_text(json.dumps(server_state(self.server), indent=1))


def settings_of(base: Path) -> dict[str, str]:
    """What the operator had set, for old and new code alike."""
    return {
        "TZ": "UTC",
        "BACKUP_DIR": str(base / "backups"),
        "BACKUP_SPOOL_DIR": str(base / "spool"),
        "BACKUP_VOLUMES_DIR": str(base / "volumes"),
        "BACKUP_COPY_DIR": str(base / "copies"),
        "BACKUP_AGE_IDENTITY_FILE": str(base / "key.txt"),
        "BACKUP_NOTIFY_URLS": "json://127.0.0.1:9/",  # nobody is there
        "BACKUP_NOTIFY_NAME": "upgraded",
        "BACKUP_MIN_SIZE_KB": "0",
        "BACKUP_MIN_FREE_GB": "0",
        "DB_NAME": DATABASE,
    }


def dumped(server: Server, database: str) -> str:
    """All that a database holds, by the server's own pg_dump; without the key that is another each time."""
    words = ["docker", "exec", server.container.id, "pg_dump", "-U", USER, "-d", database]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return "".join(line for line in text.splitlines(True) if not line.startswith(("\\restrict ", "\\unrestrict ")))


def server_state(server: Server) -> dict[str, Any]:
    """The server's identity, and of each database its oid, comment and limits, and its dump."""
    query = """SELECT datname, oid::bigint, shobj_description(oid, 'pg_database'), datallowconn, datconnlimit
                 FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname"""
    with server.connect() as connection:
        rows = connection.execute(query).fetchall()
        found = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
        databases = []
        for name, oid, comment, connectable, limit in rows:
            change = f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {{}}'
            connection.execute(change.format("true").encode())
            state = {"name": name, "oid": oid, "comment": comment, "connectable": connectable, "limit": limit}
            databases.append(state | {"dump": dumped(server, name)})
            connection.execute(change.format(connectable).encode())
    assert found
    return {"system_identifier": str(found[0]), "databases": databases}


def live_through(machine: Writer, public: str) -> None:
    """Two days of a service, a restore, and one that is killed."""
    machine.run("26 01:00:00", "open")
    machine.run("26 02:00:10", "create", "--scheduled", "daily")
    machine.run("26 02:10:00", "drill", "latest")
    machine.run("26 02:20:00", "pin", "latest", "--reason", "before the upgrade")
    machine.run("26 05:00:05", "prune", "--scheduled")
    machine.run("26 06:00:05", "monitor", "--alert", "--scheduled", codes=(0, 60, 61))
    machine.run("26 06:30:05", "offsite", "verify", "--scheduled")
    machine.change("second")
    machine.run("27 02:00:10", "create", "--scheduled", "daily")
    machine.run("27 03:00:00", "create", "manual", BACKUP_ENCRYPT="all", BACKUP_AGE_RECIPIENTS=public)
    machine.run("27 05:00:05", "prune", "--scheduled")
    machine.run("27 06:00:05", "monitor", "--alert", "--scheduled", codes=(0, 60, 61))
    machine.run("27 06:10:00", "upload", "--all")
    machine.run("27 06:20:00", "round")
    machine.run("27 06:30:00", "create", "weekly", codes=(20,), DB_NAME="no_such_database")
    machine.run("27 06:30:05", "offsite", "verify", "--scheduled")
    machine.run("27 06:31:00", "round")
    machine.change("third")
    daily = machine.base / "backups" / "daily"
    first = next(daily.glob("obcms_set_*2026-11-26*.json")).stem.removeprefix("obcms_set_")
    machine.run("27 20:00:00", "restore", first, "--force")
    assert machine.live() == [], machine.live()
    machine.keep("kept")
    machine.change("fourth")
    second = first.replace("2026-11-26", "2026-11-27")
    # The kill comes as the files are to be swapped: the database is the restored one, the files are not.
    machine.run("28 01:00:00", "restore", second, "--force", codes=(-9,), STOP_AT="swapping media")
    assert machine.live() == ["second"], machine.live()
    assert (machine.base / "volumes" / "media" / "kind").read_text() == "fourth"
    machine.keep("halfway")


def main() -> None:
    """Write the archive."""
    commit = sys.argv[1] if len(sys.argv) > 1 else COMMIT
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("backups", "spool", "copies", "code", "moments"):
            (base / name).mkdir(mode=0o700)
        uploads = base / "volumes" / "media" / "uploads"
        uploads.mkdir(parents=True)
        (uploads / "a.txt").write_text("a file\n")
        (uploads / "Ñ.bin").write_bytes(bytes(range(256)))
        public = key_pair(base / "key.txt")
        source = subprocess.run(["git", "-C", ROOT, "archive", commit, "backup"], capture_output=True, check=True)
        subprocess.run(["tar", "-xC", base / "code"], input=source.stdout, check=True)
        server = start_server(17, in_memory=True)
        try:
            server.execute(DATABASE, SEED)
            live_through(Writer(base, base / "code", server), public)
        finally:
            server.remove()
        shutil.copy(base / "key.txt", base / "moments")
        with lzma.open(ARCHIVE, "wb", preset=9) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
            archive.add(base / "moments", ".")
    print(f"{ARCHIVE.relative_to(ROOT)}: {ARCHIVE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
