"""Passwords appear nowhere, and what holds data is private from the first instant."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql

from backup.docker.container import described
from backup.docker.engine import Engine
from backup.errors import EngineError
from tests.support.database import PASSWORD, Server
from tests.support.faults import docker, dumping, ended, fill_big, helpers, under_way
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")
CANARY = "CaNaRy7d1f"  # what every password here contains


class Watch(threading.Thread):
    """Looks at every helper and every process again and again while a run is under way."""

    def __init__(self, sidecar: Sidecar) -> None:
        super().__init__()
        self.sidecar, self.over = sidecar, threading.Event()
        self.looks, self.seen = 0, list[str]()

    def run(self) -> None:
        while not self.over.is_set():
            for helper in helpers(self.sidecar):
                shown = docker("inspect", helper, check=False) + docker("logs", helper, check=False)
                self.looks += bool(shown)
                self._note("docker inspect", shown.encode())
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        data = (process / name).read_bytes()
                    except OSError:
                        continue
                    if self._ours(process, data):
                        self._note(f"{name} of {data[:60]!r}", data)

    def _ours(self, process: Path, data: bytes) -> bool:
        """The clients, wherever they run. The product's own environment is where the operator put the secret."""
        try:
            return b"pg_dump" in data or (process / "exe").readlink().name.startswith("pg_dump")
        except OSError:
            return False

    def _note(self, where: str, data: bytes) -> None:
        if CANARY.encode() in data:
            self.seen.append(where)


@pytest.fixture
def watched(tmp_path: Path, server: Server, big: str) -> Iterator[Sidecar]:
    sidecar = Sidecar.make(tmp_path, server, big)
    watch = Watch(sidecar)
    watch.start()
    yield sidecar
    watch.over.set()
    watch.join()
    assert watch.looks, "no helper was ever seen"
    assert watch.seen == []


@pytest.fixture(scope="module")
def big(servers: Callable[[int], Server]) -> str:
    server = servers(17)
    database = server.new_database()
    fill_big(server, database, 500)
    return database


@pytest.fixture
def user(server: Server, big: str) -> str:
    name, secret = f"{CANARY}_role".lower(), f"{CANARY}:\\'x"
    with server.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS canary7d1f_role")
        connection.execute(
            sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(secret))
        )
    return secret


def everywhere(sidecar: Sidecar) -> list[str]:
    """Files of the sidecar's directories that hold the canary; in sets only as the roles' own hashes may."""
    found = []
    for path in (*sidecar.root.rglob("*"), *sidecar.spool.rglob("*")):
        if path.is_file() and CANARY.encode() in path.read_bytes():
            found.append(str(path))
    return found


def test_a_password_is_on_no_surface(watched: Sidecar, server: Server, user: str) -> None:
    login = {"DB_USER": f"{CANARY}_role".lower(), "DB_PASSWORD": user}
    result = watched.run(*CREATE, **login)
    assert result.code == 0 and CANARY not in result.output, result.output
    for command in (("show", "latest"), ("list", "--json"), ("show", "latest", "--json"), ("verify", "latest")):
        assert CANARY not in watched.run(*command, **login).output
    assert everywhere(watched) == []


def test_nor_when_everything_goes_wrong(watched: Sidecar, server: Server, user: str) -> None:
    login = {"DB_USER": f"{CANARY}_role".lower(), "DB_PASSWORD": user}
    with under_way(watched, **login) as process:
        dumping(watched, process, server)
        docker("kill", *helpers(watched))
        result = ended(process)
    assert result.code == 20 and CANARY not in result.output
    wrong = [{"DB_PASSWORD": f"{CANARY}-wrong"}, {"DB_PASSWORD": f"{CANARY}\nx"}, {"DB_NAME": "nothere"}]
    wrong += [{"BACKUP_STALL_TIMEOUT": CANARY}, {"DB_PORT": CANARY}, {"TZ": "x", "BACKUP_PASSWORD": CANARY}]
    for settings in wrong:
        result = watched.run(*CREATE, **login | settings)
        assert result.code in (10, 20) and CANARY not in result.output, result.output
    assert everywhere(watched) == []


def test_the_databases_own_password_is_on_no_surface(sidecar: Sidecar, server: Server) -> None:
    """Nothing is configured: the password is what the database's container declares."""
    result = sidecar.run(*CREATE)
    assert result.code == 0 and PASSWORD not in result.output
    found = [p for p in sidecar.root.rglob("*") if p.is_file() and b"canary-p" in p.read_bytes()]
    assert found == [] and sidecar.spooled() == []


