"""What the alerts remember and send. Plain data.

    state/alerts.json       Memory: what the recipients have been told, and the messages on their way
    state/outbox/<id>.json  Message: one that another process has put in

Neither holds an address: a target is known by the name that may be shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta, tzinfo
from typing import Any, Final, Literal

from pydantic import AwareDatetime, Field, SecretStr, TypeAdapter, model_validator

from backup.model.frozen import Frozen

Kind = Literal["failure", "recovery", "warning", "reminder", "report", "test", "heartbeat"]
# The one target that takes heartbeats, and nothing else.
HEARTBEAT: Final = "heartbeat"
TITLE: Final = 200
BODY: Final = 6000


@dataclass(frozen=True)
class Target:
    """Where messages go: a name that may be shown, and an address that may not."""

    name: str
    url: SecretStr


@dataclass(frozen=True)
class Policy:
    """What to tell whom how often. `name` is that of the stack, in every subject."""

    name: str
    level: Literal["fail", "warn"]
    remind: timedelta
    zone: tzinfo


class Known(Frozen):
    """A cause, a warning, or failed runs of one kind: `count` of it are not told yet, the text is that of the newest.

    `since` is when it came, `stands` whether it is there, `settled` whether it was so for more than a look, or is told;
    `told` are the last times of telling it.
    """

    level: Literal["fail", "warn", "run"]
    text: str = ""
    hint: str = ""
    since: AwareDatetime
    count: int = 0
    stands: bool = False
    settled: bool = False
    told: tuple[AwareDatetime, ...] = ()


class State(Frozen):
    """What the recipients have been told, by level and class of the text.

    `seen` are the failed runs that are counted. `unwell` is when the recipients were first told that something is
    wrong, None while they believe that all is well. `sent` are the times of the last messages, `ping` is the run of
    the newest heartbeat.
    """

    known: dict[str, Known] = Field(default_factory=dict)
    seen: tuple[str, ...] | None = None
    unwell: AwareDatetime | None = None
    sent: tuple[AwareDatetime, ...] = ()
    ping: str = ""

    @property
    def waiting(self) -> list[Known]:
        """What is not told yet and goes into the next message."""
        return [each for each in self.known.values() if each.count or each.stands and not each.settled]


class Notice(Frozen):
    """Something to tell. `title` is one line, `body` plain text."""

    kind: Kind
    title: str
    body: str


class Attempts(Frozen):
    """How often one target did not take a message, and why at first; the next try is at `next`."""

    count: int
    next: AwareDatetime
    error: str


class Message(Notice):
    """A notice on its way. `delivered` names the targets that have it, `tries` those that did not take it."""

    id: str
    created: AwareDatetime
    delivered: tuple[str, ...] = ()
    tries: dict[str, Attempts] = Field(default_factory=dict)


class Memory(Frozen):
    """All of state/alerts.json. `messages` are on their way, oldest first; `delivered`: when each target took one.

    `lost` messages were given up, the last one at `lost_at`.
    """

    state: State = State()
    messages: tuple[Message, ...] = ()
    delivered: dict[str, AwareDatetime] = Field(default_factory=dict)
    lost: int = 0
    lost_at: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        """Read the form of before December 2026, which kept each level in its own way."""
        if not isinstance(data, dict) or "deliveries" not in data:
            return data
        try:
            old, known = data["state"], {}
            for name, at in old.get("warned", {}).items():
                known[f"warn {name}"] = {"level": "warn", "since": at, "told": [at]}
            for level, field in (("fail", "causes"), ("run", "events"), ("warn", "held")):
                for name, each in old.get(field, {}).items():
                    told = [each["told"]] if each.get("told") else []
                    new = {"level": level, "since": each.get("last"), "count": int(not told), "stands": level == "fail"}
                    new["settled"] = new["stands"]
                    known[f"{level} {name}"] = {**new, **each, "told": told}
            delivered = {name: each["delivered"] for name, each in data["deliveries"].items() if each["delivered"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("not what was ever written here") from error
        return {**data, "state": {**old, "known": known}, "delivered": delivered}


class Delivery(Notice):
    """What the delivering process is given: one message for one target."""

    target: str
    id: str


class Receipt(Frozen):
    """What came of a delivery; no `error`: the target has taken it."""

    target: str
    id: str
    error: str = ""
    seconds: float = 0.0


class Deliveries(Frozen):
    """What goes into the delivering process. `deadline` is in seconds, for all of it."""

    deliveries: tuple[Delivery, ...]
    deadline: float


# What comes out of it.
RECEIPTS: Final = TypeAdapter(tuple[Receipt, ...])
