"""What the service says of itself when it starts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from backup.config.loader import Settings
from backup.formatting import local_time
from backup.logging import logger
from backup.model.schedule import upcoming
from backup.operations.jobs import jobs
from backup.operations.offsite.rules import places, uploads
from backup.service.web.server import address


def tell_way(way: Callable[[], str]) -> None:
    """How the database is reached, if that is known."""
    if said := way():
        logger.info("database: {}", said)


def announce(settings: Settings) -> None:
    """What runs when, where it can be looked at, and where copies go."""
    slots = upcoming(jobs(settings), datetime.now(UTC), settings.zone)
    told = "; ".join(f"{slot.job} next {local_time(slot.times[0], settings.zone)}" for slot in slots)
    if told:
        logger.info("schedule: {}", told)
    else:
        logger.warning("schedule: every job is off; no backup starts by itself")
    logger.info("health: http://{0}/healthz, page: http://{0}/", address(settings.http_host, settings.http_port))
    for _, name in places(settings):
        follows = ", ".join(f"{tier} {when}" for tier, when in uploads(settings).items()) or "by hand only"
        logger.info("offsite: {}, uploads: {}", name, follows)
