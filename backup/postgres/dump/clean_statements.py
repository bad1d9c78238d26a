"""A dump made with `--clean`, as a new and empty database takes it: without the statements that drop what was there.

Some of them fail where nothing is: pg_dump drops the constraint of a domain without asking for the domain, and replaces
a view of a schema that is not there.
"""

from __future__ import annotations

import re
from typing import Final

from backup.postgres.dump.statements import literal, statements

_SETTING: Final = re.compile(rb"SET |SELECT pg_catalog\.set_config\(")
# A view that others need is replaced by an empty one.
_DROP: Final = re.compile(
    rb"DROP |ALTER .* DROP |CREATE OR REPLACE VIEW .* AS\nSELECT\n    NULL::|SELECT pg_catalog\.lo_unlink\(", re.DOTALL
)
# The drops of a million objects; what is longer has none, and is passed on as it is.
_LONGEST: Final = 64 << 20


class WithoutDrops:
    """Give it the chunks of a plain dump before its first object in order, then `begin`; it gives what is to be loaded.

    `search_path`: where names are found that the dump does not look for anywhere; empty for as it is.
    """

    def __init__(self, search_path: bytes = b"") -> None:
        self._path = search_path
        self._head: bytes | None = b""
        # What the dump sets before its first object: each session that takes a part of it needs that.
        self.settings = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can be loaded now."""
        if self._head is None:
            return chunk
        self._head += chunk
        return self.finish() if len(self._head) > _LONGEST else b""

    def begin(self) -> bytes:
        """What is to be loaded before the first object, which comes now; nothing the next time."""
        head, self._head = self._head, None
        if head is None:
            return b""
        kept = [each + b"\n" for each in statements(head) if not _DROP.match(each)]
        if self._path:
            kept.append(b"SELECT pg_catalog.set_config('search_path', %b, false);\n" % literal(self._path))
        self.settings = b"".join(filter(_SETTING.match, kept))
        # The last line of it belongs to the object.
        return b"".join([*kept, b"\n--\n"])

    def finish(self) -> bytes:
        """What is left, of a dump that names no object at all."""
        head, self._head = self._head or b"", None
        return head
