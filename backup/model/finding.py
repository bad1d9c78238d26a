"""One thing that a check found: of health, of the doctor, of the plan of a restore, of the status page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from backup.formatting import printable, shortened

Level = Literal["pass", "warn", "starting", "fail"]
# Worst last: a service that is still starting is not yet good, but nothing has failed.
LEVELS: Final[tuple[Level, ...]] = ("pass", "warn", "starting", "fail")
_LENGTH: Final = 500


@dataclass(frozen=True)
class Finding:
    """One sentence, how bad it is, and the next command or setting; `topic` is the check's, where there are several."""

    level: Level
    text: str
    hint: str = ""
    topic: str = ""


def ok(text: str) -> Finding:
    """Say that all is well."""
    return Finding("pass", text)


def warning(text: str, hint: str = "") -> Finding:
    """Say that it works, but not as it should."""
    return Finding("warn", text, hint)


def failure(text: str, hint: str = "") -> Finding:
    """Say that it does not work, or must not be done."""
    return Finding("fail", text, hint)


def one_line_finding(finding: Finding) -> Finding:
    """Make each of its texts one harmless line: names, messages and stored text come from elsewhere."""
    text, hint = (shortened(printable(" ".join(words.split())), _LENGTH) for words in (finding.text, finding.hint))
    return replace(finding, text=text, hint=hint)
