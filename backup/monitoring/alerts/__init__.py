"""Alerts: what is told to whom, and what becomes of it.

`rules` decide what is to be told (pure), `messages` say it, `outbox` keeps it, `notifier` does so in the service,
`delivery` takes it away in a process of its own, `undelivered` says how that goes.
"""

from __future__ import annotations

from backup.monitoring.alerts.model import HEARTBEAT, Notice
from backup.monitoring.alerts.outbox import enqueue
from backup.monitoring.alerts.undelivered import reasons, summary

__all__ = ["HEARTBEAT", "Notice", "enqueue", "reasons", "summary"]
