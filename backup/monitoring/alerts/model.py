"""What the alerts remember and send. Plain data.

    state/alerts.json       Memory: what the recipients have been told, and how each target takes messages
    state/outbox/<id>.json  Message: one that is not yet delivered everywhere

Neither holds an address: a target is known by the name that may be shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

Kind = Literal["failure", "recovery", "warning", "reminder", "report", "test", "heartbeat"]
# The one target that takes heartbeats, and nothing else.
HEARTBEAT: Final = "heartbeat"
TITLE: Final = 200
BODY: Final = 6000


@dataclass(frozen=True)
class Notice:
    """Something to tell. `title` is one line, `body` plain text."""

    kind: Kind
    title: str
    body: str


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


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Known(_Data):
    """A cause that is there, from `since` to `seen` at least. `told` is when its message was made; None: not yet."""

    text: str
    hint: str = ""
    since: AwareDatetime
    seen: AwareDatetime
    told: AwareDatetime | None = None


class Event(_Data):
    """Failed runs of one kind. `count` of them have not been told; `text` is about the newest."""

    text: str
    hint: str = ""
    last: AwareDatetime
    count: int = 0
    told: AwareDatetime | None = None


class State(_Data):
    """What the recipients have been told.

    `causes` and `events` by the class of their text; `seen` are the failed runs that are counted. `unwell` is when
    the recipients were first told that something is wrong, None while they believe that all is well. `sent` are the
    times of the last day's messages, `critical` those of each cause by its class, `ping` the run of the newest
    heartbeat. `held` are warnings that came while too many messages had been sent.
    """

    causes: dict[str, Known] = Field(default_factory=dict)
    warned: dict[str, AwareDatetime] = Field(default_factory=dict)
    events: dict[str, Event] = Field(default_factory=dict)
    seen: tuple[str, ...] | None = None
    unwell: AwareDatetime | None = None
    told: AwareDatetime | None = None
    reminded: int = 0
    sent: tuple[AwareDatetime, ...] = ()
    critical: dict[str, tuple[AwareDatetime, ...]] = Field(default_factory=dict)
    held: dict[str, Known] = Field(default_factory=dict)
    ping: str = ""

    @property
    def waiting(self) -> list[Known]:
        """What is held back and goes into the next message: causes, failed runs, warnings."""
        causes = [known for known in self.causes.values() if known.told is None]
        runs = [
            Known(text=event.text, hint=event.hint, since=event.last, seen=event.last)
            for event in self.events.values()
            if event.count
        ]
        return [*causes, *runs, *self.held.values()]


class Delivery(_Data):
    """How one target takes messages. `failures` in a row since `since`; `error` is the first of them."""

    failures: int = 0
    since: AwareDatetime | None = None
    error: str = ""
    last_error: str = ""
    delivered: AwareDatetime | None = None


class Attempt(_Data):
    """What came of one message at one target so far; the next try is at `next`."""

    count: int
    next: AwareDatetime
    error: str


class Memory(_Data):
    """All of state/alerts.json. `lost` messages were given up, the last one at `lost_at`."""

    state: State = State()
    deliveries: dict[str, Delivery] = Field(default_factory=dict)
    lost: int = 0
    lost_at: AwareDatetime | None = None


class Message(_Data):
    """A notice on its way. `delivered` names the targets that have it, `tries` those that did not take it."""

    id: str
    kind: Kind
    title: str
    body: str
    created: AwareDatetime
    delivered: tuple[str, ...] = ()
    tries: dict[str, Attempt] = Field(default_factory=dict)


class Letter(_Data):
    """What the delivering process is given: one message for one target."""

    target: str
    id: str
    kind: Kind
    title: str
    body: str


class Receipt(_Data):
    """What came of a letter; no `error`: delivered."""

    target: str
    id: str
    error: str = ""
    seconds: float = 0.0


class Letters(_Data):
    """What goes into the delivering process. `deadline` is in seconds, for all of it."""

    letters: tuple[Letter, ...]
    deadline: float


class Receipts(_Data):
    """What comes out of it."""

    receipts: tuple[Receipt, ...]


def later(moment: datetime | None, now: datetime) -> datetime | None:
    """`moment`, but never after `now`: a clock that was set back must not silence anything."""
    return min(moment, now) if moment else None
