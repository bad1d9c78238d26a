"""The scheduled jobs: their lines, their commands, and the crontab that supercronic runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.config.loader import Settings
from backup.config.types import AFTER
from backup.errors import BackupError, ConfigError
from backup.model.manifest import Tier
from backup.model.schedule import crontab, misled
from backup.monitoring.health import CREATE
from backup.operations.offsite.copy_status import DRILL, PRUNE, VERIFY
from backup.operations.offsite.rules import uploads

# The uploads of these tiers.
_UPLOADS: Final = {f"upload-{tier}": tier for tier in (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.MANUAL)}
# Jobs that go on beside backups; a drill waits for the lock when it has fetched its set.
OFFSITE: Final = frozenset({*_UPLOADS, "offsite-verify", "offsite-prune", "offsite-drill"})
# What each job runs, after the program's own name.
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    **{str(tier): (CREATE, "--scheduled", str(tier)) for tier in (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)},
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
    return _OPERATIONS.get(job) or COMMANDS[job][0]


def tier_of(job: str) -> str:
    """The tier that a job makes sets of, or sends."""
    tier = job.removeprefix("upload-")
    return tier if tier in set(Tier) else ""


def job_of(argv: Sequence[str]) -> str:
    """The job whose command this is; nothing for a command that a person gave, or another trigger than the schedule."""
    return next((job for job, command in COMMANDS.items() if sorted(command) == sorted(argv)), "")


class Crontab:
    """The file that supercronic runs, written anew whenever it would mislead supercronic."""

    def __init__(self, settings: Settings, command: Sequence[str], run_dir: Path, supercronic: str) -> None:
        self._jobs, self._zone = jobs(settings), settings.zone
        start = shlex.join(command)
        self._commands = {job: f"{start} {shlex.join(words)}" for job, words in COMMANDS.items()}
        self._path = run_dir / "crontab"
        binary = shutil.which(supercronic)
        if binary is None:
            raise BackupError(f"the scheduler {supercronic} is not installed", "Use the image; it holds supercronic.")
        form = ["-json"] if settings.log_format == "json" else []
        self.argv = [binary, *form, "-passthrough-logs", "-no-reap", str(self._path)]
        self.held: frozenset[str] = frozenset()
        # Every line is checked, also one that is held back just now; not one that always is.
        self._write()
        _check(binary, self._path)

    def refresh(self, now: datetime) -> bool:
        """Hold back the lines that supercronic would start wrongly; whether the file has changed."""
        held = frozenset(job for job, cron in self._jobs.items() if cron and misled(cron, now, self._zone))
        if held == self.held:
            return False
        before, self.held = self.held, held
        try:
            self._write()
        except BackupError:
            self.held = before
            raise
        return True

    def _write(self) -> None:
        path = self._path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, 0o600)
                file.write(crontab(self._jobs, self._commands, self.held))
        except OSError as error:
            hint = f"Mount a tmpfs at {path.parent}."
            raise BackupError(f"{path} cannot be written: {error.strerror}", hint) from error


def _check(binary: str, path: Path) -> None:
    done = subprocess.run(
        [binary, "-test", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30,
    )
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines() or ["no reason given"]
        raise ConfigError(
            f"the scheduler does not accept the schedule: {said[-1]}",
            "Correct BACKUP_DAILY, BACKUP_WEEKLY, BACKUP_MONTHLY, BACKUP_DRILL, BACKUP_CLEANUP, BACKUP_MONITOR,"
            " BACKUP_REPORT, or those of BACKUP_UPLOAD_… and BACKUP_OFFSITE_… that are cron lines: minute"
            " hour day month weekday.",
        )
