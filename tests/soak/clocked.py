"""The product's entrypoint at another time: all of its modules see a clock that is SOAK_AHEAD seconds ahead.

The small backup volume is memory, which is taken for a disk.
"""

import datetime
import os
import sys

import typer

from backup.app import alerts, composition
from backup.cli import app, main
from backup.config import loader
from backup.operations import status
from backup.storage import filesystem

_REAL = datetime.datetime
_AHEAD = datetime.timedelta(seconds=float(os.environ.get("SOAK_AHEAD", "0")))


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _REAL)


class _Clock(_REAL, metaclass=_Kind):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return _REAL.now(tz) + _AHEAD


def _set() -> None:
    """All commands are imported before, as they are in a fork: what is made of types must be made of the real one."""
    list(typer.main.get_command(app).commands.values())  # type: ignore[attr-defined]
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "backup" and getattr(module, "datetime", None) is _REAL:
            module.datetime = _Clock  # type: ignore[attr-defined]
    filesystem.MEMORY = frozenset()


def _round() -> None:
    """What the service does about alerts every half minute, once."""
    _set()
    here = composition.App(loader.load_settings())

    def health() -> status.Health:
        now = alerts.datetime.now(datetime.UTC)
        return status.overview(here.settings, here.catalog, here.records, now, alerting=False).health

    alerts.notifier(here, [sys.executable, __file__], health).round()


if __name__ == "__main__":
    os.umask(0o077)
    if sys.argv[1:] == ["round"]:
        _round()
        sys.exit(0)
    _set()
    sys.exit(main(sys.argv[1:]))
