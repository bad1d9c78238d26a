"""What PostgreSQL's clients write about a failure: the lines that matter, and what to do about each cause.

psql is told to write the SQLSTATE in front of each message (VERBOSITY=verbose); other clients do not.
"""

from __future__ import annotations

import re
from typing import Final

from backup.formatting import printable, shortened

_LAST: Final = 5
# As psql writes it, whatever the language of the server: severity, two blanks, SQLSTATE. Notices are of class 00 to 02.
_ERROR: Final = re.compile(r"^(?:psql:[^\n]*?:\d+: )?(\w+:  )(?!0[012])([0-9A-Z]{5}): ", re.MULTILINE)
_PLAIN: Final = re.compile(r"(?:ERROR|FATAL|PANIC):  ")
# What follows an error, one or more lines of each; a line without such a beginning belongs to the one before it.
_FIELD: Final = re.compile(
    r"(?:pg_\w+: )?(LINE \d+|DETAIL|HINT|QUERY|CONTEXT|[A-Z]+ NAME|LOCATION|detail: Query was|detail|hint"
    r"|Command was):\s"
)
# What pg_dump was about stands before what the server said.
_ABOUT: Final = re.compile(r"pg_\w+: error: ")
_NAMED: Final = re.compile(r"^(SCHEMA|TABLE|CONSTRAINT) NAME:  (.*)$", re.MULTILINE)
# pg_dump's own detail is the query that it asked, which names the table; the server's QUERY may be a page.
_KEPT: Final = ("DETAIL", "CONTEXT", "detail: Query was")

_NAME: Final = r'(?P<name>"(?:[^"\n]|"")+")'
_NEW_SET: Final = " Then `create` takes a set that loads."
_SEARCH_PATH: Final = (
    "Only the search_path finds it, and a dump is loaded without one. Name it with its schema in the function that"
    " uses it, or: ALTER FUNCTION {caller} SET search_path = …, pg_temp, with the schemas that `doctor` names."
)

# Our sessions come without these limits: something has set them since, such as what is loaded, a function, a pooler.
_LIMIT: Final = (
    "The limit {} ended it. Our sessions switch it off, so a function, the dump or a proxy sets it: remove it"
    " there, or raise it, and run this again."
)
_LIMITS: Final = (
    ("due to statement timeout", _LIMIT.format("statement_timeout")),
    (
        "55P03: |due to lock timeout",
        "A lock was held for longer than lock_timeout; see pg_locks, and run this again.",
    ),
    ("due to transaction timeout", _LIMIT.format("transaction_timeout")),
    ("due to idle-in-transaction timeout", _LIMIT.format("idle_in_transaction_session_timeout")),
    ("due to idle-session timeout", _LIMIT.format("idle_session_timeout")),
    (
        "due to user request",
        "Somebody canceled the statement (pg_cancel_backend, or a watchdog of the server): run it again.",
    ),
)

