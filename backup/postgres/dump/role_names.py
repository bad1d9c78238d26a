"""The roles that a plain dump names: owners, and whoever is granted something. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from backup.postgres.dump.statements import one_line

_ROLE: Final = rb'(?:"(?:[^"\n]|"")+"|[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*)'
_ROLES: Final = _ROLE + rb"(?:, " + _ROLE + rb")*"
# As pg_dump writes them.
_NAMED: Final = re.compile(
    rb"^(?:ALTER .* OWNER TO (?P<owner>" + _ROLE + rb");"
    rb"|(?:ALTER DEFAULT PRIVILEGES .* )?(?:GRANT .* TO|REVOKE .* FROM) (?P<granted>"
    + _ROLE
    + rb")(?: WITH GRANT OPTION)?(?: GRANTED BY [^;]*)?;"
    rb"|CREATE POLICY .* TO (?P<policy>" + _ROLES + rb")(?: USING .*| WITH CHECK .*|;)"
    rb"|CREATE USER MAPPING FOR (?P<mapped>" + _ROLE + rb") SERVER .*"
    rb"|SET SESSION AUTHORIZATION '?(?P<session>" + _ROLE + rb")'?;)$",
    re.MULTILINE,
)
_DEFAULTS: Final = re.compile(rb"^ALTER DEFAULT PRIVILEGES FOR ROLE (" + _ROLE + rb") ", re.MULTILINE)
_ONE: Final = re.compile(_ROLE)
_ROWS: Final = ("TABLE DATA", "BLOBS", "LARGE OBJECT DATA")
# In what comes behind, of one object, nothing is looked for.
_LONGEST: Final = 64 << 20


class RoleNames:
    """A Watcher of a dump: `found` are the names, as the server has them; each with how much it owns."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._rows = False
        self._text: list[bytes] = []
        self._size = 0

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._read(one_line(b"".join(self._text)))
        self._text, self._size, self._rows = [], 0, kind in _ROWS

    def table(self, table: str) -> None:
        """See Watcher."""

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if not self._rows and self._size < _LONGEST:
            self._text.append(data)
            self._size += len(data)

    def _read(self, text: bytes) -> None:
        for match in _NAMED.finditer(text):
            for name in _ONE.findall(match[match.lastgroup or 0]):
                self._note(name, owns=match.lastgroup == "owner")
        for match in _DEFAULTS.finditer(text):
            self._note(match[1])

    def _note(self, written: bytes, *, owns: bool = False) -> None:
        name = written.decode(errors="surrogateescape")
        name = name[1:-1].replace('""', '"') if name.startswith('"') else name
        # Names that begin so are the server's own.
        if not name.startswith("pg_"):
            self.found[name] += owns
