"""The roles that a plain dump names: owners, and whoever is granted something. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

_ROLE: Final = rb'(?:"(?:[^"\n]|"")+"|[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*)'
_ROLES: Final = _ROLE + rb"(?:, " + _ROLE + rb")*"
# As pg_dump writes them. What stands in the body of a function may look the same: a role more harms nobody.
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
# Of a statement so long nothing is looked for: a function's body, a list of values.
_LONGEST: Final = 1 << 20


class RoleNames:
    """A Watcher of a dump: `found` are the names, as the server has them; each with how much it owns."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._rows = False
        self._rest = b""

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._read(self._rest)
        self._rest, self._rows = b"", kind in _ROWS

    def table(self, table: str) -> None:
        """See Watcher."""

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._rows:
            return
        text = self._rest + data
        end = text.rfind(b"\n") + 1
        self._read(text[:end])
        self._rest = text[end:][-_LONGEST:]

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
