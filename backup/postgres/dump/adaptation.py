"""A dump changed on its way into a server that is not the one it was taken from.

Three things alone: a tablespace that is not there becomes the default one, an extension is made in the version that it
had, and what belongs to an extension that can be in one database only is put aside until this is that database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from backup.postgres.dump.dump_reader import END, NAME, Watcher
from backup.postgres.dump.statements import TAIL, literal, meant

# What pg_dump writes between two objects: settings for the one that comes, and the beginning of its comment.
_BETWEEN: Final = re.compile(rb"(?:^SET \w+ = [^\n]*;\n\n)*--\n\Z", re.MULTILINE)
_TABLESPACE: Final = re.compile(rb"^SET default_tablespace = (?!'')(" + NAME + rb");$", re.MULTILINE)
_EXTENSION: Final = re.compile(
    rb"^(CREATE EXTENSION IF NOT EXISTS " + NAME + rb"(?: WITH SCHEMA " + NAME + rb")?);$", re.MULTILINE
)
# So much of an object is handed on at once: whoever gets it sees that few rows are few.
_WHOLE: Final = 64 << 10
_ENCODING: Final = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_BEGIN: Final = b"""SET client_encoding = '%b';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET row_security = off;
"""
# Extensions whose documentation wants a function to be called when they are made and before there are rows, and
# another one when all is loaded.
LOADING: Final = {"timescaledb": ("timescaledb_pre_restore", "timescaledb_post_restore")}


@dataclass(frozen=True)
class Adaptation:
    """`versions` are those of the extensions, `waiting` maps extensions that are put aside to their schemas.

    `tablespaces` are those of the server; None when all that the dump names are there.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    tablespaces: frozenset[str] | None = None

    def waits(self, kind: str, name: str) -> bool:
        """Whether an object, as DumpReader tells of it, belongs to what is put aside."""
        if kind == "EXTENSION":
            return name in self.waiting
        own = {f"EXTENSION {each}" for each in self.waiting} | {f"SCHEMA {each}" for each in self.waiting.values()}
        return name in own or any(name.startswith(f"{schema}.") for schema in self.waiting.values())

    def applied(self, watcher: Watcher, aside: Callable[[bytes], object] = len) -> Watcher:
        """A Watcher that hands the changed dump on to `watcher`, and to `aside` what waits."""
        return _Adapted(self, watcher, aside)

    def makes(self, extension: str) -> bool:
        """Whether the statement that makes an extension is another one than the dump's."""
        return extension in self.versions or extension in LOADING


AS_IT_IS: Final = Adaptation()


def called(extension: str, function: str) -> str:
    """The statement that calls a function in the schema of an extension."""
    names = "pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
    found = f"SELECT format('SELECT %I.{function}()', nspname) FROM {names} WHERE extname = '{extension}'"  # noqa: S608 - ours
    return f"DO $obcms$ BEGIN EXECUTE ({found}); END $obcms$;"


class _Adapted:
    def __init__(self, how: Adaptation, watcher: Watcher, aside: Callable[[bytes], object]) -> None:
        self._how, self._watcher, self._aside = how, watcher, aside
        self._kind = self._extension = ""
        self._waits = False
        self._head = b""
        # The end of the present object, as far as it is known: what comes behind it decides whose it is.
        self._held = b""

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        between = _BETWEEN.search(self._held)
        end = between.start() if between else len(self._held)
        own, settings, self._held = self._held[:end], self._held[end:], b""
        self._pass(self._made(own) if self._extension else own)
        if settings:
            self._watcher.data(self._placed(settings))
        self._kind, self._waits = kind, self._how.waits(kind, name)
        self._extension = name if kind == "EXTENSION" and self._how.makes(name) and not self._waits else ""
        if not self._waits:
            self._watcher.section(kind, name)

    def table(self, table: str) -> None:
        """See Watcher."""
        self._pass(self._held)
        self._held = b""
        if not self._waits:
            self._watcher.table(table)

    def data(self, data: bytes) -> None:
        """See Watcher."""
        self._held += data
        if self._kind == END or len(self._held) > _WHOLE:
            end = len(self._held) - (0 if self._kind == END else TAIL)
            self._pass(self._held[:end])
            self._held = self._held[end:]

    def _pass(self, data: bytes) -> None:
        if not self._kind and len(self._head) < TAIL:
            self._head += data[:TAIL]
        if data and self._waits:
            self._aside(self._settings() + data)
        elif data:
            self._watcher.data(data)

    def _settings(self) -> bytes:
        """What the first of what is put aside has to begin with."""
        encoding = _ENCODING.search(self._head)
        self._head = b""
        return _BEGIN % encoding[1] if encoding else b""

    def _placed(self, settings: bytes) -> bytes:
        there = self._how.tablespaces
        if there is None:
            return settings
        default = b"SET default_tablespace = '';"
        return _TABLESPACE.sub(lambda each: each[0] if meant(each[1]) in there else default, settings)

    def _made(self, text: bytes) -> bytes:
        """The section of an extension, in the version that it had, and with what it wants before rows come."""
        name, version = self._extension, self._how.versions.get(self._extension, "")
        if version:
            text = _EXTENSION.sub(lambda each: _in_version(each[1], name, version), text)
        before = LOADING.get(name)
        return text + (called(name, before[0]).encode() + b"\n\n" if before else b"")


def _in_version(statement: bytes, name: str, version: str) -> bytes:
    """The same statement for this version, where the server has it."""
    known = b"name = %b AND version = %b" % (literal(name.encode()), literal(version.encode()))
    clause = b"SELECT ' VERSION ' || quote_literal(version) FROM pg_catalog.pg_available_extension_versions WHERE "
    body = b"BEGIN EXECUTE %b || coalesce((%b%b), ''); END" % (literal(statement), clause, known)
    return b"DO " + literal(body) + b";"
