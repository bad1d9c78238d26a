"""Settings → what sends alerts, and what the command line needs to try it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from backup.app.composition import App
from backup.background import BackgroundTask
from backup.config.loader import Settings
from backup.docker.engine import Engine
from backup.errors import BackupError
from backup.model.backup_set import StoredSet
from backup.model.run import Run
from backup.monitoring.alerts import messages
from backup.monitoring.alerts.delivery import DeliveryProcess
from backup.monitoring.alerts.destinations import targets
from backup.monitoring.alerts.model import Delivery, Policy, Receipt
from backup.monitoring.alerts.notifier import Notifier, Snapshot
from backup.monitoring.health import Health
from backup.operations.runs import at_work

_UNNAMED: Final = "OBCMS"
_ENGINE_SECONDS: Final = 5.0
DELIVER: Final = ("notify", "--deliver")


class StackName:
    """What the stack is called in subjects. The engine may have to be asked, and may hang, so nobody waits for it."""

    def __init__(self, main: App) -> None:
        self._main = main
        self.value = main.settings.notify_name or main.settings.project or ""
        self._background = BackgroundTask(self._find)

    def find(self, wait: float = 0.0) -> str:
        """The name as far as it is known within `wait` seconds."""
        if not self.value:
            self._background.go(wait)
        return self.value or _UNNAMED

    def _find(self) -> None:
        with contextlib.suppress(BackupError):
            self.value = self._main.surroundings(Engine())[1] or _UNNAMED


def alert_policy(settings: Settings, name: str) -> Policy:
    """What to tell, how often, under which name."""
    return Policy(name, settings.notify_level, timedelta(hours=settings.remind_hours), settings.zone)


def notifier(main: App, command: Sequence[str], health: Callable[[], Health]) -> Notifier:
    """What sends the service's alerts. `command` is the argv prefix of our CLI, `health` leaves the alerts out."""
    settings, name, deliver = main.settings, StackName(main), DeliveryProcess([*command, *DELIVER])
    name.find()

    def look() -> Snapshot:
        # Health says so when they cannot be read; nothing is decided by their absence.
        runs: list[Run] = []
        sets: list[StoredSet] = []
        with contextlib.suppress(BackupError):
            runs, sets = main.records.all(at_work(main.catalog.root)), main.catalog.sets()
        return Snapshot(health(), runs, sets)

    return Notifier(
        root=settings.root,
        policy=lambda: alert_policy(settings, name.find()),
        targets=[target.name for target in targets(settings)],
        heartbeat=settings.heartbeat_url is not None,
        max_age=timedelta(hours=settings.max_age_hours),
        look=look,
        deliver=deliver,
        stop=deliver.stop,
        clock=lambda: datetime.now(UTC),
    )


def send_test(main: App, command: Sequence[str], seconds: float) -> list[Receipt]:
    """Send a test message to every target now; what came of each. None where there are no targets."""
    names = [target.name for target in targets(main.settings)]
    if not names:
        return []
    name = StackName(main).find(_ENGINE_SECONDS)
    message = messages.trial(datetime.now(UTC), alert_policy(main.settings, name))
    tried = [Delivery(target=each, id="test", **message.model_dump()) for each in names]
    return DeliveryProcess([*command, *DELIVER], seconds)(tried)
