"""What PostgreSQL writes otherwise after one restore although nothing is lost (tests/support/sample_schema.py).

Rows of varying width come in another order, since a load fills gaps; `varchar IN (…)` is stored in other words; the
roles of a policy are ordered by numbers of the server's own.
"""

from __future__ import annotations

import re
from typing import Final

_VALUE: Final = rb"'(?:[^']|'')*'::character varying"
_CAST_ARRAY: Final = re.compile(rb"\(ARRAY\[(" + _VALUE + rb"(?:, " + _VALUE + rb")*)\]\)::text\[\]")
_EACH: Final = re.compile(_VALUE)
_POLICY: Final = re.compile(rb"^(CREATE POLICY [^\n]*? TO )([^\n]*?)((?: USING| WITH CHECK)? ?\(|;)", re.MULTILINE)
_64: Final = (1 << 64) - 1


class Lines:
    """A sum over lines that does not depend on their order; a line may come in any pieces.

    Python's own hash of bytes: SipHash with a key that is random for each process, so only sums of one can be compared.
    """

    def __init__(self) -> None:
        self._sum = 0
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        first, *lines = data.split(b"\n")
        self._rest.append(first)
        if lines:
            lines[-1:], last = [b"".join(self._rest)], lines[-1]
            self._sum = (self._sum + sum(map(hash, lines))) & _64
            self._rest = [last]

    def finish(self) -> int:
        """The sum; the next bytes begin another one."""
        found, self._sum = (self._sum + hash(b"".join(self._rest))) & _64, 0
        self._rest = []
        return found


def same_meaning(expected: bytes, found: bytes) -> bool:
    """Whether two definitions, neither of them empty, differ only in words that PostgreSQL chose anew."""
    return bool(expected and found) and _canonical(expected) == _canonical(found)


def _canonical(text: bytes) -> bytes:
    text = _CAST_ARRAY.sub(lambda array: b"ARRAY[" + _EACH.sub(rb"(\g<0>)::text", array[1]) + b"]", text)
    return _POLICY.sub(lambda policy: policy[1] + b", ".join(sorted(policy[2].split(b", "))) + policy[3], text)
