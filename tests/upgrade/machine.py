"""A machine as an earlier release left it: its server, its volumes, and today's code on them."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.soak.world import CLOCKED
from tests.support.database import PROJECT, Server
from tests.support.sidecar import Result, Sidecar
from tests.upgrade.write_volume import ARCHIVE, DATABASE, dumped, settings_of

_DATA = "/var/lib/postgresql/data"


@dataclass
class Machine:
    """The machine at one moment of the archive. Commands of today's code run at a time of November 2026."""

    base: Path
    server: Server
    known: dict[str, Any]

    @classmethod
    def unpack(cls, folder: Path, moment: str, server: Server) -> Machine:
        """Unpack a moment below `folder`, and make the server's databases what they were then."""
        subprocess.run(["tar", "-xpf", ARCHIVE, "-C", folder], check=True)
        base = folder / moment
        (base / "spool").mkdir(mode=0o700)
        (folder / "key.txt").rename(base / "key.txt")
        known = json.loads((base / "server.json").read_text())
        for name in (name for name in server.databases() if name not in ("postgres", "template0", "template1")):
            server.execute("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
        for each in known["databases"]:
            _make(server, each)
        return cls(base, server, known)

    def run(self, at: str, *words: str, **more: str) -> Result:
        """Run a command of today's code at a time such as `28 03:00:00`."""
        day, time = at.split()
        ahead = datetime.fromisoformat(f"2026-11-{day}T{time}+00:00") - datetime.now(UTC)
        places = {"BACKUP_PROJECT": PROJECT, "DB_SERVICE": self.server.service}
        environment = settings_of(self.base) | places | {"SOAK_AHEAD": f"{ahead.total_seconds()}"}
        folders = (self.base / name for name in ("backups", "spool", "volumes"))
        sidecar = Sidecar(*folders, environment, program=CLOCKED, tries=True)
        result = sidecar.run(*words, **more)
        assert "Traceback" not in result.output, result.output
        return result

    def live(self) -> tuple[str, dict[str, bytes]]:
        """All that the live database holds, and the live files."""
        media = self.base / "volumes" / "media"
        files = {str(path.relative_to(media)): path for path in media.rglob("*") if path.is_file()}
        whole = {name: path.read_bytes() for name, path in files.items() if not name.startswith(".obcms-restore-")}
        return dumped(self.server, DATABASE), whole

    def then(self, kept: str = "") -> str:
        """What the live database held when the archive was written, or the one kept under a name that begins so."""
        names = {each["name"].removeprefix(DATABASE): each["dump"] for each in self.known["databases"]}
        (found,) = (name for name in names if (name.startswith(kept) if kept else not name))
        return str(names[found])


def _make(server: Server, known: dict[str, Any]) -> None:
    """A database as it was: its oid, too, by which a journal knows it."""
    name = known["name"]
    comment = (known["comment"] or "").replace("'", "''")
    server.execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE template0 OID {known["oid"]}')
    server.load(name, known["dump"].encode())
    server.execute("postgres", f"COMMENT ON DATABASE \"{name}\" IS '{comment}'")
    server.execute("postgres", f'ALTER DATABASE "{name}" CONNECTION LIMIT {known["limit"]}')
    server.execute("postgres", f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {known["connectable"]}')


def take_identity(server: Server) -> None:
    """Give a new server the identity of the one that the archive was written with: sets and records name it."""
    with tarfile.open(ARCHIVE) as archive:
        member = archive.extractfile("./kept/server.json")
        assert member
        wanted = int(json.load(member)["system_identifier"])
    server.container.stop()
    path = f"{_DATA}/global/pg_control"
    stream, _ = server.container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as taken:
        info = taken.getmembers()[0]
        file = taken.extractfile(info)
        assert file
        data = file.read()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as changed:
        changed.addfile(info, io.BytesIO(_with_identifier(data, wanted)))
    server.container.put_archive(f"{_DATA}/global", packed.getvalue())
    # The log has the identity, too: it begins anew.
    words = ["docker", "run", "--rm", f"--volumes-from={server.container.id}", "--user=postgres"]
    words += ["--entrypoint=pg_resetwal", server.container.image.id, "-f", _DATA]
    subprocess.run(words, check=True, capture_output=True)
    server.container.start()
    server.wait()


def _with_identifier(control: bytes, wanted: int) -> bytes:
    """pg_control with another system identifier, which it begins with, and the sum that it ends with."""
    end = next(n for n in range(8, len(control), 4) if struct.pack("<I", _crc32c(control[:n])) == control[n : n + 4])
    changed = struct.pack("<Q", wanted) + control[8:end]
    return changed + struct.pack("<I", _crc32c(changed)) + control[end + 4 :]


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
