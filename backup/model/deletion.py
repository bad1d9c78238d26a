"""Commits that deleted many rows, or whole tables, as the WAL tells of them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from backup.model.wal import lsn, lsn_text

# Of databases and tables that were made by a person, as the server numbers them.
_OWN: Final = 16384
# As pg_waldump writes it, before 16 and since.
_DELETE: Final = re.compile(r"\btx: +(\d+), .*? desc: DELETE .*?\bblkref #0: rel \d+/(\d+)/(\d+) ")
_END: Final = re.compile(
    r"\btx: +(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), .*? desc: (COMMIT|ABORT)(?:_PREPARED)? (?:(\d+): )?"
    r"(\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC(.*)"
)
_SUBTRANSACTIONS: Final = re.compile(r"; subxacts: ([\d ]+)")
_FILES: Final = re.compile(r"; rels: ([^;]+)")
# Those of temporary tables have a letter before their number.
_FILE: Final = re.compile(r"(\d+)/(\d+)(?: |$)")


class TableFile(NamedTuple):
    """The file that a table's rows are in: the number of its database, and its own."""

    database: int
    number: int


@dataclass(frozen=True)
class Deletion:
    """What one commit took from one table: `rows`; 0 when `files` went with all that was in them, by DROP or TRUNCATE.

    Files also go when a table is written anew (VACUUM FULL): the WAL does not tell these apart.
    """

    place: int
    time: datetime
    rows: int
    files: tuple[TableFile, ...]

    @property
    def before(self) -> datetime:
        """The last moment that it is not part of."""
        return self.time - timedelta.resolution

    @property
    def before_lsn(self) -> str:
        """The last place in the WAL that it is not part of."""
        return lsn_text(self.place - 1)

    @property
    def count(self) -> int:
        """How many files it is about."""
        return len(self.files)


class DeletionReader:
    """Takes the lines of pg_waldump, in their order, with times in UTC; gives commits of at least `least` rows."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._rows: dict[str, Counter[TableFile]] = {}

    def take(self, line: str) -> Iterator[Deletion]:
        """The next line."""
        if match := _DELETE.search(line):
            file = TableFile(int(match[2]), int(match[3]))
            if file.number >= _OWN:
                self._rows.setdefault(match[1], Counter())[file] += 1
        elif match := _END.search(line):
            yield from self._end(match)

    def _end(self, match: re.Match[str]) -> Iterator[Deletion]:
        transaction, place, what, prepared, time, rest = match.groups()
        subtransactions = _SUBTRANSACTIONS.search(rest)
        rows = Counter[TableFile]()
        for each in (prepared or transaction, *(subtransactions[1].split() if subtransactions else ())):
            rows.update(self._rows.pop(each, {}))
        if what == "ABORT":
            return
        at = lsn(place), datetime.fromisoformat(time).replace(tzinfo=UTC)
        for file, count in rows.most_common():
            if count >= self._least:
                yield Deletion(*at, count, (file,))
        named = _FILES.search(rest)
        files = [TableFile(int(one), int(two)) for one, two in _FILE.findall(named[1])] if named else []
        if own := tuple(file for file in files if file.number >= _OWN):
            yield Deletion(*at, 0, own)
