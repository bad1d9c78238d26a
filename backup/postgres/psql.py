"""SQL run by a psql of the server's own version: what there is to write, and how texts are written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

from backup.errors import DumpFailed, IntegrityError, LoadFailed
from backup.formatting import printable
from backup.postgres.clients import Clients
from backup.postgres.roles import is_setting
from backup.postgres.session_settings import connection_options

# Errors come with their SQLSTATE, which tells causes apart.
CODES: Final = ("--set=VERBOSITY=verbose",)
STRICT: Final = ("--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", *CODES)
# The first release of each version whose psql knows \restrict.
_CONFINING: Final = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
# For what we ask and say ourselves: in UTF-8, and by nobody else's functions and operators.
OWN: Final = connection_options({"search_path": "pg_catalog", "client_encoding": "UTF8"})
_REFUSED: Final = "public.obcms_backup_refused"
_SHOWN: Final = 200


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


def query_lines(clients: Clients, query: str, run: str) -> list[bytes]:
    """The output lines of a query, unaligned, tuples only."""
    found = bytearray()
    with clients.run("psql", ("-XqAt", "--set=ON_ERROR_STOP=1", f"--command={query}"), run, OWN) as output:
        for chunk in output.chunks():
            found += chunk
            if len(found) > 64 << 20:
                raise IntegrityError("the restored database returned more than the query's answer")
    return bytes(found).splitlines()


def literal(text: str) -> str:
    """A text as an SQL literal, whatever standard_conforming_strings says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def try_settings(clients: Clients, statements: Sequence[str], run: str) -> list[str]:
    """Run them one by one in a throw-away server; what it refused of settings, in words. LoadFailed for anything else.

    Rows do not wait for what only sets something: a name that an update of the image has taken away (a time zone, a
    parameter of a library) is no reason to lose a set.
    """
    try:
        script(clients, [*_lenient(statements)], run)
    except LoadFailed as error:
        said = _said(clients, run) if error.refused else {}
        # The last number is there only if all the others went well.
        if said.pop(len(statements), None) is None:
            raise
        return [refusal(statements[number], why) for number, why in said.items()]
    return []


def refusal(statement: str, why: str) -> str:
    """What is said of a setting that a server does not take."""
    shown = printable(" ".join(statement.split()))
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return f"the server refuses a setting, which is left out: {shown} ({printable(why)})"


def _lenient(statements: Sequence[str]) -> Iterator[str]:
    settings = {number for number, statement in enumerate(statements) if is_setting(statement)}
    if not settings:
        yield from statements
        return
    yield f"DROP TABLE IF EXISTS {_REFUSED}; CREATE TABLE {_REFUSED} (number int, said text);"
    for number, statement in enumerate(statements):
        if number not in settings:
            yield statement
            continue
        note = f"INSERT INTO {_REFUSED} VALUES ({number}, SQLERRM)"  # noqa: S608 - a number
        body = f"BEGIN EXECUTE {literal(statement)}; EXCEPTION WHEN OTHERS THEN {note}; END"
        yield f"DO {literal(body)};"
    end = len(statements)
    yield f"INSERT INTO {_REFUSED} SELECT {end}, '' WHERE EXISTS (SELECT FROM {_REFUSED});"  # noqa: S608 - a number
    told = f"BEGIN IF EXISTS (SELECT FROM {_REFUSED}) THEN RAISE 'settings were refused'; END IF; END"
    yield f"DO {literal(told)};"


def _said(clients: Clients, run: str) -> dict[int, str]:
    query = f"SELECT number || ' ' || translate(said, E'\\n\\r', '  ') FROM {_REFUSED} ORDER BY number"  # noqa: S608 - ours
    try:
        told = [line.decode(errors="replace").partition(" ") for line in query_lines(clients, query, run)]
    except DumpFailed:
        return {}  # there is no such table: nothing got so far
    return {int(number): why for number, _, why in told}
