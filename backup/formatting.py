"""Words and numbers as a person reads them; names made harmless for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_TRACEBACK = "Traceback (most recent call last)"
_FURTHER = ("LINE ", "DETAIL:", "HINT:", "CONTEXT:", "QUERY:", "LOCATION:")


def printable(text: str) -> str:
    """`text` with control characters, bidirectional marks and undecodable bytes as escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def size(count: float) -> str:
    """Bytes as `1.4 GB` (powers of 1000, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as `4.2 s`, `3 min 20 s`, `5 h 02 min` or `3 d 04 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def age(span: timedelta) -> str:
    """A time span as `duration` words it, `just now` below a second."""
    seconds = span.total_seconds()
    return "just now" if 0 <= seconds < 1 else duration(seconds) if seconds > 0 else f"{duration(-seconds)} ahead"


def listed(names: Sequence[str], most: int = 5, mark: str = ", ") -> str:
    """Names, harmless, as `a, b and 3 more`: whoever is left out is counted."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return mark.join(printable(name) for name in names[:most]) + more


def local_time(moment: datetime, zone: tzinfo, form: str = "%Y-%m-%d %H:%M") -> str:
    """A moment by the clock of `zone`, which is named: an abbreviation such as PST reads as another one."""
    return f"{moment.astimezone(zone):{form}} {zone}"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`; `many` is the plural of a noun that takes more than an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def shortened(line: str, most: int = 400) -> str:
    """A line, with its end cut off where it is too long to be read."""
    return line if len(line) <= most else line[: most - 1] + "…"


def essence(lines: Sequence[str]) -> str:
    """Of what a program wrote, what says how it ended: the error of its last traceback, and its last line of weight."""
    starts = [place for place, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    # Lines of a traceback, and of what a server's error is followed by, are indented or begin with such a word.
    told = [line for line in lines[starts[-1] + 1 :] if _weighs(line)][:1] if starts else []
    told += [line for line in lines if _weighs(line)][-1:] or [line for line in lines if line.strip()][-1:]
    return "; ".join(dict.fromkeys(told))


def _weighs(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and not line.startswith((_TRACEBACK, *_FURTHER))
