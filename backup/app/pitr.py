"""Settings → what receives WAL and takes base backups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backup.app.composition import App
from backup.catalog.wal_archive import WAL, WalArchive
from backup.errors import ConfigError
from backup.model.wal import WalSlot
from backup.operations.pitr.base import BaseContext
from backup.operations.pitr.receive import ReceiveContext, WalSource
from backup.postgres.clients import HelperClients
from backup.postgres.receiver import Receiver
from backup.postgres.replication import ServerWal, server_wal
from backup.postgres.server import standing
from backup.postgres.wal_rights import receiver_name
from backup.postgres.wal_slot import hold_wal, slot_name
from backup.progress import Progress
from backup.storage.filesystem import storing


def receive_context(main: App, wait: Callable[[float], bool]) -> ReceiveContext:
    """What receiving works with, until `wait` says that it is to end. ConfigError while BACKUP_PITR is off."""
    settings = main.settings
    if settings.pitr == "off":
        raise ConfigError("BACKUP_PITR is off: no WAL is received", "Set BACKUP_PITR=on.")
    return ReceiveContext(
        root=settings.root,
        database=lambda: _database(main),
        wait=wait,
        recipients=main.recipients,
    )


def base_context(main: App, progress: Progress) -> BaseContext:
    """What a base backup works with. ConfigError while BACKUP_PITR is off."""
    settings = main.settings
    if settings.pitr == "off":
        raise ConfigError(
            "BACKUP_PITR is off: no WAL is received, so that a base backup would be worth nothing",
            "Set BACKUP_PITR=on.",
        )
    return BaseContext(
        catalog=main.catalog,
        records=main.records,
        lock=main.lock,
        progress=progress,
        source=main.source,
        days=settings.pitr_days,
        level=settings.compression,
        patience=settings.stall_timeout,
        recipients=main.recipients,
    )


def _database(main: App) -> WalSource:
    source = main.source()
    clients = source.clients
    name = receiver_name(main.instance())

    def ask() -> ServerWal:
        return server_wal(source.login, name)

    @contextmanager
    def receive(archive: WalArchive) -> Iterator[Receiver]:
        clients.check(standing(source.login))
        with clients.receiver(_folder(main.settings.root), f"{archive.system_identifier}/stream", name) as receiver:
            yield receiver

    def hold(place: int) -> WalSlot | None:
        return hold_wal(source.login, slot_name(source.instance), place) if source.slot else None

    identity, called = (source.login.host, str(source.login.port)), source.login.host
    if isinstance(clients, HelperClients):
        identity, called = (clients.beside.id, clients.beside.started), clients.beside.service or clients.beside.name
    return WalSource(identity, ask, receive, hold, called)


def _folder(root: Path) -> Path:
    folder = root / WAL
    with storing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
