"""Sums of money in a dump: written as lc_monetary has it, which pg_dump does not name, and read by what is set then.

So ours are written as C has it, and their head says so: whoever loads them reads what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

_SETTING: Final = b"SET lc_monetary = 'C';\n"
# The last of the head's settings.
_BEFORE: Final = b"\nSET row_security = off;\n"
_HEAD: Final = 4096


def with_setting(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a plain dump, with the setting in its head."""
    head, rest = b"", iter(chunks)
    for chunk in rest:
        head += chunk
        before, found, behind = head.partition(_BEFORE)
        if found:
            head = before + found + _SETTING + behind
        if found or len(head) > _HEAD:
            break
    if head:
        yield head
    yield from rest


def has_setting(head: bytes) -> bool:
    """Whether the beginning of a dump has it there."""
    return head.partition(_BEFORE)[2].startswith(_SETTING)
