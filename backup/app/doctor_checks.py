"""Settings → the checks of `doctor`: the facts are gathered here, what is said of them in operations/doctor.

To add a check, add a method that yields lines, and its name to `checks`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.app.alerts import send_test
from backup.app.composition import App
from backup.app.places import bucket_options, contexts, memory
from backup.app.recovery import NEEDS_ENGINE, official_image
from backup.app.restore import restore_context
from backup.catalog.scheduler_state import ScheduleFile
from backup.catalog.wal_archive import clusters
from backup.config import loader
from backup.config.loader import Settings
from backup.docker.container import Container, mount_source
from backup.docker.engine import Engine, spool_mount
from backup.docker.permissions import engine_rights
from backup.errors import BackupError, EngineError, KeyMissing
from backup.formatting import plural, printable
from backup.logging import is_public
from backup.media import archive_tree
from backup.model import schedule
from backup.model.backup_set import filled_volumes, present
from backup.model.finding import Finding, failure, ok, warning
from backup.monitoring import alerts
from backup.monitoring.alerts.destinations import targets
from backup.monitoring.forecast import next_set
from backup.monitoring.health import newest_database
from backup.operations.doctor import Check, NotChecked, SharedFact, examine, findings
from backup.operations.doctor import moments as told_moments
from backup.operations.doctor.findings import Keys, Measured
from backup.operations.doctor.savings import savings
from backup.operations.doctor.settings import Setting
from backup.operations.doctor.settings import settings as settings_in_force
from backup.operations.jobs import find_supercronic, jobs
from backup.operations.missed_runs import reasons
from backup.operations.offsite.context import list_remote_sets
from backup.operations.pitr.window_reader import left_slots, read_window
from backup.operations.status import offsite, restoring
from backup.pipeline import age
from backup.postgres.clients import HelperClients
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import DatabaseFacts, DatabaseRights, inspect, login_rights
from backup.postgres.replication import cluster_facts, replication_refusal
from backup.postgres.wal_rights import wal_rights
from backup.postgres.wal_slot import slot_name, wal_slots
from backup.progress import Silent
from backup.storage.filesystem import disk_space, in_memory, storing
from backup.storage.s3 import open_bucket
from backup.storage.s3.bucket_setup import check_bucket

# Counting the files of a large volume takes its time.
_COUNTING: Final = 300.0
_TRYING: Final = 60.0
_NEW: Final = "new, no run yet"
_NO_OFFSITE: Final = "no offsite copies: if this machine is lost, all sets are lost"
_SET_OFFSITE: Final = "Set AWS_S3_BACKUP_BUCKET for a bucket, or BACKUP_COPY_DIR for a folder on another disk."


@dataclass(frozen=True)
class _Looking(App):
    """The product's objects for one who only looks: the backup volume is given no name, if it has none yet."""

    def instance(self) -> str:
        """See App."""
        return _marker(self.settings.root) or "none"


@dataclass(frozen=True)
class _Around:
    """The engine, our own container, the project's name and its containers."""

    engine: Engine
    own: Container | None
    project: str
    containers: Sequence[Container]

    def ours(self, container: Container) -> bool:
        """Whether it is a container of this product."""
        own = self.own
        return own is not None and own.image_id == container.image_id


def diagnose(
    settings: Settings, command: Sequence[str], *, notify: bool, put: bool = False
) -> tuple[list[Finding], list[Setting]]:
    """All lines, and all settings. `command` is the argv prefix that runs our CLI."""
    doctor = _Doctor(settings, command)
    return examine(doctor.checks(notify=notify, put=put)), doctor.settings()