def test_the_password_file_is_private_and_short_lived(sidecar: Sidecar, server: Server, big: str) -> None:
    with under_way(sidecar, DB_NAME=big) as process:
        dumping(sidecar, process, server)
        modes = {path.suffix: path.stat().st_mode for path in sidecar.spool.iterdir()}
        assert ended(process).code == 0
    assert {suffix: oct(mode & 0o7777) for suffix, mode in modes.items()} == {".fifo": "0o600", ".pass": "0o600"}
    assert sidecar.spool.stat().st_mode & 0o777 == 0o710 and sidecar.spooled() == []


CREATES = "openat,open,creat,mkdir,mkdirat,mknod,mknodat"
CALL = re.compile(r'(\w+)\((?:[^"]*, )?"([^"]+)", ?(.*)\) += (?!-1)')


def test_everything_is_private_from_the_first_instant_whatever_the_umask(tmp_path: Path, server: Server) -> None:
    """The modes that the kernel is asked for: a watcher of the directory cannot be too late."""
    sidecar = Sidecar.make(tmp_path, server, server.new_database())
    (sidecar.root / "keep").mkdir()
    log = tmp_path / "trace"
    umask = ("sh", "-c", 'umask 000; exec "$@"', "sh")
    watching = ("strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={CREATES}")
    with sidecar.start("create", "daily", prefix=(*umask, *watching)) as process:
        result = ended(process)
    assert result.code == 0, result.output
    asked = []
    for line in log.read_text(errors="replace").splitlines():
        match = CALL.search(line)
        if not match or not match[2].startswith(str(tmp_path)):
            continue
        call, path, rest = match.groups()
        if call.startswith("open") and "O_CREAT" not in rest:
            continue
        mode = int(rest.split(", ")[-1].replace("S_IFIFO|", ""), 8)
        asked.append((call, path, mode))
    kinds = {
        "mkdir" if call.startswith("mkdir") else "fifo" if call.startswith("mknod") else "file" for call, *_ in asked
    }
    assert kinds == {"mkdir", "fifo", "file"}
    made = [path for path in (*sidecar.root.rglob("*"), *sidecar.spool.rglob("*")) if path.name != "keep"]
    assert len(made) > 8
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []
    assert [each for each in asked if each[2] & 0o077] == []


def test_a_spool_of_somebody_else_is_refused(sidecar: Sidecar) -> None:
    os.chown(sidecar.spool, 1000, 1000)
    result = sidecar.run(*CREATE)
    assert result.code == 30 and "belongs to another user" in result.output
    assert sidecar.spooled() == []


def test_a_helper_has_no_more_rights_than_it_needs(sidecar: Sidecar, server: Server, big: str) -> None:
    with under_way(sidecar, DB_NAME=big) as process:
        dumping(sidecar, process, server)
        (facts,) = json.loads(docker("inspect", *helpers(sidecar)))
        assert ended(process).code == 0
    host, config = facts["HostConfig"], facts["Config"]
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and "no-new-privileges" in host["SecurityOpt"]
    assert not host["Privileged"] and [m["Destination"] for m in facts["Mounts"] if m["Type"] != "tmpfs"] == ["/spool"]
    # A pipe on it can be written to; a client that comes too late for its pipe must not leave the dump as a file.
    assert [m["RW"] for m in facts["Mounts"] if m["Destination"] == "/spool"] == [False]
    assert not [entry for entry in config["Env"] if entry.startswith(("PGPASS", "POSTGRES_", "DB_"))]


def test_a_secret_in_the_database_container_may_be_a_link(server: Server) -> None:
    """Kubernetes and Podman hand secrets over so. One that cannot be read is an error of the engine, with its name."""
    place = "/tmp/secrets"  # noqa: S108 - of the container
    made = "mkdir -p ..data && printf 'canary\\n' >..data/real && ln -sf ..data/real link && ln -sf link far"
    made += " && ln -sf round round && printf '\\377\\376' >bytes"
    docker("exec", server.container.id, "sh", "-c", f"mkdir -p {place} && cd {place} && {made}")
    engine = Engine()
    container = described(engine.api.inspect_container(server.container.id))
    assert [engine.read_file(container, f"{place}/{name}") for name in ("..data/real", "link", "far")] == ["canary"] * 3
    for name, words in (("round", "too many links"), ("bytes", "is not text"), ("none", "Could not find")):
        with pytest.raises(EngineError, match=f"{place}/{name} in .*{words}"):
            engine.read_file(container, f"{place}/{name}")
