"""WAL as the server's own pg_waldump tells of it: scripts for a helper of its image, and whether all was told.

Their words: the pipe, the folder, the timeline, where to begin, where the end is looked at again (`tail_start`), and
the file behind the last one (`file_behind`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from backup.errors import IntegrityError
from backup.formatting import printable
from backup.model.wal import SegmentId, lsn, lsn_text

# pg_waldump waits for five seconds for a file that is not there (WALDumpOpenSegment in its sources), and reads the size
# of a segment from whichever file comes first (search_directory). One that has nothing but that ends it at once.
_BEGIN: Final = """
    command -v pg_waldump >/dev/null || exit 127
    next="$1/$5"
    [ -e "$next" ] && next= || { head -c 32 /dev/zero; printf "$6"; head -c 8156 /dev/zero; } >"$next"
"""
_END: Final = """
    pg_waldump --path="$1" --timeline="$2" --start="$4" 2>/dev/null | tail -n 1 >&2
    [ -z "$next" ] || rm -f "$next"
    exit 0
"""
# It always ends with an error: at the end of the WAL there is no further record. Then the last one is told, too.
COMMITS: Final = f"""{_BEGIN}
    TZ=UTC pg_waldump --path="$1" --rmgr=Transaction --timeline="$2" --start="$3" >"$0"
{_END}"""
# What deletes rows, and what ends a transaction. Before 15 only one kind of record can be asked for.
DELETIONS: Final = f"""{_BEGIN}
    TZ=UTC pg_waldump --path="$1" --timeline="$2" --start="$3" |
      grep -E '^rmgr: (Heap|Transaction) .* desc: (DELETE|COMMIT|ABORT)' >"$0"
{_END}"""
# So much of the WAL is read for that.
_TAIL: Final = 64 << 10
_LAST: Final = re.compile(
    r"^rmgr: +\S+ +len \(rec/tot\): +\d+/ *(\d+), tx: +\d+, lsn: ([0-9A-F]+/[0-9A-F]+)[^\n]*$", re.MULTILINE
)
# A page of WAL; what the first one of a segment, and any other one begins with; and where records begin.
_PAGE: Final = 8192
_HEADS: Final = (40, 24)
_ALIGNED: Final = 8
# Where the reading ended. Other places in a message were read from a record, and may be damaged.
_PLACES: Final = re.compile(r"\b(?:at|after) ([0-9A-F]{1,8}/[0-9A-F]{1,8})\b")
# A file, and where in it the reading ended if that is told.
_FILES: Final = re.compile(r"\b([0-9A-F]{24})\b(?:, (?:LSN [0-9A-F/]+, )?offset (\d+))?")


def tail_start(start: str, until: int, segment: int) -> str:
    """Where the last records before `until` are looked for."""
    # Before its segment there may be zeros: a switch left the end of that one empty.
    return lsn_text(max(lsn(start), until - _TAIL, until - until % segment))


def file_behind(timeline: int, until: int, segment: int) -> tuple[str, str]:
    """What the file is called behind the one that holds the last byte before `until`; the size of one, for printf."""
    name = SegmentId(timeline, (until - 1) // segment + 1).name(segment)
    return name, "".join(f"\\{byte:03o}" for byte in struct.pack("<I", segment))


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)


def require_whole(said: str, segment: int, until: int) -> None:
    """IntegrityError unless the WAL was read to where it was received."""
    last, said = _LAST.search(said), _LAST.sub("", said)
    found = [lsn(each) for each in _PLACES.findall(said)]
    found += [SegmentId.of(name, segment).number * segment + int(at or 0) for name, at in _FILES.findall(said)]
    reached = max(found, default=0)
    # The server sends whole records, or whole pages. A damaged length seems to lead beyond what was received.
    if last and until % _PAGE:
        reached = min(reached, _behind(lsn(last[2]), int(last[1]), segment))
    if reached < until:
        raise IntegrityError(
            f"the WAL cannot be read beyond {lsn_text(reached)}, although it was received to {lsn_text(until)}:"
            f" {printable(said.strip()[-300:])}. Nothing was changed",
            "Ask for an earlier moment. `base` takes a new base backup, so that later moments can be had again.",
        )


def _behind(place: int, length: int, segment: int) -> int:
    """Where a record ends that begins at `place`. What pages begin with is no part of its length."""
    left = -(-length // _ALIGNED) * _ALIGNED
    while left > (room := _PAGE - place % _PAGE):
        place, left = place + room, left - room
        place += _HEADS[bool(place % segment)]
    return place + left
