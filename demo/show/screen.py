"""Plain sentences on standard output, with colour on a terminal only."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

WIDTH = 110
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32"}


class Failure(Exception):
    """The demonstration cannot go on; the message says why and what to do."""


def styled(text: str, style: str) -> str:
    """`text` in a style, where there is a terminal that shows it and nobody has said no."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{_CODES[style]}m{text}\033[0m"


def say(text: str) -> None:
    """One sentence, wrapped."""
    print(textwrap.fill(text, WIDTH, initial_indent="   ", subsequent_indent="   ", break_on_hyphens=False), flush=True)


def quote(text: str) -> None:
    """A line that another program said, or that is to be typed."""
    print(styled(f"   | {text}", "dim"), flush=True)


def title(text: str) -> None:
    """A line that stands out."""
    print(f"\n{styled(text, 'bold')}", flush=True)


@contextmanager
def step(number: int, text: str) -> Iterator[None]:
    """A numbered step of the demonstration, and how long it took."""
    title(f"{number}. {text}")
    began = time.monotonic()
    yield
    print(styled(f"   ({time.monotonic() - began:.1f} s)", "dim"), flush=True)


@dataclass
class Claims:
    """What the demonstration says is so, each looked at when it is said."""

    failed: list[str] = field(default_factory=list)
    count: int = 0

    def check(self, true: bool, text: str) -> None:
        """Say it, and whether it is so."""
        self.count += 1
        if not true:
            self.failed.append(text)
        mark = styled("   ok      ", "green") if true else styled("   FAILED  ", "red")
        print(mark + text, flush=True)
