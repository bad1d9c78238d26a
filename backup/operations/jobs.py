"""The scheduled jobs: their lines, their commands, and the records of their runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from backup.config.loader import Settings
from backup.config.types import AFTER
from backup.errors import BackupError
from backup.model.manifest import Tier
from backup.model.run import CREATE, Run
from backup.operations.offsite.rules import DRILL, OPERATIONS, PRUNE, VERIFY, uploads

# The uploads of these tiers.
_UPLOADS: Final = {f"upload-{tier}": tier for tier in (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.MANUAL)}
# Jobs that go on beside backups; a drill waits for the lock when it has fetched its set.
OFFSITE: Final = frozenset({*_UPLOADS, "offsite-verify", "offsite-prune", "offsite-drill"})
# What each job runs, after the program's own name.
JOB_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    **{str(tier): (CREATE, "--scheduled", str(tier)) for tier in (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)},
    Tier.SNAPSHOT: (CREATE, "--scheduled", Tier.SNAPSHOT),
    "base": ("base", "--scheduled"),
    "drill": ("drill", "--scheduled"),
    "cleanup": ("prune", "--scheduled"),
    "monitor": ("monitor", "--alert", "--scheduled"),
    "report": ("monitor", "--report", "--scheduled"),
    **{job: ("upload", "--scheduled", str(tier)) for job, tier in _UPLOADS.items()},
    "offsite-verify": ("offsite", "verify", "--scheduled"),
    "offsite-prune": ("offsite", "prune", "--scheduled"),
    "offsite-drill": ("drill", "--scheduled", "offsite:latest"),
}
# What runs of a job are called in their records, where that is not the command's own name.
_OPERATIONS: Final = {"report": "report", "offsite-drill": DRILL, "offsite-verify": VERIFY, "offsite-prune": PRUNE}
# These do not wait for the lock of the backup volume: they look and tell, or work beside those that hold it.
LOCKLESS: Final = frozenset({"monitor", "report", *OFFSITE})


def jobs(settings: Settings) -> dict[str, str]:
    """The scheduled jobs and their cron lines; empty for those that are off, and for offsite ones where no place is."""
    sent = uploads(settings)
    return {
        Tier.DAILY: settings.daily,
        Tier.WEEKLY: settings.weekly,
        Tier.MONTHLY: settings.monthly,
        Tier.SNAPSHOT: settings.media_every,
        "base": settings.pitr_base if settings.pitr == "on" else "",
        "drill": settings.drill,
        "cleanup": settings.cleanup,
        "monitor": settings.monitor,
        "report": settings.report,
        **{job: "" if sent.get(tier) == AFTER else sent.get(tier, "") for job, tier in _UPLOADS.items()},
        "offsite-verify": settings.offsite_verify if settings.has_offsite else "",
        "offsite-prune": settings.offsite_cleanup if settings.has_offsite else "",
        "offsite-drill": settings.offsite_drill if settings.has_offsite else "",
    }


def operation_of(job: str) -> str:
    """What runs of a job are called in their records."""
    return _OPERATIONS.get(job) or JOB_COMMANDS[job][0]


def tier_of(job: str) -> str:
    """The tier that a job makes sets of, or sends."""
    tier = job.removeprefix("upload-")
    return tier if tier in set(Tier) else ""


def job_of(argv: Sequence[str]) -> str:
    """The job whose command this is; nothing for a command that a person gave, or another trigger than the schedule."""
    return next((job for job, command in JOB_COMMANDS.items() if sorted(command) == sorted(argv)), "")


# What a job ends with, under a name of its own: as long as that is not done, the job is not.
_BEHIND: Final = {"drill": "drill-moments"}


def is_run_of(job: str, run: Run) -> bool:
    """Tell whether a run does what the job does."""
    names = OPERATIONS.values() if job in _UPLOADS else (operation_of(job), _BEHIND.get(job))
    return run.operation in names and tier_of(job) in ("", run.tier)


def find_supercronic(binary: str = "supercronic") -> str:
    """Find what wakes the service once a minute. BackupError when it is not installed."""
    if found := shutil.which(binary):
        return found
    raise BackupError(f"{binary} is not installed", "Use the image; it holds supercronic.")


def runs_of(job: str, runs: Iterable[Run]) -> list[Run]:
    """The scheduled runs of a job, newest first: those that were for a slot, or that somebody else's schedule began."""
    found = [run for run in runs if is_run_of(job, run) and (run.slot or run.trigger == "schedule")]
    return sorted(found, key=lambda run: (run.started, run.id), reverse=True)