class _Doctor:
    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self._app, self._settings, self._command = _Looking(settings), settings, command
        self._around = SharedFact(self._look_around, "the engine")
        self._source = SharedFact(self._app.source, "the database")
        self._facts: SharedFact[DatabaseFacts] = SharedFact(lambda: inspect(self._source.get().login), "the database")
        self._rights: SharedFact[DatabaseRights] = SharedFact(
            lambda: login_rights(self._source.get().login), "the database"
        )
        self._volumes = SharedFact(self._measure, "the volumes")
        self._sets = SharedFact(self._app.catalog.sets, "the sets")

    def checks(self, *, notify: bool, put: bool) -> list[Check]:
        """In the order in which they are told."""
        return [
            Check("engine", self._engine),
            Check("database", self._database),
            Check("client", self._client),
            Check("rights", self._database_rights),
            Check("moments", self._moments if self._settings.pitr == "on" else self._slots_left),
            Check("volumes", self._volume_lines, _COUNTING),
            Check("mounts", self._mounts, _COUNTING),
            Check("backups", self._backups),
            Check("space", self._space, _COUNTING),
            Check("clock", self._clock),
            Check("schedule", self._schedule),
            Check("service", self._service),
            Check("restore", self._restore),
            Check("alerts", self._alerts),
            *([Check("alerts", self._try, 2 * _TRYING)] if notify else []),
            Check("offsite", lambda: self._offsite(put=put), _COUNTING),
            Check("encryption", self._encryption),
        ]

    def settings(self) -> list[Setting]:
        """What is in force; the database's by its container where there is one."""
        found: dict[str, tuple[str, str]] = {}
        # The checks have asked; whoever hangs is not waited for a second time.
        if (database := self._source.known()) and self._database_container(database):
            login, container = database.login, self._database_container(database)
            where = f"container {container.name if container else ''}"
            found = {"DB_NAME": (login.name, where), "DB_USER": (login.user, where)}
            found["DB_PASSWORD"] = ("***" if login.password else "", where)
        return settings_in_force(self._settings, loader.origin, found)

    def _engine(self) -> Iterator[Finding]:
        try:
            yield from findings.engine(engine_rights(Engine()))
        except EngineError as error:
            network = bool(self._settings.db_host)
            yield findings.no_engine(error.message, error.hint, network=network, wanted=not self._app.alone)

    def _look_around(self) -> _Around:
        engine = Engine()
        own, project = self._app.surroundings(engine)
        return _Around(engine, own, project, engine.containers(project) if project else [])

    def _database(self) -> Iterator[Finding]:
        if not self._settings.db_host:
            self._around.borrow()  # there is no other way, and the engine's own line says so
        yield from findings.database(self._facts.get(), self._source.get().clients.way)
        login = self._source.get().login
        yield from findings.password(login.user, public=bool(login.password) and is_public(login.password))

    def _client(self) -> Iterator[Finding]:
        clients = self._source.borrow().clients
        facts = self._facts.borrow()
        clients.check(facts.standing)
        yield findings.client(facts, beside=isinstance(clients, HelperClients))

    def _database_rights(self) -> Iterator[Finding]:
        yield from findings.database_rights(self._facts.borrow(), self._rights.get())

    def _moments(self) -> Iterator[Finding]:
        """Whether WAL can be received, base backups taken, and all of it kept."""
        settings, now = self._settings, datetime.now(UTC)
        source = self._source.borrow()
        self._facts.borrow()  # a database that does not answer is told elsewhere
        cluster, window = cluster_facts(source.login), read_window(settings, settings.root, now)
        streaming = told_moments.is_streaming(window, now)
        rights, network = wal_rights(source.login), not isinstance(source.clients, HelperClients)
        refused = replication_refusal(source.login) if network else None
        yield from told_moments.server(rights, cluster.tablespaces, streaming=streaming, refused=refused)
        yield from told_moments.slot(wal_slots(source.login), slot_name(source.instance), wanted=source.slot)
        yield from left_slots(clusters(settings.root), cluster.system_identifier)
        yield from told_moments.increments(cluster)
        yield told_moments.room(window, disk_space(settings.root)[0], cluster.bytes, now)
        if network:
            yield self._recovery(official_image(cluster.server_version))

    def _recovery(self, image: str) -> Finding:
        """Whether what is received over the network can be recovered here. ConfigError without a spool."""
        try:
            engine = Engine()
        except EngineError:
            return warning(told_moments.RECEIVED_ALONE, NEEDS_ENGINE)
        spool_mount(engine.own(), self._settings.spool, HelperClients.inside)
        return told_moments.recovery(image, there=bool(engine.image(image)))

    def _slots_left(self) -> Iterator[Finding]:
        """What point-in-time recovery has left on the server, before it was switched off."""
        with contextlib.suppress(NotChecked):
            self._facts.borrow()
            source = self._source.borrow()
            yield from told_moments.slot(wal_slots(source.login), slot_name(source.instance), wanted=False)

    def _measure(self) -> list[Measured]:
        root, settings = self._settings.volumes, self._settings
        names = [name for name in self._app.volume_names() if (root / name).is_dir()]
        called = self._called()
        found = []
        for name in names:
            where = called.get(str(root / name), str(root / name))
            try:
                tree = archive_tree.measure_tree(root / name, [*archive_tree.DEFAULT_EXCLUDES, *settings.excludes])
                found.append(Measured(name, tree.files, tree.bytes, source=where))
            except (BackupError, OSError) as error:
                found.append(Measured(name, problem=str(error), source=where))
        return found

    def _volume_lines(self) -> Iterator[Finding]:
        filled = filled_volumes(self._sets.get())
        yield from findings.volumes(self._volumes.get(), self._settings.allow_empty, filled)

    def _called(self) -> Mapping[str, str]:
        """What the engine calls that which is mounted at each place of our own container."""
        with contextlib.suppress(BackupError, NotChecked):
            own = self._around.borrow().own
            return {str(mount.get("Destination")): mount_source(mount) for mount in own.mounts} if own else {}
        return {}

    def _mounts(self) -> Iterator[Finding]:
        if self._app.alone:
            yield ok("not compared with the application's: there is no engine to ask")
            return
        around = self._around.borrow()
        if not around.project:
            raise NotChecked("the name of the Compose project (BACKUP_PROJECT)")
        database = None
        with contextlib.suppress(NotChecked):
            database = self._database_container(self._source.borrow())
        images = {database.image_id} if database else set()
        servers = [c for c in around.containers if c.image_id in images]
        application = [c for c in around.containers if c.image_id not in images and not around.ours(c)]
        spared = {mount_source(mount) for c in servers for mount in c.mounts}
        yield from findings.mounts(self._volumes.borrow(), application, spared)

    def _database_container(self, found: PostgresSource) -> Container | None:
        if not isinstance(found.clients, HelperClients):
            return None
        with contextlib.suppress(BackupError, NotChecked):
            return self._app.database_container(self._around.borrow().engine)
        return None

    def _backups(self) -> Iterator[Finding]:
        root = self._settings.root
        self._app.require_volume()
        with storing(root), tempfile.TemporaryFile(dir=root) as file:  # without a name: nothing can be left
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        sets = self._sets.get()
        marker = _marker(root)
        marker = f"volume {marker}" if marker else _NEW
        yield from findings.volume(len(sets), sum(stored.good for stored in sets), marker, in_memory(root), str(root))
        live: tuple[str, ...] = ()
        with contextlib.suppress(NotChecked):
            live = self._facts.borrow().cautions
        yield from findings.cautions(sets, live)

    def _space(self) -> Iterator[Finding]:
        needed = None
        free, total = disk_space(self._settings.root)
        with contextlib.suppress(NotChecked):
            newest = newest_database(present(self._sets.get(), datetime.now(UTC)))
            volumes = {each.name: each.bytes for each in self._volumes.borrow()}
            if newest and newest.manifest.incremental and self._settings.media == "incremental":
                there = {part.name: part.bytes for part in newest.manifest.volumes}
                volumes = {name: max(0, count - there.get(name, 0)) for name, count in volumes.items()}
            needed = next_set(newest.manifest if newest else None, self._facts.borrow().size, volumes)
        yield from findings.space(free, total, needed, self._settings.min_free_gb * 1e9)
        with contextlib.suppress(BackupError):
            yield from savings(self._sets.get())

    def _clock(self) -> Iterator[Finding]:
        ahead = newest = None
        with contextlib.suppress(NotChecked):
            ahead = self._rights.borrow().ahead
        with contextlib.suppress(BackupError):
            moments = [run.started for run in self._app.records.all()]
            newest = max([*moments, *(stored.time for stored in self._sets.get())], default=None)
        yield from findings.clock(self._settings.zone, datetime.now(UTC), ahead, newest)

    def _schedule(self) -> Iterator[Finding]:
        settings, now = self._settings, datetime.now(UTC)
        find_supercronic()
        file, wanted, runs = ScheduleFile(settings.root), jobs(settings), self._app.records.readable()
        missed = reasons(file, file.read(now), runs, wanted, now, settings.zone)
        yield from findings.schedule(schedule.upcoming(wanted, now, settings.zone), settings.zone, missed)

    def _service(self) -> Iterator[Finding]:
        with contextlib.suppress(NotChecked):
            around = self._around.borrow()
            yield from findings.running(around.own, [c for c in around.containers if around.ours(c)])

    def _restore(self) -> Iterator[Finding]:
        yield from restoring(self._settings.root)
        with_engine = restore_context(self._app, Silent())
        application = with_engine.application()
        if application is None:
            yield findings.no_stop(on_purpose=self._app.alone)
            return
        application.require(with_engine.stops)
        stopped = application.running(with_engine.stops, with_engine.mounts())
        up = {service for service, _ in with_engine.commands if application.running([service], [])}
        yield from findings.check_restore(stopped, with_engine.commands, up)

    def _alerts(self) -> Iterator[Finding]:
        settings = self._settings
        waiting = alerts.reasons(settings.root, datetime.now(UTC))
        names = [target.name for target in targets(settings)]
        yield from findings.alerts(names, waiting, settings.heartbeat_url is not None)

    def _try(self) -> Iterator[Finding]:
        yield from findings.tried(send_test(self._app, self._command, _TRYING))

    def _offsite(self, *, put: bool) -> Iterator[Finding]:
        """Whether the places answer, and what health says of them. `put`: also what the bucket's key may do."""
        app, settings = self._app, self._settings
        if not settings.has_offsite:
            yield warning(_NO_OFFSITE, _SET_OFFSITE)
            return
        for place in contexts(app, Silent()):
            try:
                yield ok(f"{place.remote.name} answers; {plural(len(list_remote_sets(place.remote)), 'set')} there")
                if put and place.place == "s3":
                    for step in check_bucket(open_bucket(bucket_options(settings), memory(settings, quiet=True))):
                        yield ok(step.words) if step.state == "done" else warning(step.words, step.hint)
            except BackupError as error:
                yield failure(error.message, error.hint)
        _, found = offsite(settings, settings.root, self._sets.get(), app.records.all(), datetime.now(UTC))
        yield from found

    def _encryption(self) -> Iterator[Finding]:
        """Whether sets are encrypted, to whom, and whether anybody has opened one."""
        yield from findings.encryption(keys(self._settings), self._sets.get())


def keys(settings: Settings) -> Keys:
    """What the settings say of encryption; the identity file is opened, and nothing of it is shown."""
    trouble = ""
    if settings.age_identity:
        try:
            age.identities(settings.age_identity)
        except KeyMissing as error:
            trouble = error.message
    return Keys(
        encrypt=settings.encrypt,
        recipients=tuple(age.short_recipient(each) for each in settings.age_recipients),
        identity=printable(str(settings.age_identity or "")),
        trouble=trouble,
    )


def _marker(root: Path) -> str:
    """The name of the backup volume, which its first run gave it."""
    with contextlib.suppress(OSError):
        return (root / "state" / "instance").read_text().strip()
    return ""
