"""What the HTTP service shows, and to whom: from settings and the volume to what `backup.web` is given."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import datetime

from backup.catalog import Catalog
from backup.config import Settings
from backup.errors import BackupError
from backup.health import SchedulerState
from backup.operations.status import status
from backup.overview import Overview, Storage
from backup.records import Records, Run
from backup.schedule import upcoming
from backup.sets import StoredSet
from backup.web.guard import Access


def access_for(settings: Settings) -> Access:
    """Who may ask: by the names that are set and the container's own, with the login that is set."""
    secrets = {"token": settings.http_token, "password": settings.http_password}
    return Access.of(
        [*settings.http_allowed_hosts, socket.gethostname(), settings.http_host],
        user=settings.http_user or "",
        **{name: value.get_secret_value() if value else "" for name, value in secrets.items()},
    )


def overview(
    settings: Settings,
    catalog: Catalog,
    records: Records,
    now: datetime,
    *,
    scheduler: SchedulerState | None = None,
    since: datetime | None = None,
    first: Run | None = None,
) -> Overview:
    """What the volume tells without a judgement of its own: no clocks, no tiers, no forecast."""
    health = status(settings, catalog, records, now, scheduler=scheduler, since=since, first=first)
    sets: list[StoredSet] = []
    runs: list[Run] = []
    with suppress(BackupError):  # a reason of `health`
        sets, runs = catalog.sets(), records.all()
    newest = tuple(sorted(sets, key=lambda stored: (stored.time, stored.id), reverse=True))
    storage = Storage(sum(stored.size for stored in sets), None, None)
    jobs = {"daily": settings.daily, "weekly": settings.weekly, "monthly": settings.monthly, "drill": settings.drill}
    slots = tuple(upcoming(jobs, now, settings.zone))
    return Overview(health, now, settings.zone, (), (), newest, tuple(runs), storage, slots)
