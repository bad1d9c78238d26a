"""A set's roles file, taken apart: what concerns roles that are missing, what concerns the database. Pure.

The file is run with a superuser's rights, so that only statements of the kinds that pg_dumpall and `settings_for`
write are let through. Names in it may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backup.errors import IntegrityError
from backup.formatting import printable
from backup.postgres.dump.statements import quoted

# Words stand for themselves, `R` for a role, `D` for the database, `P` for any other name, `V` for a string, `L` for
# privileges, `*` for any tokens at all.
_GRANTED_BY: Final = " GRANTED BY R"
_MEMBERSHIPS: Final = tuple(f"GRANT R TO R{how}{by}" for by in (_GRANTED_BY, "") for how in ("", " WITH *"))
_CREATE: Final = "CREATE ROLE R"
_PARAMETERS: Final = ("GRANT L ON PARAMETER P TO R", "GRANT L ON PARAMETER P TO R WITH GRANT OPTION")
_KINDS: Final = (
    _CREATE,
    *_MEMBERSHIPS,
    *_PARAMETERS,
    "ALTER ROLE R WITH *",
    "ALTER ROLE R SET P TO *",
    "COMMENT ON ROLE R IS V",
    "SECURITY LABEL FOR P ON ROLE R IS V",
    "ALTER DATABASE D OWNER TO R",
    "ALTER DATABASE D CONNECTION LIMIT *",
    "ALTER DATABASE D SET P TO *",
    "ALTER ROLE R IN DATABASE D SET P TO *",
    "COMMENT ON DATABASE D IS V",
    "REVOKE ALL ON DATABASE D FROM PUBLIC",
    "REVOKE ALL ON DATABASE D FROM R",
    "GRANT L ON DATABASE D TO R",
    "GRANT L ON DATABASE D TO R WITH GRANT OPTION",
)
# What a server may not take any more, and of which nothing else depends.
_SETTINGS: Final = ("ALTER ROLE R SET P TO *", "ALTER DATABASE D SET P TO *", "ALTER ROLE R IN DATABASE D SET P TO *")
# Around grants on a parameter by one who is not its owner.
_AS: Final = "SET SESSION AUTHORIZATION R"
_AS_BEFORE: Final = "RESET SESSION AUTHORIZATION"
_ESCAPES: Final = "SET STANDARD_CONFORMING_STRINGS = OFF"
_PLAINLY: Final = "SET STANDARD_CONFORMING_STRINGS = ON"
_SESSION: Final = (
    _ESCAPES,
    _PLAINLY,
    "SET DEFAULT_TRANSACTION_READ_ONLY = OFF",
    "SET CLIENT_ENCODING = V",
    "SET ESCAPE_STRING_WARNING = OFF",
)

_COMMON: Final = r"""
    (?P<space> [ \t\r\n\f\v]++ | --[^\n]*+ )
  | (?P<key> ^\\(?:un)?restrict[ ]\w+$ )
  | (?P<name> "(?:[^"\0]|"")*+" )
  | (?P<escaped> [eE]'(?:[^'\\\0]|\\[^\0]|'')*+' )
  | (?P<dollar> \$(?P<tag>[A-Za-z_]*)\$[^\0]*?\$(?P=tag)\$ )
  | (?P<word> (?:[A-Za-z_]|[^\0-\x7f])(?:[A-Za-z0-9_$]|[^\0-\x7f])*+(?!['"&]) )
  | (?P<number> -?[0-9]++(?:\.[0-9]++)?(?![\w$.]) )
  | (?P<mark> [,=;] )
"""
_FLAGS: Final = re.VERBOSE | re.MULTILINE | re.DOTALL
_PLAIN: Final = re.compile(_COMMON + r"| (?P<string> '(?:[^'\0]|'')*+' )", _FLAGS)
# Where standard_conforming_strings is off, a backslash escapes in every string.
_ESCAPING: Final = re.compile(_COMMON + r"| (?P<string> '(?:[^'\\\0]|\\[^\0]|'')*+' )", _FLAGS)
# A list setting may be long; more is no statement.
_MOST: Final = 2000
_STRINGS: Final = ("string", "escaped", "dollar")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int

    def fits(self, sign: str) -> bool:
        """Whether it can be what `sign` stands for in a kind."""
        if sign in ("R", "D", "P"):
            # An empty one may be in a list that is set, and the server says what it thinks of that.
            return self.kind in ("name", "word") and self.text != '""'
        return self.kind in _STRINGS if sign == "V" else self.kind in ("word", "mark") and self.text.upper() == sign

    @property
    def meant(self) -> str:
        """The name that it is, as the server reads it."""
        return self.text[1:-1].replace('""', '"') if self.kind == "name" else _folded(self.text)

    @property
    def word(self) -> str:
        """What it says without its quotes."""
        return self.text[1:-1].replace(self.text[0] * 2, self.text[0]) if self.text[0] in "\"'" else self.text


@dataclass(frozen=True)
class Statement:
    """One statement, as it is in the file. `roles` it is about, in order; `database` it is about, empty for none.

    `kind` is its form, as in `GRANT R TO R`; `place` is where `text` has the database's name, or by whom it is granted.
    `words` are its tokens, names and strings as they are meant.
    """

    text: str
    kind: str
    roles: tuple[str, ...]
    database: str = ""
    place: tuple[int, int] = (0, 0)
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Roles:
    """A whole file. `session` is how its text is to be read: it goes before any of its statements."""

    statements: tuple[Statement, ...]
    session: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Roles:
        """Take the file apart; IntegrityError for anything that does not belong in one."""
        session: list[str] = []
        return cls(tuple(_statements(text, session)), tuple(session))

    @property
    def names(self) -> tuple[str, ...]:
        """The roles that the file creates."""
        return tuple(each.roles[0] for each in self.statements if each.kind == _CREATE)

    def missing(self, existing: Collection[str]) -> list[str]:
        """The roles that the file creates and that are not there, in its order."""
        return [name for name in self.names if name not in existing]

    def script(self, existing: Collection[str], bootstrap: str = "") -> list[str]:
        """What makes the missing roles all that they were; nothing is changed in those that exist.

        `bootstrap` is the role that the set's server was initialised with: on this server another one grants.
        """
        new = set(self.missing(existing))
        found = [*self.session] if new else []
        for each in self.statements:
            if each.database:
                continue
            if each.kind in _MEMBERSHIPS:
                if new & set(each.roles[:2]):
                    found.append(_granted(each, new, bootstrap))
            elif each.roles[-1] in new:
                found.append(each.text)
        return found

    def for_new_cluster(self, bootstrap: str) -> list[str]:
        """All about roles, but for the creation of the one that a new server begins with."""
        own = (_CREATE, (bootstrap,))
        statements = [each.text for each in self.statements if not each.database and (each.kind, each.roles) != own]
        return [*self.session, *statements]

    def database_settings(self, source: str, target: str) -> list[str]:
        """What concerns the database `source`, for one called `target`; IntegrityError if it is about another."""
        # Made by the server's format(), which does not depend on the session.
        return list(_renamed((each for each in self.statements if each.database), source, target))


def is_setting(statement: str) -> bool:
    """Whether a single statement does nothing but set a parameter for a role or a database."""
    try:
        pieces = list(_pieces(statement))
    except IntegrityError:
        return False  # it is written for a session that reads backslashes otherwise
    return len(pieces) == 1 and bool(_kind(pieces[0], _SETTINGS))


def retarget(statements: Iterable[str], source: str, target: str) -> list[str]:
    """Statements about the database `source` as statements about `target`; IntegrityError for any other."""
    return list(_renamed(Roles.parse("\n".join(statements)).statements, source, target))


def _renamed(statements: Iterable[Statement], source: str, target: str) -> Iterator[str]:
    for each in statements:
        if each.database != source:
            raise _foreign(each.text, f"is not about the database {printable(source)!r}")
        start, end = each.place
        yield each.text[:start] + quoted(target) + each.text[end:]


def _granted(membership: Statement, new: Collection[str], bootstrap: str) -> str:
    """A membership by whom it was granted, unless that one may not be able to grant it here."""
    if not membership.kind.endswith(_GRANTED_BY):
        return membership.text
    role, _, grantor = membership.roles
    if role in new and grantor != bootstrap:
        return membership.text
    start, end = membership.place
    return membership.text[:start].rstrip() + membership.text[end:]


def _statements(text: str, session: list[str]) -> Iterator[Statement]:
    pieces = _pieces(text)
    for tokens in pieces:
        whole = _whole(text, tokens)
        if _kind(tokens, _SESSION):
            session.append(whole)
        elif _kind(tokens, (_AS,)):
            yield _acting(text, whole, pieces)
        else:
            yield _statement(tokens, whole)


def _acting(text: str, begin: str, pieces: Iterator[list[_Token]]) -> Statement:
    """Grants by another role, from `SET SESSION AUTHORIZATION` to `RESET`, as one: none may be run without the rest."""
    grants: list[Statement] = []
    for tokens in pieces:
        whole = _whole(text, tokens)
        if grants and _kind(tokens, (_AS_BEFORE,)):
            return replace(grants[0], text="\n".join([begin, *(each.text for each in grants), whole]))
        grants.append(_statement(tokens, whole))
        if grants[-1].kind not in _PARAMETERS or grants[-1].roles != grants[0].roles:
            raise _foreign(begin, "is followed by something unexpected")
    raise _foreign(begin, "has no end")


def _statement(tokens: list[_Token], whole: str) -> Statement:
    kind = _kind(tokens, _KINDS)
    if not kind:
        raise _foreign(whole, "is none of the kinds that make roles and their databases")
    names, first = _match(kind.split(), tokens) or [], tokens[0].start
    roles = tuple(token.meant for sign, token in names if sign == "R")
    words = tuple(token.word for token in tokens)
    database = next((token for sign, token in names if sign == "D"), None)
    if database:
        place = (database.start - first, database.end - first)
        return Statement(whole, kind, roles, database.meant, place, words)
    place = (tokens[-3].start - first, tokens[-1].end - first) if kind.endswith(_GRANTED_BY) else (0, 0)
    return Statement(whole, kind, roles, place=place, words=words)


def _kind(tokens: Sequence[_Token], kinds: Iterable[str]) -> str:
    """Of which of these kinds a statement is; empty for none."""
    return next((kind for kind in kinds if _match(kind.split(), tokens) is not None), "")


def _match(signs: Sequence[str], tokens: Sequence[_Token]) -> list[tuple[str, _Token]] | None:
    """What each sign of a kind stands for, but for those of any length; None when it is not of this kind."""
    if not signs or not tokens:
        return None if signs or tokens else []
    sign = signs[0]
    if sign in ("*", "L"):
        for count in range(1, len(tokens) + 1):
            if sign == "L" and (
                tokens[count - 1].kind not in ("word", "mark") or tokens[count - 1].text.upper() == "ON"
            ):
                return None
            if (rest := _match(signs[1:], tokens[count:])) is not None:
                return rest
        return None
    if not tokens[0].fits(sign):
        return None
    rest = _match(signs[1:], tokens[1:])
    return None if rest is None else [(sign, tokens[0]), *rest]


def _pieces(text: str) -> Iterator[list[_Token]]:
    """The tokens of each statement, without its semicolon."""
    reader, tokens, position = _PLAIN, list[_Token](), 0
    while position < len(text):
        match = reader.match(text, position)
        # psql takes a line for its own only between statements.
        if not match or len(tokens) == _MOST or (match.lastgroup == "key" and tokens):
            raise _foreign(text[tokens[0].start if tokens else position :], "cannot be read")
        kind, position = match.lastgroup or "", match.end()
        if match[0] == ";":
            yield tokens
            if _kind(tokens, _SESSION) in (_ESCAPES, _PLAINLY):
                reader = _ESCAPING if _kind(tokens, (_ESCAPES,)) else _PLAIN
            tokens = []
        elif kind not in ("space", "key"):
            tokens.append(_Token(kind, match[0], match.start(), match.end()))
    if tokens:
        raise _foreign(text[tokens[0].start :], "has no end")


def _whole(text: str, tokens: list[_Token]) -> str:
    return text[tokens[0].start : tokens[-1].end] + ";" if tokens else ";"


def _folded(name: str) -> str:
    """As the server does it: ASCII only."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def _foreign(statement: str, why: str) -> IntegrityError:
    # What follows a quote may be a password's hash.
    shown = printable(statement[:200].partition("'")[0])
    return IntegrityError(
        f"the roles file cannot be used: a statement in it {why}: {shown!r}; nothing was run",
        "pg_dumpall does not write this. Was the file edited? `verify` tells; `zcat` shows it.",
    )
