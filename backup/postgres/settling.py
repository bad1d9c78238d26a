"""Statements run one by one, of which a server may refuse those that only set something: rows do not wait for them.

A name that an update of the image has taken away (a time zone, a parameter of a library) is no reason to lose a set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backup.errors import DumpFailed, LoadFailed
from backup.formatting import printable
from backup.postgres.clients import Clients
from backup.postgres.psql import lines, literal, script
from backup.postgres.roles import is_setting

_TABLE: Final = "public.obcms_backup_refused"
_SHOWN: Final = 200


def settle(clients: Clients, statements: Sequence[str], run: str) -> list[str]:
    """Run them in a throw-away server; what it refused of settings, in words. LoadFailed for anything else."""
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
    return f"the server does not take a setting, which is left out: {shown} ({printable(why)})"


def _lenient(statements: Sequence[str]) -> Iterator[str]:
    settings = {number for number, statement in enumerate(statements) if is_setting(statement)}
    if not settings:
        yield from statements
        return
    yield f"DROP TABLE IF EXISTS {_TABLE}; CREATE TABLE {_TABLE} (number int, said text);"
    for number, statement in enumerate(statements):
        if number not in settings:
            yield statement
            continue
        note = f"INSERT INTO {_TABLE} VALUES ({number}, SQLERRM)"  # noqa: S608 - a number
        body = f"BEGIN EXECUTE {literal(statement)}; EXCEPTION WHEN OTHERS THEN {note}; END"
        yield f"DO {literal(body)};"
    end = len(statements)
    yield f"INSERT INTO {_TABLE} SELECT {end}, '' WHERE EXISTS (SELECT FROM {_TABLE});"  # noqa: S608 - a number
    told = f"BEGIN IF EXISTS (SELECT FROM {_TABLE}) THEN RAISE 'settings were refused'; END IF; END"
    yield f"DO {literal(told)};"


def _said(clients: Clients, run: str) -> dict[int, str]:
    query = f"SELECT number || ' ' || translate(said, E'\\n\\r', '  ') FROM {_TABLE} ORDER BY number"  # noqa: S608 - ours
    try:
        told = [line.decode(errors="replace").partition(" ") for line in lines(clients, query, run)]
    except DumpFailed:
        return {}  # there is no such table: nothing got so far
    return {int(number): why for number, _, why in told}
