"""The desk leaves no word of a backup that does not last."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.alerts.desk import Desk, Surroundings, View
from backup.alerts.model import Policy
from backup.health import Health
from backup.records import Outcome, Run
from backup.sets import Verdict
from backup.stores import disk
from tests.unit.test_health import stored

NOW = datetime(2025, 10, 20, 2, tzinfo=UTC)


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CHANGED])
@pytest.mark.parametrize("lasts", [True, False])
def test_a_set_in_memory_is_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, lasts: bool
) -> None:
    monkeypatch.setattr(disk, "MEMORY", frozenset() if lasts else frozenset({"tmpfs"}))
    (tmp_path / "state").mkdir()
    sets = [replace(stored(1), verdict=Verdict(checked=NOW))]
    run = Run(id="r", operation="create", started=NOW, ended=NOW, outcome=outcome, set=sets[0].id)
    Desk(
        Surroundings(
            root=tmp_path,
            policy=lambda: Policy("obcms", "warn", timedelta(hours=24), UTC),
            targets=[],
            heartbeat=True,
            max_age=timedelta(hours=48),
            look=lambda: View(Health("pass", (), NOW), [run], sets),
            post=lambda letters: [],
            stop=lambda: None,
            clock=lambda: NOW,
        )
    ).round()
    assert bool(list(tmp_path.rglob("heartbeat.json"))) is lasts
