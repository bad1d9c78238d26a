"""Two ways to run a PostgreSQL client with a pipe to read from or to write to; one contract (tests/contract).

HelperClients: a container of the database's own image, in its network namespace. NetworkClients: a child
process, the image's own client of the server's major version.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final, Self

from backup.docker.container import Container
from backup.docker.engine import LABEL, LABEL_ROLE, LABEL_RUN, Engine, SpoolMount, folder_mount
from backup.docker.helper import Helper
from backup.errors import ConfigError, EngineError
from backup.formatting import printable
from backup.model.run import new_run_id
from backup.pipeline.file_type import CUSTOM_MAGIC
from backup.postgres.child_process import ChildProcess
from backup.postgres.dump.psql_session import Dialogue
from backup.postgres.process_io import ClientProcess, Pipe, ProcessInput, ProcessOutput, converted
from backup.postgres.receiver import Receiver
from backup.postgres.session import APPLICATION, Login
from backup.postgres.session_settings import ANYWHERE, Standing
from backup.postgres.waiting_helpers import WaitingHelpers, waiting

_CLIENT_ROOT: Final = Path("/usr/lib/postgresql")
# Where a client is told to write; psql reads with --file.
_OUTPUT: Final = {"psql": "--output"}
# A directory in which a server of ours has its socket ends so; short, because the path of a socket must be.
SOCKETS: Final = "sock"
_SPOOLED: Final = re.compile(
    r"([0-9a-f]{12})\.(?:[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}\.(?:[0-9]\.)?(?:fifo|pass|gate|archive|index|manifest|out\.fifo)"
    rf"|[0-9a-f]{{16}}\.{SOCKETS})"
)
# A session may say nothing for hours while it works or waits: no router on the way is to forget it, and a server that
# has gone is noticed within minutes.
_ALIVE: Final = {"keepalives_idle": "10", "keepalives_interval": "10", "keepalives_count": "30"}
# Who says something each second is told by no keepalive that nobody is left to hear it.
_GONE: Final = {"tcp_user_timeout": "60000"}
ROLE: Final = "client"
# What pg_receivewal needs to write what it has.
_STOPPING: Final = 5
# Where a helper has the folder of all WAL.
_WAL: Final = "/wal"


class Clients:
    """Runs PostgreSQL's clients for one database, each with its pipes and its password file in one private directory.

    `way` is how, for messages; `busy` is asked whether a client that takes no more input is still at work.
    """

    way: str

    def __init__(self, login: Login, directory: Path, instance: str, stall: float) -> None:
        self._login, self._directory, self._instance, self._stall = login, directory, instance, stall
        self.busy: Callable[[], bool] = lambda: False
        self._standing = ANYWHERE

    def check(self, standing: Standing) -> None:
        """ConfigError when there is no client of the server's version; all sessions bring what the login may set."""
        raise NotImplementedError

    def sweep(self) -> int:
        """Remove what dead runs left: helpers, pipes, password files. How many. Only under the lock."""
        # Child processes die with us: their pipe breaks.
        return sweep_spool(self._directory, self._instance)

    @contextlib.contextmanager
    def run(
        self,
        program: str,
        arguments: Sequence[str],
        run: str,
        options: str = "",
        busy: Callable[[], bool] = lambda: False,
        part: str = "",
    ) -> Iterator[ProcessOutput]:
        """Start `program` in a session with our settings, and with these server `options`.

        DumpFailed at the end of its output if it failed. `busy`: whether it is still at work although it gives nothing.
        `part` tells sessions of one run apart. Leaves nothing behind.
        """
        with self._secret(run, part), Pipe(self._path(run, f"{part}fifo")) as pipe:
            words = [
                *self._connection(run, options, part),
                f"{_OUTPUT.get(program, '--file')}={self._inside(pipe.path)}",
                *arguments,
            ]
            with self._started(program, words, run) as process:
                with ProcessOutput(process, pipe, program, self._stall, busy) as output:
                    yield output

    @contextlib.contextmanager
    def feed(self, program: str, arguments: Sequence[str], run: str, options: str = "") -> Iterator[ProcessInput]:
        """Start `program` to read a script from us, in a session with these server `options`. Leaves nothing behind."""
        with self._secret(run), Pipe(self._path(run, "fifo")) as pipe:
            words = [*self._connection(run, options), *arguments, f"--file={self._inside(pipe.path)}"]
            with self._started(program, words, run) as process:
                with ProcessInput(process, pipe, program, self._stall, self.busy) as load:
                    yield load

    @contextlib.contextmanager
    def talk(self, arguments: Sequence[str], run: str, options: str = "", part: str = "") -> Iterator[Dialogue]:
        """As `feed` of psql, which also tells what it has done. `part` tells sessions of one run apart.

        It is to `enter` before it is given what others have written: then no password lies beside it.
        """
        with (
            self._secret(run, part),
            Pipe(self._path(run, f"{part}fifo")) as pipe,
            Pipe(self._path(run, f"{part}out.fifo")) as said,
        ):
            words = [
                *self._connection(run, options, part),
                *arguments,
                f"--output={self._inside(said.path)}",
                f"--file={self._inside(pipe.path)}",
            ]
            with self._started("psql", words, run) as process:
                with (
                    ProcessInput(process, pipe, "psql", self._stall, self.busy) as load,
                    Dialogue(load, said, lambda: self._path(run, f"{part}pass").unlink(missing_ok=True)) as dialogue,
                ):
                    yield dialogue

    @contextlib.contextmanager
    def as_sql(self, archive: Iterable[bytes], run: str) -> Iterator[Iterator[bytes]]:
        """What pg_restore writes of an archive in pg_dump's custom format. LoadFailed at the end if it failed."""
        with Pipe(self._path(run, "0.fifo")) as pipe, Pipe(self._path(run, "0.out.fifo")) as said:
            words = [f"--file={self._inside(said.path)}", self._inside(pipe.path)]
            with self._started("pg_restore", words, run) as process:
                # It waits for whoever takes what it writes, who may have an index to build: that is judged there.
                with ProcessInput(process, pipe, "pg_restore", self._stall, lambda: True) as program:
                    with contextlib.closing(converted(program, said, CUSTOM_MAGIC, archive)) as pieces:
                        yield pieces

    @contextlib.contextmanager
    def base_backup(
        self, arguments: Sequence[str], run: str, busy: Callable[[], bool] = lambda: False, manifest: bytes = b""
    ) -> Iterator[ProcessOutput]:
        """As `run` of pg_basebackup, which writes a tar to its standard output alone. `manifest` is its parent's."""
        spooled = self._path(run, "manifest")
        try:
            with self._secret(run), Pipe(self._path(run, "fifo")) as pipe:
                spooled.write_bytes(manifest)
                words = ["-c", 'exec "$@" >"$0"', self._inside(pipe.path), self._program("pg_basebackup")]
                words += [*self._connection(run), *arguments]
                words += [f"--incremental={self._inside(spooled)}"] if manifest else []
                with self._started("/bin/sh", words, run) as process:
                    with ProcessOutput(process, pipe, "pg_basebackup", self._stall, busy) as output:
                        yield output
        finally:
            spooled.unlink(missing_ok=True)

    @contextlib.contextmanager
    def receiver(self, wal: Path, folder: str, name: str) -> Iterator[Receiver]:
        """Start pg_receivewal, which writes into `folder` below `wal` for as long as the body runs, and not longer.

        `name` is that of its session on the server.
        """
        run = new_run_id(datetime.now(UTC))
        with self._secret(run):
            at = replace(self._login, password="")
            secret = self._path(run, "pass")
            conninfo = at.conninfo(passfile=self._inside(secret), application_name=name, **_ALIVE, **_GONE)
            # Not --synchronous: a sync for each commit, on the disk that the server syncs its own to, took a third of
            # its throughput. What is written outlives the server and us; after a power cut the server still has it.
            words = ["--no-password", "--no-loop", "--status-interval=1", f"--dbname={conninfo}"]
            with self._receiving(words, wal, folder) as process:
                yield Receiver(process, secret)
                process.stop(_STOPPING)

    @contextlib.contextmanager
    def ahead(self, run: str, count: int) -> Iterator[None]:
        """Let the first `count` programs that `run` starts in the body begin at once, where starting takes a while."""
        yield

    def named(self, database: str) -> Self:
        """The same clients for another database of the server."""
        other = copy.copy(self)
        other._login = replace(self._login, name=database)
        return other

    def entering(self, user: str) -> Self:
        """The same clients for another role, which needs no password."""
        other = copy.copy(self)
        other._login = replace(self._login, user=user)
        return other

    def _started(
        self, program: str, arguments: list[str], run: str
    ) -> contextlib.AbstractContextManager[ClientProcess]:
        raise NotImplementedError

    def _receiving(
        self, arguments: list[str], wal: Path, folder: str
    ) -> contextlib.AbstractContextManager[Helper | ChildProcess]:
        """Start pg_receivewal with these arguments, and that directory."""
        raise NotImplementedError

    def _program(self, name: str) -> str:
        """What a client is started as."""
        return name

    def _inside(self, path: Path) -> str:
        """The path of a spooled file as the client sees it."""
        raise NotImplementedError

    def _path(self, run: str, suffix: str) -> Path:
        return self._directory / f"{self._instance}.{run}.{suffix}"

    @contextlib.contextmanager
    def _secret(self, run: str, part: str = "") -> Iterator[None]:
        secret = self._path(run, f"{part}pass")
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(self._login.passfile())
            yield
        finally:
            secret.unlink(missing_ok=True)

    def _connection(self, run: str, options: str = "", part: str = "") -> list[str]:
        at = replace(self._login, password="")
        secret = self._inside(self._path(run, f"{part}pass"))
        settings = f"{self._standing.options} {options}".rstrip()
        named = application(self._instance, run)
        conninfo = at.conninfo(passfile=secret, application_name=named, options=settings, **_ALIVE)
        return [f"--dbname={conninfo}", "--no-password"]


