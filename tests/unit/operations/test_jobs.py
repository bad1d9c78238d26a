"""Each job has a line, a command, and records that are known as its own."""

from __future__ import annotations

from datetime import UTC, datetime

from backup.config.loader import load_settings
from backup.model.run import Run
from backup.operations.jobs import JOB_COMMANDS, job_of, jobs, operation_of, runs_of, tier_of

NOW = datetime(2025, 3, 6, tzinfo=UTC)


def test_every_job_has_a_line_and_a_command() -> None:
    assert set(jobs(load_settings({}))) == set(JOB_COMMANDS)


def test_the_commands_are_known_by_what_they_are() -> None:
    assert {job: job_of(command) for job, command in JOB_COMMANDS.items()} == {job: job for job in JOB_COMMANDS}
    for argv in (["create", "daily"], ["create"], [], ["monitor", "--scheduled"], ["create", "manual", "--scheduled"]):
        assert job_of(argv) == ""


def test_the_records_of_a_job_are_its_own() -> None:
    runs = {
        job: Run(id=job, operation=operation_of(job), tier=tier_of(job), slot=NOW, started=NOW) for job in JOB_COMMANDS
    }
    assert {job: runs_of(job, runs.values()) for job in JOB_COMMANDS} == {job: [run] for job, run in runs.items()}
    copied = runs["upload-daily"].model_copy(update={"operation": "copy", "place": "copy"})
    assert runs_of("upload-daily", [copied]) == [copied]
    window = runs["drill"].model_copy(update={"operation": "drill-moments"})
    assert runs_of("drill", [window]) == [window] and not runs_of("base", [window])
    by_hand = runs["daily"].model_copy(update={"slot": None, "trigger": "manual"})
    assert runs_of("daily", [by_hand]) == []
