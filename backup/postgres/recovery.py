"""Recovers a cluster from a base backup and WAL in containers of its own image, and stops behind one commit.

Segments go into pg_wal itself: nothing is copied twice, and none that is not there can be asked for elsewhere.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backup.docker.engine import LABEL, LABEL_ROLE, LABEL_RUN, Engine, SpoolMount
from backup.docker.helper import Helper
from backup.docker.recovery_server import DATA, PG_WAL, PLACE, RecoveryServer, RecoveryVolume
from backup.errors import BackupError, DumpFailed, EngineError, IntegrityError, LoadFailed, NoSpace
from backup.formatting import printable, size
from backup.model.manifest import Preload
from backup.model.moment import Commit, parse_commit
from backup.model.wal import lsn, lsn_text
from backup.postgres.base_chain import CHAIN_FOLDER, COMBINE, EARLIER, stalled, uncombined
from backup.postgres.clients import SOCKETS, HelperClients, remove_spooled, sweep_spool
from backup.postgres.dump_source import PostgresSource
from backup.postgres.preload_libraries import preloading
from backup.postgres.process_io import Pipe, ProcessInput, ProcessOutput
from backup.postgres.server import maintenance
from backup.postgres.session import Login
from backup.postgres.wal_dump import COMMITS, DELETIONS, file_behind, lines_of, require_whole, tail_start

ROLE: Final = "recovery"
SPARE: Final = 256 << 20
_PAUSE: Final = 0.2
# tar ends at the end of its archive; what is behind it must be read, too, or its writer would wait.
_UNPACK: Final = 'umask 077; mkdir -p "$1" && { tar -x -o -C "$1" -f -; code=$?; cat >/dev/null; exit $code; } <"$0"'
# Nothing of the live server's configuration counts: it may name files, servers and memory that are not here.
_PREPARE: Final = """
    set -e
    cd "$0"
    for each; do : >"data/pg_wal/$each"; done
    rm -f data/standby.signal data/postmaster.pid
    : >data/recovery.signal
    : >data/postgresql.auto.conf
    : >postgresql.conf
    : >pg_ident.conf
    printf 'local all all trust\\nhost all all 127.0.0.1/32 trust\\n' >pg_hba.conf
    chmod 700 data
    chown -R postgres .
    pg_controldata data
"""
# Without what the recovery alone needed, every page as its checksum has it, and durable: the server wrote without that.
_CLOSE: Final = """
    set -e
    cd "$0"
    owner=$1
    shift
    # Older ones have no -f.
    flush() { if sync --help 2>&1 | grep -q -e -f; then sync -f .; else sync; fi; }
    rm -f backup_label.old tablespace_map.old backup_manifest recovery.signal postmaster.opts
    for each; do rm -f "pg_wal/$each"; done
    flush
    pg_controldata .
    pg_controldata . | grep -q '^Data page checksum version: *0$' || pg_checksums --check -D . >/dev/null
    chown -R "$owner" .
    flush
