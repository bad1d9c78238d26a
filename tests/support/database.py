"""Real PostgreSQL servers in containers, and plain psql to look at them with no part of the product."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import docker
import psycopg
from psycopg import sql

LABEL = "obcms.backup.tests"
PROJECT = f"obcms-tests-{os.getpid()}"
PASSWORD = "canary-p:a\\ss'word"  # noqa: S105
USER = "obcms_user"
_numbers = itertools.count()


@dataclass
class Server:
    """A running server. `container` is the docker SDK's object; databases are made by number.

    One that `stays` is never stopped: its address is asked for once, and who looks at it again and again does so in one
    session, which is in the database postgres and in nobody's way.
    """

    container: Any
    major: int
    service: str
    stays: bool = False
    made: list[str] = field(default_factory=list)
    _address: str = ""
    _looking: psycopg.Connection[Any] | None = None

    @property
    def address(self) -> str:
        """Its address, reachable from this machine."""
        if not (self.stays and self._address):
            self.container.reload()
            networks = self.container.attrs["NetworkSettings"]["Networks"]
            self._address = str(next(net["IPAddress"] for net in networks.values()))
        return self._address

    def connect(self, database: str = "postgres", options: str = "") -> psycopg.Connection[Any]:
        """A superuser's session."""
        login = {"host": self.address, "user": USER, "password": PASSWORD, "dbname": database, "options": options}
        return psycopg.connect(**login, autocommit=True, connect_timeout=5)

    def new_database(self, name: str | None = None) -> str:
        """A new, empty database. In memory, files are copied in half of the time that WAL of them takes."""
        name = name or f"obcms_{next(_numbers)}"
        how = sql.SQL("STRATEGY file_copy" if self.stays else "")
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), how))
        self.made.append(name)
        return name

    def execute(self, database: str, statements: str) -> None:
        """Run SQL."""
        with self.connect(database) as connection:
            connection.execute(statements.encode())

    @contextlib.contextmanager
    def _look(self, database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
        """A session for one question."""
        if not self.stays or database != "postgres":
            with self.connect(database) as connection:
                yield connection
            return
        if self._looking is None or self._looking.closed:
            # Whatever a test sets that role to.
            self._looking = self.connect(options="-c idle_session_timeout=0 -c statement_timeout=0")
        yield self._looking

    def value(self, database: str, query: str) -> Any:
        """The single value of a query."""
        with self._look(database) as connection:
            row = connection.execute(query.encode()).fetchone()
            return row[0] if row else None

    def load(self, database: str, script: bytes) -> None:
        """Feed a script to the container's own psql, strictly."""
        command = ["docker", "exec", "-i", self.container.id, "psql", "-XqAt", "-o", "/dev/null", "-h", "127.0.0.1"]
        command += ["-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]
        done = subprocess.run(command, input=script, capture_output=True, check=False)
        if done.returncode:
            raise AssertionError(done.stderr.decode())

    @contextlib.contextmanager
    def standing_backup(self) -> Iterator[str]:
        """In the body somebody makes a base backup and takes nothing of it; what the session is called."""
        from tests.support.faults import eventually  # noqa: PLC0415 - it needs servers

        # By a socket of the machine's own, and a pipe: what they take is bounded, and no timer lets them take more.
        called, backup = "stands still", "pg_basebackup --pgdata=- --format=tar --wal-method=none --checkpoint=fast"
        command = f"{backup} --username={USER} | sleep 300"
        exec_ = ["docker", "exec", "--detach", "--env", f"PGAPPNAME={called}", self.container.id, "sh", "-c", command]
        subprocess.run(exec_, check=True, capture_output=True)
        with self.connect() as connection:
            seen: list[object] = []

            def still() -> bool:
                seen.append(connection.execute(_WRITING, (called,)).fetchone())
                return len(seen) >= _LOOKS and seen[-1] is not None and len(set(seen[-_LOOKS:])) == 1

            try:
                eventually(still)
                yield called
            finally:
                connection.execute(_ENDED, (called,))

    def sessions(self) -> list[str]:
        """The applications connected right now, but for ours."""
        with self._look() as connection:
            rows = connection.execute(
                "SELECT application_name FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = "
                "'client backend'"
            )
            return [name for (name,) in rows]

    def databases(self) -> list[str]:
        """The names of all databases."""
        with self._look() as connection:
            return [name for (name,) in connection.execute("SELECT datname FROM pg_database")]

    def wait(self, seconds: float = 60) -> None:
        """Until it takes connections over the network."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(psycopg.OperationalError, StopIteration), self.connect():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(self.container.logs().decode()[-2000:])
            time.sleep(0.2)

    def remove(self) -> None:
        """Container and data."""
        if self._looking:
            self._looking.close()
        self.container.remove(force=True, v=True)


# A signal lets it try once more: there may be room for a part, of which no poll tells.
_WRITING = """SELECT backup_streamed, pg_log_backend_memory_contexts(pid)
                FROM pg_stat_progress_basebackup JOIN pg_stat_activity USING (pid)
               WHERE application_name = %s AND wait_event = 'ClientWrite' AND backup_streamed > 0"""
_LOOKS = 20
_ENDED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"


def data_volume(major: int) -> str:
    """Where the test images keep their data, in it or below it, as the official ones do."""
    return "/var/lib/postgresql" if major >= 18 else "/var/lib/postgresql/data"


def verifier(password: str, rounds: int = 1) -> str:
    """What PostgreSQL keeps of a password (RFC 5803). Of the usual 4,096 rounds each session takes 3 ms."""
    salt = b"salt of the tests"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    keys = [hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key")]
    kept = (salt, hashlib.sha256(keys[0]).digest(), keys[1])
    return "SCRAM-SHA-256${}:{}${}:{}".format(rounds, *(base64.b64encode(each).decode() for each in kept))


def start_server(major: int, service: str | None = None, *, in_memory: bool = False, **options: Any) -> Server:
    """A new server of this major version, labelled as Compose would label it.

    With its data `in_memory` it makes a database in a third of the time, and has none left after a stop. On a disk it
    does not wait for that: a server that is killed needs no sync, only a machine would.
    """
    service = service or f"db{major}"
    words = [word for word in options.pop("command", ()) if word != "postgres"]
    if in_memory:
        options["tmpfs"] = {data_volume(major): ""}
    else:
        words = ["-c", "fsync=off", *words]
    client = docker.from_env()
    try:
        container = client.containers.run(
            options.pop("image", f"obcms-test/postgres:{major}"),
            ["postgres", *words],
            detach=True,
            environment={
                "POSTGRES_USER": USER,
                "POSTGRES_PASSWORD": PASSWORD,
                "POSTGRES_DB": "obcms_prod",
                "POSTGRES_INITDB_ARGS": options.pop("initdb", "--no-sync"),
            },
            labels={
                LABEL: PROJECT,
                "com.docker.compose.project": PROJECT,
                "com.docker.compose.service": service,
                "com.docker.compose.oneoff": "False",
            },
            **options,
        )
    finally:
        client.close()
    server = Server(container, major, service, stays=in_memory)
    server.wait()
    server.execute("postgres", f"ALTER ROLE {USER} PASSWORD '{verifier(PASSWORD)}'")
    return server
