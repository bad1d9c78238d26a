"""The ribbon of moments: where its pieces lie, in percent of the days that are kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from backup.monitoring.window import Break, Window

# Two minutes of a week would not be seen.
_THINNEST: Final = 1.0


@dataclass(frozen=True)
class Piece:
    """A span or a break from `start` to `end` (None: now), drawn from `x` on and `width` wide."""

    x: float
    width: float
    kind: Literal["held", "broken"]
    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class Ribbon:
    """The pieces since `since`, breaks last: they are drawn over what they break."""

    since: datetime
    pieces: tuple[Piece, ...]

    @property
    def breaks(self) -> list[Piece]:
        """What cannot be brought back."""
        return [each for each in self.pieces if each.kind == "broken"]


def ribbon(window: Window | None, now: datetime) -> Ribbon | None:
    """The ribbon of the days that are kept; None where none are."""
    if window is None:
        return None
    since = now - window.keep
    held = [Break(each.start, each.end) for each in window.spans if each.end > since]
    pieces = [_piece(each, "held", since, now) for each in held]
    pieces += [_piece(each, "broken", since, now) for each in window.breaks(now)]
    return Ribbon(since, tuple(pieces))


def _piece(each: Break, kind: Literal["held", "broken"], since: datetime, now: datetime) -> Piece:
    left, right = (
        100 * min(1.0, max(0.0, (moment - since) / (now - since))) for moment in (each.start, each.end or now)
    )
    width = max(_THINNEST, right - left) if kind == "broken" else right - left
    x = min(left, 100 - width)
    return Piece(round(x, 2), round(width, 2), kind, each.start, each.end)
