"""What every command does that the schedule starts: claim its slot, and say how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from backup.catalog.scheduler_state import Ledger
from backup.cli import base
from backup.config import loader
from backup.errors import ConfigError
from backup.logging import logger
from backup.operations.jobs import job_of, jobs
from backup.operations.scheduled_run import UNBOUND, Claim, fulfil


@contextlib.contextmanager
def fulfilling(argv: Sequence[str]) -> Iterator[Claim]:
    """For the body: hold the slot that this command line is for. Not `wanted` when that has been served already."""
    # Whatever sets may come while there is no good one: it is made, owed or not.
    first = list(argv[-2:]) == ["--trigger", "first"]
    job = job_of(argv[:-2] if first else argv)
    settings = None
    if job:
        with contextlib.suppress(ConfigError):  # the command itself says so
            settings = loader.load()
    if settings is None:
        yield UNBOUND
        return
    base.prepare(as_json=False)
    ledger = Ledger(settings.root)
    with fulfil(ledger, job, jobs(settings)[job], settings.zone, lambda: datetime.now(UTC), force=first) as claim:
        if claim.said:
            logger.info("{}", claim.said)
        yield claim
