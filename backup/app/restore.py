"""Settings → what a restore works with."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.app.composition import App, address_of
from backup.docker.application import Application
from backup.docker.container import Container, mount_source
from backup.docker.database_server import DatabaseServer
from backup.docker.engine import Engine, same_mount
from backup.errors import BackupError, ConfigError
from backup.formatting import printable
from backup.logging import redacting
from backup.media.helper import FILES_ROLE, FileTrees, InHelper, in_child
from backup.media.volumes import NO_VOLUMES
from backup.model.run import new_run_id
from backup.operations.load_sessions import MOST
from backup.operations.restore.context import RestoreContext
from backup.postgres.availability import Way
from backup.postgres.session import Login
from backup.progress import Progress

# An application whose database is in its own container cannot be asked from here.
_ITSELF: Final = ("localhost", "127.0.0.1", "::1")


def restore_context(app: App, progress: Progress) -> RestoreContext:
    """What restores and undos work with. Nothing is contacted before it is asked for."""
    return _Restoring(app, progress).context()


class _Restoring:
    def __init__(self, app: App, progress: Progress) -> None:
        self._app, self._settings, self._progress = app, app.settings, progress
        self._met = False

    def context(self) -> RestoreContext:
        app, settings = self._app, self._settings
        present = app.create_context(self._progress)
        if settings.db_service in settings.restore_stop or settings.db_host in settings.restore_stop:
            raise ConfigError(
                "BACKUP_RESTORE_STOP names the database's own service, which a restore needs running",
                "Name the services that use it.",
            )
        return RestoreContext(
            catalog=app.catalog,
            records=app.records,
            lock=app.lock,
            zone=settings.zone,
            volumes=settings.volumes,
            spool=self._spool(),
            instance=app.instance(),
            # A safety set saves what is there, however little that is.
            create_context=replace(present, allow_empty=[*present.allow_empty, NO_VOLUMES, *self._app.volume_names()]),
            source=self._app.source,
            trees=self._trees,
            reach=self._reach,
            application=self._application,
            mounts=self._mounts,
            way=self._way,
            server=lambda place: DatabaseServer(Engine(), place, app.labels()),
            server_free=self._server_free,
            stops=settings.restore_stop,
            commands=_commands(settings.post_restore),
            command_seconds=settings.post_restore_timeout,
            days=settings.undo_days,
            jobs=self._jobs,
            progress=self._progress,
        )

    def _spool(self) -> Path:
        """Where pipes to what unpacks archives lie: a child of ours sees all, a helper what both have mounted."""
        found = self._engine()
        if found is None or found[1] is None:
            return self._app.network_spool()
        return self._settings.spool

    def _engine(self) -> tuple[Engine, Container | None, str] | None:
        """None where there is none. One that has answered and does not now was lost: nothing may be done without it."""
        try:
            engine = Engine()
        except BackupError:
            if self._met:
                raise
            return None
        self._met = True
        return engine, *self._app.surroundings(engine)

    def _trees(self) -> FileTrees:
        found = self._engine()
        volumes = self._settings.volumes
        if found is None or found[1] is None:
            return FileTrees(volumes, in_child, self._progress.advance)
        engine, own = found[0], found[1]
        # One that outlived its sidecar would hold on to the trees. Whoever asks holds the lock.
        engine.sweep_helpers(self._app.instance(), role=FILES_ROLE)
        runner = InHelper(
            engine,
            own.image_id,
            lambda folder: same_mount(own, folder, writable=False),
            lambda volume: same_mount(own, volumes / volume, writable=True),
            self._app.instance(),
            new_run_id(datetime.now(UTC)),
        )
        return FileTrees(volumes, runner, self._progress.advance)

    def _reach(self, folder: Path) -> None:
        """A plan asks, also beside a restore under way: nothing is swept."""
        found = self._engine()
        if found and found[1]:
            same_mount(found[1], folder, writable=False)

    def _application(self) -> Application | None:
        found = self._engine()
        if found is None:
            return None
        engine, own, project = found
        database = filter(None, (self._settings.db_service, self._settings.db_host))
        return Application(engine, project, own, tuple(database)) if project else None

    def _mounts(self) -> Collection[str]:
        """What the engine calls the volumes: by name, or by the directory of the host."""
        found, volumes = self._engine(), self._settings.volumes
        own = found[1] if found else None
        if own is None:
            return [str(volumes / name) for name in self._app.volume_names()]
        mounts = [m for m in own.mounts if Path(str(m.get("Destination"))).is_relative_to(volumes)]
        return [mount_source(mount) for mount in mounts]

    def _way(self) -> Way | None:
        """As the containers tell that commands are run in, or else those that are stopped."""
        found, application = self._engine(), self._application()
        if found is None or application is None:
            return None
        commands = {service for service, _ in _commands(self._settings.post_restore)}
        asked = application.running(commands, ()) if commands else []
        asked += application.running(self._settings.restore_stop, self._mounts())
        named = next((each.database for each in asked if each.database), None)
        if named is None or named.host in _ITSELF:
            return None
        there, login = application.called(named.host), self._app.source().login
        redacting([named.password], filter(None, [named.user, named.name, named.host]))
        return Way(
            Login(
                host=address_of(there, found[1]) if there else named.host,
                port=named.port,
                user=named.user or login.user,
                name=named.name or login.name,
                password=named.password or (login.password if named.user in ("", login.user) else ""),
            ),
            database=login.name,
            place=f"{named.host}:{named.port}",
        )

    def _jobs(self) -> int:
        """As is set, or as the database's container has cores, or this one."""
        found, limit = self._engine(), 0
        if found and not self._settings.load_jobs:
            with contextlib.suppress(BackupError):
                limit = self._app.database_container(found[0]).cores
        return min(MOST, limit) or self._app.load_jobs

    def _server_free(self) -> tuple[int, int] | None:
        found = self._engine()
        if found is None:
            return None
        with contextlib.suppress(BackupError):
            container = self._app.database_container(found[0])
            return found[0].free(container, container.pgdata, self._app.labels())
        return None


def _commands(text: str) -> tuple[tuple[str, str], ...]:
    """`service: command` of each line."""
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        service, colon, command = (part.strip() for part in line.partition(":"))
        if not (service and colon and command):
            raise ConfigError(
                f"BACKUP_POST_RESTORE: {printable(line)!r} is not `service: command`",
                "Such as `web1: cd src && python manage.py migrate --noinput`; one per line.",
            )
        found.append((service, command))
    return tuple(found)