"""
_CLOSED: Final = re.compile(r"^Database cluster state: *shut down$", re.MULTILINE)
_TIMELINE: Final = re.compile(r"^Latest checkpoint's TimeLineID: *(\d+)$", re.MULTILINE)
_CHECKSUMS: Final = re.compile(r"^Data page checksum version: *[1-9]", re.MULTILINE)
_COMMIT_TIMES: Final = re.compile(r"^track_commit_timestamp setting: *on$", re.MULTILINE)
_SHUTTING_DOWN: Final = 600
_PREPARING: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
_PREPARED: Final = re.compile(r"max_prepared_xacts setting:\s*(\d+)")
_LEAST_PREPARED: Final = 100
# pg_dump locks every table at once. They share one table of locks, of which each transaction that may be has its part.
_LOCKS: Final = 8192 * 20
_READY: Final = "database system is ready to accept connections"
_STOPPED: Final = re.compile(r'recovery stopping after (?:WAL location \(LSN\) "([0-9A-F/]+)"|reaching consistency)')
_SHORT: Final = "recovery ended before configured recovery target was reached"


@dataclass(frozen=True)
class RecoveryPlaces:
    """Makes places to recover a cluster in: containers of `image` (an id, `shown` as its name).

    `mount` is the spool for helpers, `writable` for the server's socket. `lock_timeout`, `stall`: as in PostgresSource.
    `data`: where its data are to lie, if not in a place of their own.
    """

    engine: Engine
    image: str
    shown: str
    spool: Path
    mount: SpoolMount
    writable: SpoolMount
    instance: str
    lock_timeout: int
    stall: int
    data: SpoolMount | None = None

    def sweep(self) -> None:
        """Remove what dead runs left. Only under the lock."""
        self.engine.sweep_helpers(self.instance)
        sweep_spool(self.spool, self.instance)

    @contextlib.contextmanager
    def prepare(self, run: str) -> Iterator[Recovery]:
        """A new place, removed with all that is in it when the body ends."""
        labels = {LABEL: self.instance, LABEL_RUN: run, LABEL_ROLE: ROLE}
        try:
            yield Recovery(self, RecoveryVolume(self.engine, self.image, self.shown, labels, self.data), run)
        finally:
            # By its label, so also when a signal came before there was a name for it.
            with contextlib.suppress(EngineError):
                self.engine.sweep_helpers(self.instance, run)


@dataclass(frozen=True)
class ClosedCluster:
    """A recovered cluster that was shut down, on this timeline. `checked`: every page fits its checksum."""

    timeline: int
    checked: bool


class Recovery:
    """One cluster on its way back. `unpack` its WAL and its base, look at the `commits`, `start` the server.

    What is to live on is then `close`d.
    """

    def __init__(self, places: RecoveryPlaces, volume: RecoveryVolume, run: str) -> None:
        self._places, self._volume, self._run = places, volume, run
        self.way = f"a server of {volume.shown} without a network"
        self._server: RecoveryServer | None = None

    def require_space(self, needed: int) -> None:
        """NoSpace unless there is room for so many bytes."""
        free = self._volume.free()
        if free < needed + SPARE:
            raise NoSpace(
                f"the recovery takes about {size(needed + SPARE)} where the engine keeps its volumes, and {size(free)}"
                " are free; it was not started, so that the live database does not run out of space",
                "Free space there (`docker system df` shows what is used), then run this again.",
            )

    def unpack_base(self, links: Sequence[Iterable[bytes]]) -> None:
        """Unpack a base: the tars of the full one and of each that builds on the one before.

        As `unpack`; IntegrityError unless they become one, EngineError where something is wanting for that.
        """
        if len(links) == 1:
            self.unpack(links[0])
            return
        folders = [f"{CHAIN_FOLDER}/{number}" for number in range(len(links))]
        for folder, tar in zip(folders, links, strict=True):
            self.unpack(tar, folder=folder)
        with self._pipe() as pipe:
            words = [self._inside(pipe.path), DATA, *folders]
            with self._started(COMBINE, words, _PREPARING) as helper:
                with ProcessOutput(helper, pipe, "pg_combinebackup", self._places.stall, tells=True) as program:
                    try:
                        for _ in program.chunks():
                            pass
                    except DumpFailed as error:
                        if helper.running():
                            raise stalled(error) from error
                        raise uncombined(helper.wait(), helper.errors()) from error

    def unpack(self, tar: Iterable[bytes], *, into_wal: bool = False, folder: str = "") -> None:
        """Unpack a tar as it comes; what the pieces raise, or EngineError for what does not fit."""
        into = PG_WAL if into_wal else f"{DATA}/{folder}"
        try:
            with self._pipe() as pipe, self._started(_UNPACK, [self._inside(pipe.path), into]) as helper:
                with ProcessInput(helper, pipe, "tar", self._places.stall) as program:
                    for piece in tar:
                        program.write(piece)
                    program.finish(b"")
        except LoadFailed as error:
            raise EngineError(
                f"unpacking for the recovery failed: {error.message}. Nothing was published",
                "Is there room where the engine keeps its volumes? `docker system df` shows what is used.",
            ) from error

    def commits(self, start: str, timeline: int, segment: int, until: int) -> Iterator[Commit]:
        """The commits in the WAL from `start` on, in its order. IntegrityError at the end if that is not whole.

        `until` is how far it was received; `segment` the size of one in bytes.
        """
        for line in self._dumped(COMMITS, start, timeline, segment, until):
            if commit := parse_commit(line):
                yield commit

    def deletions(self, start: str, timeline: int, segment: int, until: int) -> Iterator[str]:
        """The lines of pg_waldump that tell of deleted rows and of the ends of transactions; else as `commits`."""
        return self._dumped(DELETIONS, start, timeline, segment, until)

    def _dumped(self, script: str, start: str, timeline: int, segment: int, until: int) -> Iterator[str]:
        with self._pipe() as pipe:
            words = [self._inside(pipe.path), PG_WAL, str(timeline), start, tail_start(start, until, segment)]
            words += file_behind(timeline, until, segment)
            with self._started(script, words) as helper:
                with ProcessOutput(helper, pipe, "pg_waldump", self._places.stall, tells=True) as output:
                    yield from lines_of(output.chunks())
                    require_whole(helper.errors(), segment, until)

    @contextlib.contextmanager
    def start(
        self, stop: Commit | None, login: Login, major: int, preload: Preload, taken: Sequence[int] = ()
    ) -> Iterator[tuple[PostgresSource, Callable[[Callable[[int], None]], None]]]:
        """Start the server that recovers up to a commit, or to where the base ended; and how to wait for it.

        `login` names the role and the database; `taken` are timelines behind the base's: its own is none of them.
        """
        places, (prepared, lasting) = self._places, self._prepared(taken)
        sockets = places.spool / f"{places.instance}.{secrets.token_hex(8)}.{SOCKETS}"
        try:
            sockets.mkdir(mode=0o770)
            sockets.chmod(0o770)
            group = sockets.stat().st_gid
            settings = {
                **_settings(stop, prepared, major),
                # Else what it knows of the times of commits would be removed.
                **(lasting if places.data else {}),
                **preloading(preload, login.name),
                "unix_socket_directories": self._inside(sockets),
                "unix_socket_group": str(group),
            }
            self._server = server = self._volume.serve(settings, places.writable, group)
            there = Login(str(sockets), 5432, login.user, login.name)
            clients = HelperClients(
                places.engine, server.container, there, places.spool, places.mount, places.instance, places.stall
            )
            source = PostgresSource(
                there, clients, places.instance, places.lock_timeout, places.stall, places.shown, places.image
            )
            yield source, lambda progress: _wait(server, there, stop, places.stall, progress)
        finally:
            remove_spooled(sockets)

    def close(self, owner: str, taken: Sequence[int]) -> ClosedCluster:
        """Shut the server down, remove what only the recovery needed, check every page, and make it durable.

        `owner` (uid:gid) gets the files. IntegrityError for damaged pages.
        """
        if self._server is None:
            raise EngineError("the recovered server was not started")
        self._server.shut_down(_SHUTTING_DOWN)
        code, said, errors = self._worked(_CLOSE, [DATA, owner, *map(_history, taken)])
        timeline = _TIMELINE.search(said)
        if code or not _CLOSED.search(said) or timeline is None:
            raise IntegrityError(
                f"the recovered cluster is not sound, or was not shut down: {printable(errors[-300:])}. Nothing live"
                " was touched",
                EARLIER,
            )
        return ClosedCluster(int(timeline[1]), bool(_CHECKSUMS.search(said)))

    def _worked(self, script: str, words: Sequence[str]) -> tuple[int, str, str]:
        """Exit code, output and last words of a script that changes owners."""
        with self._started(script, words, _PREPARING) as helper:
            said = "\n".join(helper.lines())
            code, errors = helper.wait(), helper.errors()
            helper.close()
        return code, said, errors

    def _prepared(self, taken: Sequence[int]) -> tuple[int, dict[str, str]]:
        """Make all of it the server's; how many prepared transactions it may have, and settings that it must keep."""
        code, said, errors = self._worked(_PREPARE, [PLACE, *map(_history, taken)])
        if code or not (found := _PREPARED.search(said)):
            raise EngineError(
                f"the base of the recovery cannot be used with {self._volume.shown}: {printable(errors[-300:])}",
                "Is it an image of PostgreSQL's official kind, of the base's major version?",
            )
        lasting = {"track_commit_timestamp": "on"} if _COMMIT_TIMES.search(said) else {}
        return max(int(found[1]), _LEAST_PREPARED), lasting

    def _pipe(self) -> Pipe:
        return Pipe(self._places.spool / f"{self._places.instance}.{self._run}.fifo")

    def _inside(self, path: Path) -> str:
        return str(HelperClients.inside / path.name)

    @contextlib.contextmanager
    def _started(self, script: str, words: Sequence[str], caps: Sequence[str] = ()) -> Iterator[Helper]:
        # In a thread: a signal's exception would lose the helper that is just being made.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(int).result()
            helper = aside.submit(self._volume.run, script, words, self._places.mount, caps).result()
        try:
            yield helper
        except BaseException:
            with contextlib.suppress(BackupError):
                helper.close()
            raise