# (what is found in the client's words, the remedy): the first that fits. What a pattern names is used in its remedy.
# Whoever asks for something of the live database:
_ASKING: Final = (
    # pg_dump sets a statement timeout for its LOCK TABLE alone.
    (
        "(?s)due to statement timeout.*LOCK TABLE",
        "A table is locked; see pg_locks, or raise BACKUP_LOCK_TIMEOUT.",
    ),
    *_LIMITS,
    ("password authentication failed", "Set DB_USER and DB_PASSWORD (or DB_PASSWORD_FILE) of the backup service."),
    (
        "permission denied",
        "Make DB_USER the owner of everything in the database, or a superuser. If it is one, a setting switches it"
        " to another role (ALTER ROLE or DATABASE … SET role): `\\drds` in psql lists them.",
    ),
    ("row-level security", "Give DB_USER the attribute BYPASSRLS, or make it a superuser."),
    (
        "server version mismatch",
        "The client must be as new as the server: use the image's other client, or the socket.",
    ),
    ("terminating connection", "The database ended the session; its own log says why. Run it again."),
    (
        "No space left on device",
        "The disk of the database server is full: free space there, then run this again.",
    ),
    ("server closed the connection", "The database server stopped or crashed; its own log says why."),
)
# Whoever loads a dump. A new set is advised only where it would be another one.
_LOADING: Final = (
    (
        r"backslash commands are restricted|\\unrestrict: wrong key",
        "The file has a psql command (a backslash) where pg_dump writes none. It was not run. `verify` names those"
        " at the beginning of a line. Remove it, if you trust whoever made the file.",
    ),
    (
        "permission denied to create extension " + _NAME,
        "Only a superuser can create the extension {name}: use one for DB_USER, or grant the Docker socket.",
    ),
    (
        "permission denied to create database",
        "Allow DB_USER to create databases (ALTER ROLE … CREATEDB), or grant the Docker socket.",
    ),
    (
        "query would be affected by row-level security",
        "The owner of the materialized view must see all rows: as a superuser, ALTER ROLE … BYPASSRLS." + _NEW_SET,
    ),
    (
        f"role {_NAME} does not exist",
        "Create the role on the server (CREATE ROLE {name}): the set refers to it but does not hold it. Then"
        " run this again.",
    ),
    (
        f"tablespace {_NAME} does not exist",
        "Create it on the server (CREATE TABLESPACE {name}), or move what is in it to the default one.",
    ),
    (
        r"extension \S+ is not available|could not open extension control file",
        "The server needs the extension: install it there; for a drill, name an image that has it with --image.",
    ),
    (
        r'could not (?:open [\w-]+ file|access file|load library) "[^\n]*No such file or directory',
        "The server needs the file, which no dump holds: put it into the server's image; for a drill, --image names"
        " one that has it.",
    ),
    (
        f"permission denied to change owner of (?:event trigger|foreign-data wrapper) {_NAME}",
        "Only a superuser can own {name}, and its owner no longer is one: give it to one in the live database"
        " (ALTER … OWNER TO …)." + _NEW_SET,
    ),
    (
        "shared_preload_libraries|must be preloaded",
        "The server must load a library when it starts: name it in shared_preload_libraries of the server that the"
        " set is restored to.",
    ),
    (
        r"(?s)(?:42883|42P01|42704|3F000): .*function (?P<caller>[^\n]+?\)) line \d",
        _SEARCH_PATH + _NEW_SET,
    ),
    (
        "42883: |42P01: |42704: |3F000: |(?:function|operator|relation|type|schema|collation) .+ does not exist",
        _SEARCH_PATH.replace("{caller}", "…") + _NEW_SET,
    ),
    (
        f"violates (?:foreign key|check|unique|not-null|exclusion) constraint {_NAME}",
        "Rows break their own constraint {name}: correct them in the live database, or drop it there." + _NEW_SET,
    ),
    (
        f"could not create unique index {_NAME}",
        "The live database has duplicate rows under the unique index {name}, which is damaged: remove the"
        " duplicates, then REINDEX." + _NEW_SET,
    ),
    ("23[0-9A-Z]{3}: ", "Rows break their own definition: correct them in the live database." + _NEW_SET),
    (
        "22[0-9A-Z]{3}: |P0001: ",
        "Code of the database ends with this when rows come in, an index is built or a view is filled: correct it in"
        " the live database." + _NEW_SET,
    ),
    (
        "42710: |42P07: |42P06: |42723: |already exists",
        "The server creates it by itself, or the dump creates it twice: check the image, the template database and"
        " the extensions.",
    ),
    (
        "42601: |42703: |42704: |syntax error|unrecognized configuration parameter",
        "This server reads the dump differently from its own: use the image of the set's own version, which `show`"
        " names.",
    ),
    (
        "permission denied for ",
        "If DB_USER is a superuser, the dump does this as another role, which has lost the right to it: one that passed"
        " on a grant, or owns what is called here. Give it that right in the live database." + _NEW_SET + " Otherwise"
        " make DB_USER the owner of everything in the database, or a superuser.",
    ),
    *_ASKING,
)
_UNKNOWN: Final = "The database's own log may say more."


def hint_for(said: str, *, loading: bool = False) -> str:
    """The remedy for what a PostgreSQL client wrote, if it is a known one. `loading`: it was given a dump to load."""
    for pattern, remedy in _LOADING if loading else _ASKING:
        if found := re.search(pattern, said):
            return remedy.format(**{name: printable(text) for name, text in found.groupdict().items()})
    return _UNKNOWN


def sqlstate(said: str) -> str:
    """The code of the first error that psql tells of; empty where it tells none."""
    found = _ERROR.search(said)
    return found[2] if found else ""


def constraint(said: str) -> tuple[str, ...]:
    """Schema, table and name of the constraint that psql's first error is about; empty where it is about none."""
    found = _ERROR.search(said)
    fields = {match[1]: match[2] for match in _NAMED.finditer(said, found.start())} if found else {}
    names = tuple(fields.get(each, "") for each in ("SCHEMA", "TABLE", "CONSTRAINT"))
    return names if all(names) else ()


def shown_error(said: str) -> str:
    """What a client wrote, as one harmless line: its first error with detail and context, else its last lines.

    Queries and hints of the server are left out: they are long, and the remedy is ours to name.
    """
    lines = said.strip().splitlines()
    first = next((place for place, line in enumerate(lines) if _begins(line)), None)
    if first is None:
        kept = lines[-_LAST:]
    else:
        kept = [line for line in lines[max(0, first - 1) : first] if _ABOUT.match(line)] + _error(lines[first:])
    found = [shortened(printable(_ERROR.sub(r"\1", line))) for line in kept if line.strip()]
    return "; ".join(found) or "no message"


def _begins(line: str) -> bool:
    return bool(_ERROR.search(line) or _PLAIN.search(line))


def _error(lines: list[str]) -> list[str]:
    """An error's message, and the first lines of its detail and its context."""
    found, message = lines[:1], True
    for line in lines[1:]:
        if _begins(line):
            break
        field = _FIELD.match(line)
        message = message and not field
        if field and field[1] in _KEPT:
            found.append(line)
        elif message:
            found[0] += f" {line.strip()}"
    return found
