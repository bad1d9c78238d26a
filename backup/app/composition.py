"""Settings → live objects: the only place where concrete classes meet."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.app.creation import SetMaker
from backup.config.loader import Settings
from backup.docker.container import Container
from backup.docker.engine import LABEL, Engine, spool_mount
from backup.errors import BackupError, ConfigError, EngineError, StoreError
from backup.formatting import printable
from backup.logging import redacting
from backup.model.backup_set import StoredSet
from backup.model.run import new_run_id
from backup.operations.drill.run import DrillContext
from backup.operations.load_sessions import MOST
from backup.operations.runs import recover
from backup.postgres.clients import Clients, HelperClients, NetworkClients, sweep_spool
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import inspect
from backup.postgres.scratch_server import Places, Scratch, ThrowAway
from backup.postgres.session import Login
from backup.progress import Progress
from backup.storage import atomic_file, lock
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

_SOCKET: Final = Path("/var/run/docker.sock")


@dataclass(frozen=True)
class App(SetMaker):
    """Everything a command needs, from settings. Nothing is contacted before it is asked for."""

    @property
    def load_jobs(self) -> int:
        """How many sessions load a dump: as is set, or as this machine has cores."""
        return self.settings.load_jobs or min(MOST, len(os.sched_getaffinity(0)))

    def drill_context(self, progress: Progress, image: str = "") -> DrillContext:
        """What a drill works with; `image` replaces the set's own."""
        return DrillContext(
            catalog=self.catalog,
            records=self.records,
            lock=self.lock,
            places=lambda stored: self.places(stored, image),
            file_columns=self.settings.file_columns,
            jobs=self.load_jobs,
            progress=progress,
        )

    def places(self, stored: StoredSet, image: str = "") -> Places:
        """Where a set is tried; `image` replaces its own."""
        engine = self._engine()
        if isinstance(engine, EngineError):
            return self._scratch()
        part = stored.manifest.database
        wanted, shown = [image] if image else [part.image_id, part.image] if part else [], image
        if not wanted:
            server = self.database_container(engine)
            wanted, shown = [server.image_id], server.image
        found = next((identifier for name in wanted if (identifier := engine.image(name))), "")
        if not found:
            shown = printable(image or wanted[-1]) or "unknown, because that was over the network"
            raise EngineError(
                f"the image that {stored.id} was dumped with, {shown}, is not here",
                "Pull it (`docker pull`), or name another one of the same major version with --image.",
            )
        own = engine.own()
        self.private(self.settings.spool)
        mount = spool_mount(own, self.settings.spool, HelperClients.inside)
        return ThrowAway(
            engine, found, shown or wanted[-1], self.settings.spool, mount, self.instance(), self.settings.stall_timeout
        )

    def _scratch(self) -> Scratch:
        source = self._network(None)
        facts = source.inspect()

        def connect(name: str) -> Clients:
            clients = NetworkClients(
                replace(source.login, name=name), self.network_spool(), self.instance(), self.settings.stall_timeout
            )
            clients.check(facts.standing)
            clients.busy = lambda: bool(inspect(source.login))
            return clients

        return Scratch(connect, source.login, self.instance(), facts.server_version, new_run_id(datetime.now(UTC)))

    def labels(self) -> dict[str, str]:
        """What marks a container as ours."""
        return {LABEL: self.instance()}

    def surroundings(self, engine: Engine) -> tuple[Container | None, str]:
        """Our own container, if we are in one, and the Compose project."""
        own = engine.own()
        return own, self.settings.project or (own.project if own else "")

    def database_container(self, engine: Engine) -> Container:
        """The container of the database."""
        _, project = self.surroundings(engine)
        return engine.database(self.settings.db_host or self.settings.db_service, project)

    def recover(self) -> None:
        """Sweep what dead runs left, if nobody is at work."""
        with lock.hold(self.lock, "sweep", "start"):
            recover(self.catalog, self.records, datetime.now(UTC))
            self._sweep_clients()

    def _sweep_clients(self) -> None:
        """End clients of dead runs, which may hold locks in the database. Their label is enough to find them."""
        with contextlib.suppress(BackupError):
            Engine().sweep_helpers(self.instance())
            if self.settings.pitr == "off":  # one that was killed left it, before it was switched off
                Engine().sweep_receivers(self.instance())
            sweep_spool(self.settings.spool, self.instance())
        with contextlib.suppress(BackupError):
            self.source().sweep()

    def ready(self) -> None:
        """BackupError unless the database answers."""
        source = self.source()
        inspect(source.login)

    def source(self) -> PostgresSource:
        """The database, by the way that settings and surroundings allow."""
        settings = self.settings
        engine = self._engine()
        if isinstance(engine, EngineError):
            return self._network(engine)
        own, project = self.surroundings(engine)
        if settings.db_host and not engine.has(settings.db_host, project):
            return self._network(None)
        container = self.database_container(engine)
        login = _login(settings, _declared(engine, container), address_of(container, own))
        mount = spool_mount(own, settings.spool, HelperClients.inside)
        self.private(settings.spool)
        clients = HelperClients(
            engine, container, login, settings.spool, mount, self.instance(), settings.stall_timeout
        )
        return self._postgres(login, clients, container)

    @property
    def alone(self) -> bool:
        """Whether this is the network way on purpose: there is no engine, and none was given."""
        return bool(self.settings.db_host) and not _SOCKET.exists() and not os.environ.get("DOCKER_HOST")

    def _engine(self) -> Engine | EngineError:
        try:
            return Engine()
        except EngineError as error:
            if self.settings.db_host:
                return error
            raise ConfigError(
                f"{error.message}; and DB_HOST is not set, so there is no other way to the database", error.hint
            ) from error

    def _network(self, no_engine: EngineError | None) -> PostgresSource:
        settings = self.settings
        unset = [alias for alias, value in (("DB_NAME", settings.db_name), ("DB_USER", settings.db_user)) if not value]
        if unset:
            why = f" ({no_engine.message})" if no_engine else ""
            raise ConfigError(
                f"the network way to {settings.db_host} needs {' and '.join(unset)}{why}",
                "Set them in the environment of the backup service.",
            )
        login = _login(settings, {}, settings.db_host or "")
        clients = NetworkClients(login, self.network_spool(), self.instance(), settings.stall_timeout)
        source = self._postgres(login, clients)
        # Where there is no engine, drills make scratch databases; a killed one's must not wait for the next drill.
        return replace(source, scratch=lambda: self._scratch().sweep()) if no_engine else source

    def network_spool(self) -> Path:
        """Where pipes to our own children lie."""
        spool = Path(tempfile.gettempdir()) / "obcms-backup"
        self.private(spool)
        return spool

    def _postgres(self, login: Login, clients: Clients, container: Container | None = None) -> PostgresSource:
        redacting([login.password], [login.user, login.name, login.host])
        return PostgresSource(
            login=login,
            clients=clients,
            instance=self.instance(),
            lock_timeout=self.settings.lock_timeout,
            patience=self.settings.stall_timeout,
            image=container.image if container else "",
            image_id=container.image_id if container else "",
            in_wal=self.settings.pitr == "on",
            slot=self.settings.pitr == self.settings.pitr_slot == "on",
        )

    def instance(self) -> str:
        """The name of this backup volume, made once: it marks our helpers and sessions as ours."""
        store = LocalStore(self.settings.root / "state")
        if "instance" not in store.names():
            with storing(store.directory):
                store.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file.alone(store):  # another container may be making it at this moment; then its name counts
                if "instance" not in store.names():
                    atomic_file.replace(store, "instance", secrets.token_hex(6).encode())
        return store.read("instance").decode()

    @staticmethod
    def private(directory: Path) -> None:
        """Make a directory that is ours alone; its group may pass through to a socket in it."""
        with storing(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_uid != os.geteuid():
                raise StoreError(f"{directory} belongs to another user", "This container's user must own it.")
            directory.chmod(0o710)


def _declared(engine: Engine, container: Container) -> dict[str, str]:
    """What the database's container itself says of user, password and database (the official image's variables)."""
    values = {}
    for name in ("POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"):
        if value := container.environment.get(name):
            values[name] = value
        elif file := container.environment.get(f"{name}_FILE"):
            values[name] = engine.read_file(container, file)
    return values


def _login(settings: Settings, declared: dict[str, str], host: str) -> Login:
    user = settings.db_user or declared.get("POSTGRES_USER") or "postgres"
    password = settings.db_password.get_secret_value() if settings.db_password else declared.get("POSTGRES_PASSWORD")
    return Login(
        host=host,
        port=settings.db_port,
        user=user,
        name=settings.db_name or declared.get("POSTGRES_DB") or user,
        password=password or "",
    )


def address_of(container: Container, own: Container | None) -> str:
    """An address of a container on a network that we share with it; no name can be ambiguous."""
    shared = [address for name, address in container.addresses.items() if own is None or name in own.addresses]
    addresses = shared or list(container.addresses.values())
    if not addresses:
        raise ConfigError(
            f"the container {container.shown} has no address on any network",
            "Put it and the backup service on one network.",
        )
    return addresses[0]