class HelperClients(Clients):
    """Clients in helper containers beside the database."""

    inside: Final = PurePosixPath("/spool")

    def __init__(
        self,
        engine: Engine,
        beside: Container,
        login: Login,
        directory: Path,
        mount: SpoolMount,
        instance: str,
        stall: float,
    ) -> None:
        super().__init__(replace(login, host="127.0.0.1"), directory, instance, stall)
        self._engine, self.beside, self._mount = engine, beside, mount
        self._waiting = WaitingHelpers(())
        self.way = f"helper containers of {printable(beside.image)} beside {printable(beside.name)}"

    def check(self, standing: Standing) -> None:
        """The database's own image has the client of its own version; the dump's header proves it."""
        self._standing = standing

    def sweep(self) -> int:
        """See Clients."""
        return self._engine.sweep_helpers(self._instance) + super().sweep()

    @contextlib.contextmanager
    def ahead(self, run: str, count: int) -> Iterator[None]:
        """See Clients."""
        gates = [self._path(run, f"{number}.gate") for number in range(count)]
        with waiting(lambda gate: self._helper("sh", [self._inside(gate)], run), gates) as self._waiting:
            yield

    @contextlib.contextmanager
    def _started(self, program: str, arguments: list[str], run: str) -> Iterator[ClientProcess]:
        made: list[Helper] = []

        def start() -> None:
            made.append(self._waiting.take(program, arguments) or self._helper(program, arguments, run))

        try:
            # In a thread: a signal's exception would lose the helper that is just being made.
            with ThreadPoolExecutor(1) as aside:
                aside.submit(int).result()  # the thread exists, and will be waited for, before there is a helper
                aside.submit(start).result()
            yield made[0]
        except BaseException:
            # This one alone: others of the run may be at work.
            for helper in made:
                with contextlib.suppress(EngineError):
                    helper.close()
            raise

    @contextlib.contextmanager
    def _receiving(self, arguments: list[str], wal: Path, folder: str) -> Iterator[Helper | ChildProcess]:
        self._engine.sweep_receivers(self._instance)
        mounts = [self._mount, folder_mount(self._engine, self._engine.own(), wal, _WAL)]
        words = [*arguments, f"--directory={_WAL}/{folder}"]
        try:
            yield self._engine.start_receiver(self.beside, "pg_receivewal", words, mounts, self._instance)
        finally:
            with contextlib.suppress(EngineError):
                self._engine.sweep_receivers(self._instance)

    def _helper(self, program: str, arguments: list[str], run: str) -> Helper:
        labels = {LABEL: self._instance, LABEL_RUN: run, LABEL_ROLE: ROLE}
        return self._engine.start_helper(self.beside, program, arguments, self._mount, labels)

    def _inside(self, path: Path) -> str:
        return str(self.inside / path.name)


