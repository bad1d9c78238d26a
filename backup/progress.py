"""How long work tells how far it is. Operations talk to `Progress`; the CLI draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One phase at a time."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins; `total` in bytes if it can be told."""

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""


class Silent:
    """No display."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Ignored."""

    def advance(self, count: int) -> None:
        """Ignored."""
