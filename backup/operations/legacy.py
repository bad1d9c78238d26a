"""Files without a manifest: those of the old scripts, and of a set of ours that has lost its own.

Only they themselves can be asked what they hold, so their bytes say what they are, and a set that lost its manifest
still has its checksums and its file indexes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from backup.errors import BackupError, IntegrityError, StoreError
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.manifest import file_name, parse_file_name
from backup.operations.verify import volume_archive
from backup.operations.verify.set_files import Checked, Found, Reader, read_sums, wrong_roles
from backup.operations.verify.stored_bytes import Stored
from backup.pipeline import age
from backup.pipeline.file_type import HEAD, Content, Kind, recognise
from backup.postgres.dump.dump_reader import DumpReader
from backup.progress import Progress, Silent
from backup.storage.directory import LocalStore

_ARCHIVE: Final = ".tar.gz"
_INDEX: Final = ".files.gz"
_INDEXES: Final = (_INDEX, f"{_INDEX}.age")
# What is said of a custom-format dump that nobody has read yet.
CUSTOM: Final = "is a custom-format dump: only a restore can tell whether it is complete"


def check_without_manifest(stored: StoredSet, progress: Progress, outline: Reader | None = None) -> Checked:
    """Read every file to its end; `outline`, if given, is fed with a plain dump that is among them."""
    return _Check(stored, progress, outline).run()


@dataclass
class _Check:
    stored: StoredSet
    progress: Progress
    outline: Reader | None
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    sums: dict[str, str] = field(default_factory=dict)

    def run(self) -> Checked:
        if self.stored.problem:
            self.problems.append(self.stored.problem)
        self._read_sums()
        for name in self.stored.files:
            if self.stored.loose or not name.endswith((".json", ".sha256", *_INDEXES)):
                self._judge(name)
            elif name.endswith(_INDEXES) and self._archive_of(name) not in self.stored.files:
                with self._reading(name) as source:
                    volume_archive.read_index(source.content())
        self.problems += [f"{name} is missing" for name in self.sums if name not in self.stored.files]
        if not self.sums:
            self.unchecked.append("sizes, checksums and row counts: there is no manifest to compare with")
        return Checked(self.problems, self.unchecked, self.found)

    def _read_sums(self) -> None:
        name = file_name("set", self.stored.id, "sha256")
        if name in self.stored.files:
            try:
                self.sums = read_sums(self._store, name)
            except BackupError as error:
                self.problems.append(error.message)

    @property
    def _store(self) -> LocalStore:
        return LocalStore(self.stored.directory)

    @staticmethod
    def _archive_of(index: str) -> str:
        return index.replace(_INDEX, _ARCHIVE)

    @staticmethod
    def _index_of(archive: str) -> str:
        """Nothing for a lone file, whose name says nothing."""
        return archive.replace(_ARCHIVE, _INDEX) if _ARCHIVE in archive else ""

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[Stored]:
        """A file to be read by the body; its SHA-256 is compared afterwards, if one is known."""
        source = Stored(self._store, name, self.progress, self.stored.identity)
        try:
            try:
                yield source
            except IntegrityError as error:
                self._add(name, error.message)
            source.drain()
            if not source.failed and self.sums.get(name, source.sha256) != source.sha256:
                self._add(name, "has changed since its checksum was written")
        except StoreError as error:
            self.problems.append(error.message)
        finally:
            source.close()

    def _judge(self, name: str) -> None:
        parsed = parse_file_name(name, self.stored.tier)
        if parsed and parsed.what == "roles" and parsed.content == "sql.gz":
            with self._reading(name) as source:
                for problem in wrong_roles(source.content()):
                    self._add(name, problem)
            return
        with self._reading(name) as source:
            content = self.found.content[name] = recognise(self._head(name))
            if parsed and (parsed.content == "tar.gz") != (content.kind is Kind.TAR):
                raise IntegrityError("is an archive under a dump's name, or a dump under an archive's: rename it")
            read: dict[Kind, Callable[[str, Stored, Content], None]] = {
                Kind.SQL: self._dump,
                Kind.CUSTOM: self._custom,
                Kind.TAR: self._archive,
            }
            read[content.kind](name, source, content)
            self.found.plain_sizes[name] = source.plain_size

    def _dump(self, name: str, source: Stored, content: Content) -> None:
        reader = self.outline or DumpReader()
        for piece in source.content(packed=content.packed, single=False):
            reader.feed(piece)
        reader.finish()
        self.found.rows, self.found.large_objects = reader.rows, reader.large_objects
        self.found.extensions = reader.extensions
        if reader.connects:
            raise IntegrityError(
                "was made with --create: it loads into the database that it names, not into the one that is restored",
                "Make it again without --create, or take out the lines CREATE DATABASE and \\connect.",
            )
        if reader.commands:
            lines = ", ".join(printable(line) for line in reader.commands)
            self.unchecked.append(
                f"{name} has commands for psql itself, where pg_dump writes none: {lines}; a restore stops at the first"
            )
        if missing := reader.missing():
            raise IntegrityError(f"is an incomplete dump: it {missing}")

    def _custom(self, name: str, source: Stored, content: Content) -> None:
        for _ in source.content(packed=content.packed, single=False):
            pass
        self.unchecked.append(f"{name} {CUSTOM}")

    def _archive(self, name: str, source: Stored, content: Content) -> None:
        chunks = source.content(packed=content.packed, single=False)
        index, parsed = self._index_of(name), parse_file_name(name)
        loose = next((each.root for each in self.stored.loose if each.name == name), "")
        root = os.fsencode(loose or (parsed.what if parsed else ""))
        if index not in self.stored.files:
            volume_archive.walk(chunks, root, trusted=False)
            return
        again = Stored(self._store, index, Silent(), self.stored.identity)
        with self._reading(index) as listing, contextlib.closing(again):
            try:
                walked = volume_archive.compare(chunks, listing.content(), again.content, root, trusted=False)
            except IntegrityError as error:
                self._add(name, error.message)
            else:
                for problem in walked.problems:
                    self._add(name, problem)

    def _head(self, name: str) -> bytes:
        with open(self._store.open(name), "rb") as file:
            return age.head(file, self.stored.identity, HEAD)[0]

    def _add(self, name: str, problem: str) -> None:
        self.problems.append(problem if problem.startswith(f"{name} ") else f"{name}: {problem}")
