"""SQL run by a psql of the server's own version: what there is to write, and how names and texts are written."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from backup.errors import IntegrityError
from backup.postgres.clients import Clients
from backup.postgres.session_settings import options

# Errors come with their SQLSTATE, which tells causes apart.
CODES: Final = ("--set=VERBOSITY=verbose",)
STRICT: Final = ("--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", *CODES)
# The first release of each version whose psql knows \restrict.
_CONFINING: Final = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
# For what we ask and say ourselves: in UTF-8, and by nobody else's functions and operators.
OWN: Final = options({"search_path": "pg_catalog", "client_encoding": "UTF8"})


def confined(version: int) -> bytes:
    """What makes a psql of that version refuse every backslash command from here on, by a key that no file can know.

    For what others have written: of a dump's own, \\restrict and \\unrestrict are not passed on. One from before August
    2025 has no such mode and is as it was. \\if cannot ask for it: \\endif would be refused, too.
    """
    major, minor = divmod(version, 10_000)
    known = major >= min(_CONFINING) and minor >= _CONFINING.get(major, 0)
    return b"\\restrict %b\n" % secrets.token_hex(32).encode() if known else b""


def script(clients: Clients, statements: Sequence[str], run: str, more: str = "") -> None:
    """Run SQL strictly; LoadFailed with what the server said."""
    with clients.feed("psql", STRICT, run, f"{OWN} {more}") as load:
        for statement in statements:
            load.write(statement.encode(errors="surrogateescape") + b"\n")
        load.finish()


def lines(clients: Clients, query: str, run: str) -> list[bytes]:
    """The output lines of a query, unaligned, tuples only."""
    found = bytearray()
    with clients.run("psql", ("-XqAt", "--set=ON_ERROR_STOP=1", f"--command={query}"), run, OWN) as output:
        for chunk in output.chunks():
            found += chunk
            if len(found) > 64 << 20:
                raise IntegrityError("the restored database answers with more than was asked for")
    return bytes(found).splitlines()


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal, whatever standard_conforming_strings says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
