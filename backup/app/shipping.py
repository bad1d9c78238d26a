"""Settings → what sends WAL and base backups to the places of copies. It runs all the time, so it imports little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from typing import Final

from backup.app.places import contexts
from backup.app.volume import BackupVolume
from backup.errors import ConfigError
from backup.operations.pitr.ship import BaseShipper, ShipContext, Shipper
from backup.pipeline import age
from backup.progress import Silent

# Parts of each of two uploads at once: nobody waits for these, and all of them are in memory.
_PARTS: Final = 1


def shippers(main: BackupVolume, wait: Callable[[float], bool]) -> list[Shipper | BaseShipper]:
    """What sends WAL and base backups to each place, until `wait` says that it is to end. ConfigError for none."""
    settings = main.settings
    if settings.pitr == "off":
        raise ConfigError("BACKUP_PITR is off: there is no WAL to send", "Set BACKUP_PITR=on.")
    recipients = age.recipients(settings.age_recipients) if settings.encrypt != "off" else ()
    found: list[Shipper | BaseShipper] = []
    for place in contexts(main, Silent(), parallel=_PARTS):
        known = {each.name: getattr(place, each.name) for each in fields(place)}
        context = ShipContext(
            **known,
            every=settings.pitr_offsite_every,
            keep=timedelta(days=settings.pitr_days),
            wait=wait,
            recipients=recipients,
        )
        # Each has a connection of its own.
        found += [
            Shipper(context),
            BaseShipper(replace(context, remote=contexts(main, Silent(), place.place, parallel=_PARTS)[0].remote)),
        ]
    return found
