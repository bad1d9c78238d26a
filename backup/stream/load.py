"""A dump made with `--clean`, as a new and empty database takes it: without the statements that drop what was there.

Some of them fail where nothing is: pg_dump drops the constraint of a domain without asking for the domain, and replaces
a view of a schema that is not there.
"""

from __future__ import annotations

import re
from typing import Final

from backup.stream.statements import literal

_SETTING: Final = re.compile(rb"(?:--[^\n]*|SET [^\n]*|SELECT pg_catalog\.set_config\([^\n]*|\\restrict \w+|)\n")
# A session of ours has a key of its own, which the dump cannot know.
KEYS: Final = re.compile(rb"^\\(?:un)?restrict \w+(?:\n|\Z)", re.MULTILINE)
_OBJECT: Final = re.compile(rb"^--\n-- Name: ", re.MULTILINE)
# The drops of a million objects; what is longer has none, and is passed on as it is.
_LONGEST: Final = 64 << 20


class WithoutDrops:
    """Give it the chunks of a plain dump in order; it gives what is to be loaded. `finish` gives what it held back.

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
        found = _OBJECT.search(self._head)
        if found is None:
            return self.finish() if len(self._head) > _LONGEST else b""
        head, self._head = self._head, None
        self.settings = KEYS.sub(b"", head[: _settings(head)])
        if self._path:
            self.settings += b"SELECT pg_catalog.set_config('search_path', " + literal(self._path) + b", false);\n"
        return self.settings + head[found.start() :]

    def finish(self) -> bytes:
        """What is left, of a dump that names no object at all."""
        head, self._head = self._head or b"", None
        return KEYS.sub(b"", head)


def _settings(head: bytes) -> int:
    """Where the comments and settings at the beginning end."""
    position = 0
    while (match := _SETTING.match(head, position)) and match.end() > position:
        position = match.end()
    return position
