"""What roles and a database are in a set and on a server, compared; and what makes the server's the set's. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from backup.postgres.dump.statements import quoted
from backup.postgres.roles import Roles, Statement

_ATTRIBUTES: Final = ("SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS")
# As pg_dumpall leaves them out.
_DEFAULTS: Final = {"CONNECTION LIMIT": "-1", "VALID UNTIL": ""}
_WITH: Final = "ALTER ROLE R WITH *"
_SET: Final = "ALTER ROLE R SET P TO *"
_COMMENT: Final = "COMMENT ON ROLE R IS V"
_MEMBERSHIP: Final = "GRANT R TO R"
_SUBJECTS: Final = {
    "ALTER DATABASE D OWNER TO R": "its owner",
    "ALTER DATABASE D CONNECTION LIMIT *": "its connection limit",
    "COMMENT ON DATABASE D IS V": "its comment",
}


def differing(listed: Roles, here: Roles) -> dict[str, list[str]]:
    """In what roles that are in both are not the same: by their names, never with values, which may be secret."""
    there = states(here)
    found = {}
    for name, wanted in states(listed).items():
        has = there.get(name, {})
        if name in there and (unlike := [key for key, value in wanted.items() if has.get(key) != value]):
            found[name] = unlike
    return found


def aligning(listed: Roles, names: Collection[str], unharmed: Collection[str]) -> list[str]:
    """What makes the roles `names`, which exist, what they were: all but their passwords.

    From those `unharmed` nothing is taken away: somebody is at work as them.
    """
    found = []
    for each in listed.statements:
        if each.database or _whose(each) not in names:
            continue
        if each.kind == _WITH:
            found.append(_with(each, each.roles[0] in unharmed))
        elif each.kind.startswith(_MEMBERSHIP):
            # Whoever granted it may not be able to do so here.
            found.append(f"{each.text[: each.place[0]].rstrip()};" if each.place[0] else each.text)
        elif each.kind in (_SET, _COMMENT):
            found.append(each.text)
    return found


def _whose(statement: Statement) -> str:
    """The role that it makes what it is."""
    return statement.roles[1] if statement.kind.startswith(_MEMBERSHIP) else statement.roles[-1]


def subjects(statements: Iterable[Statement]) -> list[str]:
    """What statements about a database concern, in words."""
    return list(dict.fromkeys(map(_subject, statements)))


def states(listed: Roles) -> dict[str, dict[str, str]]:
    """What each role is: its attributes, settings, comment and memberships."""
    found: dict[str, dict[str, str]] = {name: dict(_DEFAULTS) for name in listed.names}
    for each in listed.statements:
        its = {} if each.database else found.get(_whose(each), {})
        if each.kind == _WITH:
            its |= _attributes(each.words[4:])
        elif each.kind == _SET:
            its[each.words[4]] = " ".join(each.words[6:])
        elif each.kind == _COMMENT:
            its["comment"] = each.words[-1]
        elif each.kind.startswith(_MEMBERSHIP):
            its[f"member of {each.roles[0]}"] = "yes"
    return found


def _attributes(words: tuple[str, ...]) -> dict[str, str]:
    found, position = dict[str, str](), 0
    while position < len(words):
        word, pair = words[position].upper(), " ".join(words[position : position + 2]).upper()
        if pair in _DEFAULTS:
            found[pair] = _instant(words[position + 2]) if pair == "VALID UNTIL" else words[position + 2]
            position += 3
        elif word == "PASSWORD":
            position += 2
        else:
            found[word.removeprefix("NO")] = "no" if word.startswith("NO") else "yes"
            position += 1
    return found


def _instant(text: str) -> str:
    """A moment however a server writes it."""
    try:
        return str(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return text


def _with(statement: Statement, unharmed: bool) -> str:
    attributes = _attributes(statement.words[4:])
    words = [
        ("" if attributes[name] == "yes" else "NO") + name
        for name in _ATTRIBUTES
        if name in attributes and (attributes[name] == "yes" or not unharmed)
    ]
    limit = attributes.get("CONNECTION LIMIT", "-1")
    return f"ALTER ROLE {quoted(statement.roles[0])} WITH {' '.join(words)} CONNECTION LIMIT {limit};"


def _subject(statement: Statement) -> str:
    if statement.kind.endswith("SET P TO *"):
        place = statement.words.index("SET", 3)
        return statement.words[place + 1]
    return _SUBJECTS.get(statement.kind, "grants on it")
