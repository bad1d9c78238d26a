"""The settings that every session of ours brings along, whatever its server, database or role are set to. Pure.

They are given when a session begins, where they count for more than those of roles and databases: a trigger of a login
acts, and a limit ends a session, before anything could be said in it. A setting that the server does not know, or that
the role may not change, would end the login, so that those of later versions and those of superusers are told apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

# What ends a session, or refuses it what it does.
_LIFE: Final[Mapping[str, str]] = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",
    # A client that takes no more for a while may wait for a disk.
    "tcp_user_timeout": "0",
    # An error instead of rows that are hidden without a word.
    "row_security": "off",
}
# How values and names are written, so that dumps can be compared.
_OUTPUT: Final[Mapping[str, str]] = {
    "datestyle": "ISO,MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "xmloption": "content",
    "synchronize_seqscans": "off",
    # Of what is said besides, what counts.
    "client_min_messages": "warning",
}
# How they are read, and where what is made has its place unless a dump says so.
_INPUT: Final[Mapping[str, str]] = {
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "check_function_bodies": "off",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "default_table_access_method": "heap",
    "gin_fuzzy_search_limit": "0",
}
_ALWAYS: Final[Mapping[str, str]] = {**_LIFE, **_OUTPUT, **_INPUT}
_LATER: Final[Mapping[int, Mapping[str, str]]] = {
    17: {"transaction_timeout": "0", "restrict_nonsystem_relation_kind": ""},
}
# Of those, what came to earlier versions by a minor release: said once a session has begun.
UNRESTRICTED: Final = b"""SELECT pg_catalog.set_config(name, '', false) FROM pg_catalog.pg_settings
 WHERE name OPERATOR(pg_catalog.=) 'restrict_nonsystem_relation_kind';
"""
EVENT_TRIGGERS: Final = "event_triggers"
# What only superusers may change, and whom they let: GRANT SET ON PARAMETER. Unknown before the version.
_PRIVILEGED: Final[Mapping[str, tuple[int, str]]] = {
    # A trigger of the application's must not act on what we do, be it a login; a broken one must not keep us out.
    EVENT_TRIGGERS: (17, "off"),
    "session_replication_role": (0, "origin"),
    # Remedies are found by what the server says.
    "lc_messages": (0, "C"),
    # Pages that cannot be read are to be an error, not rows that are missing without a word.
    "zero_damaged_pages": (0, "off"),
    "ignore_checksum_failure": (0, "off"),
}
# Values are written alike whatever the database, the role or the server is set to. Not for loads: a view that is filled
# in one may go by the zone. Sums of money are written so that `dump/money.py` can say how.
DUMP: Final[Mapping[str, str]] = {"timezone": "UTC", "lc_monetary": "C"}
# What may be set only where it is there, and allowed.
WHERE_ALLOWED: Final[Mapping[str, str]] = {
    **{name: value for settings in _LATER.values() for name, value in settings.items()},
    **{name: value for name, (_, value) in _PRIVILEGED.items()},
}
PINNED: Final[Mapping[str, str]] = {**_ALWAYS, **WHERE_ALLOWED}


@dataclass(frozen=True)
class Standing:
    """What a login may bring along: `major` is the server's version, `granted` what it may set of superusers' alone."""

    major: int
    granted: Collection[str] = ()

    @classmethod
    def superuser(cls, major: int) -> Standing:
        """Of one who may set all that the version knows."""
        return cls(major, PRIVILEGED)

    @property
    def options(self) -> str:
        """The settings as `options` of a connection."""
        found = dict(_ALWAYS)
        for since, settings in _LATER.items():
            found |= settings if self.major >= since else {}
        for name, (since, value) in _PRIVILEGED.items():
            if name in self.granted and self.major >= since:
                found[name] = value
        return connection_options(found)

    def less(self, refusal: str) -> Standing | None:
        """What may do instead where a server refused a login with these words; None if not for what it brought."""
        # The names are in them, in whatever language. The server looks at those of later versions first.
        if self.major and any(name in refusal for settings in _LATER.values() for name in settings):
            return ANYWHERE
        return Standing(self.major) if any(name in refusal for name in self.granted) else None


PRIVILEGED: Final = frozenset(_PRIVILEGED)
# Known to every server, and free to everybody.
ANYWHERE: Final = Standing(0)
# The most that has to be there from the first moment: all else can be set a moment later.
MOST_RIGHTS: Final = Standing(max(_LATER), (EVENT_TRIGGERS,))


def connection_options(settings: Mapping[str, str]) -> str:
    """Settings as the `options` of a connection."""
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)