def _history(timeline: int) -> str:
    """The file by which a server sees that there was such a timeline."""
    return f"{timeline:08X}.history"


def _settings(stop: Commit | None, prepared: int, major: int) -> Mapping[str, str]:
    """What makes the server stop there, and act on nothing outside of itself."""
    target = {"recovery_target": "immediate"}
    if stop:
        target = {"recovery_target_lsn": lsn_text(stop.lsn), "recovery_target_inclusive": "on"}
    return {
        **target,
        "config_file": f"{PLACE}/postgresql.conf",
        "hba_file": f"{PLACE}/pg_hba.conf",
        "ident_file": f"{PLACE}/pg_ident.conf",
        "recovery_target_action": "promote",
        "recovery_target_timeline": "current",
        "restore_command": "false",
        # Nobody enters before it has stopped where it was told to.
        "hot_standby": "off",
        "wal_level": "replica",
        "archive_command": "",
        "max_prepared_transactions": str(prepared),
        "max_locks_per_transaction": str(max(64, _LOCKS // (20 + prepared))),
        # Subscriptions must not look for their publishers.
        "max_logical_replication_workers": "0",
        "huge_pages": "off",
        "ssl": "off",
        "port": "5432",
        "unix_socket_permissions": "0770",
        "log_destination": "stderr",
        **({"log_startup_progress_interval": "1s"} if major >= 15 else {}),
    }


def _wait(
    server: RecoveryServer, login: Login, stop: Commit | None, stall: int, progress: Callable[[int], None]
) -> None:
    """Until it has recovered, as long as it gets on; EngineError or IntegrityError unless it stopped where asked."""
    seen: list[str] = []
    moved = time.monotonic()
    while True:
        said = server.log()
        if any(_READY in line for line in said):
            break
        if any(_SHORT in line for line in said):
            raise _elsewhere(stop, "its WAL ends before")
        server.require_running()
        # Not how many lines: of a long log only the last ones are there.
        if said[-1:] != seen:
            seen, moved = said[-1:], time.monotonic()
        if time.monotonic() - moved > stall:
            raise EngineError(
                f"the recovery got no further for {stall} s and was ended: {printable(said[-1] if said else '')}."
                " Nothing was published",
                "Is the machine overloaded? BACKUP_STALL_TIMEOUT sets the limit.",
            )
        progress(0)
        time.sleep(_PAUSE)
    stops = [match for line in said if (match := _STOPPED.search(line))]
    where = stops[-1][1] if stops else ""
    if not stops or (lsn(where) if where else None) != (stop.lsn if stop else None):
        raise _elsewhere(stop, f"it stopped at {where or 'an unknown place'}")
    with maintenance(login, "recovery") as connection:
        if connection.execute("SELECT pg_is_in_recovery()").fetchall() != [(False,)]:
            raise _elsewhere(stop, "it is still recovering")


def _elsewhere(stop: Commit | None, why: str) -> IntegrityError:
    asked = lsn_text(stop.lsn) if stop else "the end of the base"
    return IntegrityError(
        f"the server did not recover to {asked}: {why}. Nothing was published",
        EARLIER,
    )
