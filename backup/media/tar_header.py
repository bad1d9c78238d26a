"""The fields of a header of 512 bytes: numbers, names, the checksum. What comes again and again is worked out once."""

from __future__ import annotations

import functools
import re
import tarfile
import zlib
from collections.abc import Mapping
from typing import Final

_OCTAL: Final = re.compile(rb" *([0-7]*)[ \0]*")
_ATTRIBUTE: Final = b"SCHILY.xattr."


def checksum(block: bytes) -> int:
    """The sum of a header's bytes, its own field taken for blanks."""
    # The low half of Adler-32 is one more than the sum, modulo 65521, which 256 bytes do not reach. C, not Python.
    halves = (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF)
    return halves - 2 - sum(block[148:156]) + 8 * ord(" ")


def is_sound(block: bytes) -> bool:
    """Whether a header has the checksum that it states."""
    stated = parse_number(block[148:156])
    # Old writers took the bytes for signed ones.
    return stated == checksum(block) or stated in tarfile.calc_chksums(block)  # type: ignore[attr-defined]


is_sound_again = functools.lru_cache(64)(is_sound)  # headers of extended records are alike


@functools.lru_cache(1 << 12)  # modes, owners and sizes come again and again
def parse_number(text: bytes) -> int | None:
    """What a header's field says; None if that is no number."""
    if text[0] & 0x80:  # GNU's base 256; all ones lead a negative number
        value = int.from_bytes(text, "big", signed=True) if text[0] == 0xFF else int.from_bytes(text, "big")
        return value if text[0] == 0xFF else value - (0x80 << 8 * (len(text) - 1))
    match = _OCTAL.fullmatch(text)
    return int(match[1] or b"0", 8) if match else None


def attributes_of(records: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The extended attributes among the records of a member."""
    names = {key: key[len(_ATTRIBUTE) :] for key in records if key.startswith(_ATTRIBUTE)}
    return {name.replace(b"%3D", b"=").replace(b"%25", b"%"): records[key] for key, name in names.items()}


def field_text(field: bytes) -> bytes:
    """What a field holds before its first zero."""
    return field.partition(b"\0")[0]


def member_name(block: bytes) -> bytes:
    """The name in a header."""
    # GNU's own format keeps times where ustar keeps the beginning of a long name.
    prefix = field_text(block[345:500]) if block[345] and block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + field_text(block[:100]) if prefix else field_text(block[:100])
