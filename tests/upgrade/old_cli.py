"""The command line of 0.1.0 at a moment of the writer's choice. Run by write_volume.py, with 0.1.0 on PYTHONPATH.

AT is the time (ISO 8601) that its modules see. STOP_AT kills it once its journal has noted this step, as a loss of
power would. Two more words: `open` opens the accounts of the schedule as the service does when it starts, and `round`
does once what it does about alerts every half minute.
"""

# ruff: noqa: I001 - this `backup` is another one
import datetime
import os
import signal
import sys
from typing import Any

import typer
from backup import config
from backup.cli import app, main
from backup.journal import JournalFile
from backup.ledger import Ledger
from backup.operations import status
from backup.operations.jobs import jobs
from backup.wiring import App
from backup.wiring_alerts import desk

_REAL = datetime.datetime
_AHEAD = _REAL.fromisoformat(os.environ["AT"]) - _REAL.now(datetime.UTC)


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _REAL)


class _Clock(_REAL, metaclass=_Kind):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _REAL.now(tz) + _AHEAD


_write = JournalFile._write


def _written(self: JournalFile, journal: Any) -> Any:
    journal = _write(self, journal)
    if journal.step == os.environ.get("STOP_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    return journal


if __name__ == "__main__":
    # What is made of types when a command is imported must be made of the real one.
    list(typer.main.get_command(app).commands.values())  # type: ignore[attr-defined]
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "backup" and getattr(module, "datetime", None) is _REAL:
            module.datetime = _Clock  # type: ignore[attr-defined]
    JournalFile._write = _written  # type: ignore[method-assign]
    if sys.argv[1:] == ["open"]:
        settings = config.load()
        Ledger(settings.root).open(jobs(settings), _Clock.now(datetime.UTC), settings.zone)
        sys.exit(0)
    if sys.argv[1:] == ["round"]:
        here = App(config.load())

        def health() -> Any:
            now = _Clock.now(datetime.UTC)
            return status.overview(here.settings, here.catalog, here.records, now, alerting=False).health

        desk(here, [sys.executable, __file__], health)._round()
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