class NetworkClients(Clients):
    """Clients as child processes, reaching the server over the network."""

    def __init__(self, login: Login, directory: Path, instance: str, stall: float, root: Path = _CLIENT_ROOT) -> None:
        super().__init__(login, directory, instance, stall)
        self._root, self._major = root, 0
        self.way = f"the network: {printable(login.host)}:{login.port}"

    def check(self, standing: Standing) -> None:
        """See Clients."""
        server_major = standing.major
        have = sorted(int(path.parent.parent.name) for path in self._root.glob("[0-9]*/bin/pg_dump"))
        if server_major not in have:
            raise ConfigError(
                f"the server is PostgreSQL {server_major}, the clients here are"
                f" {', '.join(map(str, have)) or 'none'}; a dump that the server takes back needs a client of its"
                " own version",
                "Grant the Docker socket and unset DB_HOST (the database's own image then brings its client),"
                f" or add the {server_major} client to the image (see the Dockerfile's client stages).",
            )
        self._major, self._standing = server_major, standing

    @contextlib.contextmanager
    def _started(self, program: str, arguments: list[str], run: str) -> Iterator[ClientProcess]:
        yield ChildProcess([self._program(program), *arguments], self._home / "lib")

    @contextlib.contextmanager
    def _receiving(self, arguments: list[str], wal: Path, folder: str) -> Iterator[Helper | ChildProcess]:
        # Two of them must never write into one folder, and no pipe of ours breaks: it is to die when this thread does.
        words = ["/usr/bin/setpriv", "--pdeathsig", "KILL", "--", self._program("pg_receivewal")]
        process = ChildProcess([*words, *arguments, f"--directory={wal / folder}"], self._home / "lib")
        try:
            yield process
        finally:
            process.close()

    @property
    def _home(self) -> Path:
        return self._root / str(self._major)

    def _program(self, name: str) -> str:
        return str(self._home / "bin" / name)  # an absolute path stays as it is

    def _inside(self, path: Path) -> str:
        return str(path)


def sweep_spool(directory: Path, instance: str) -> int:
    """Remove the pipes, sockets and password files of `instance` that dead runs left; how many. Only under the lock."""
    left = [path for path in directory.iterdir() if (match := _SPOOLED.fullmatch(path.name)) and match[1] == instance]
    for path in left:
        remove_spooled(path)
    return len(left)


def remove_spooled(path: Path) -> None:
    """Remove a file of the spool, or a directory of sockets."""
    if path.suffix == f".{SOCKETS}":
        with contextlib.suppress(FileNotFoundError):
            for socket in path.iterdir():
                socket.unlink(missing_ok=True)
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def application(instance: str, run: str = "") -> str:
    """The name our sessions carry on the server: it names the backup volume and the run."""
    return f"{APPLICATION} {instance} {run}"
