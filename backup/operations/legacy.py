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
from backup.model.manifest import Artifact, file_name
from backup.operations.parts import content_of, recognised
from backup.operations.verify import volume_archive
from backup.operations.verify.set_files import Checked, Found, Reader, read_sums, wrong_roles
from backup.operations.verify.stored_bytes import Stored
from backup.pipeline.file_type import Kind
from backup.postgres.dump.dump_reader import DumpReader
from backup.progress import Progress, Silent
from backup.storage.directory import LocalStore

# What is said of a custom-format dump that nobody has read yet.
CUSTOM: Final = "is a custom-format dump: whether it is whole, only pg_restore can tell, when it is restored"


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
        artifacts = self.stored.manifest.artifacts
        archives = {each.name for each in artifacts if each.kind == "volume"}
        for artifact in artifacts:
            if artifact.kind == "index" and artifact.name not in archives:
                with self._reading(artifact.file) as source:
                    volume_archive.read_index(source.content())
            elif artifact.kind != "index":
                self._judge(artifact)
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

    def _judge(self, artifact: Artifact) -> None:
        with self._reading(artifact.file) as source:
            if artifact.kind == "roles":
                for problem in wrong_roles(source.content()):
                    self._add(artifact.file, problem)
                return
            kind = recognised(self.stored, artifact.file)
            if (artifact.kind == "volume") != (kind is Kind.TAR):
                raise IntegrityError("is an archive under a dump's name, or a dump under an archive's: rename it")
            read: dict[Kind, Callable[[Artifact, Stored], None]] = {
                Kind.SQL: self._dump,
                Kind.CUSTOM: self._custom,
                Kind.TAR: self._archive,
            }
            self.found.content[artifact.file] = kind
            read[kind](artifact, source)
            self.found.plain_sizes[artifact.file] = source.plain_size

    def _dump(self, artifact: Artifact, source: Stored) -> None:
        name, reader = artifact.file, self.outline or DumpReader()
        for piece in content_of(self.stored, source):
            reader.feed(piece)
        reader.finish()
        self.found.rows, self.found.large_objects = reader.rows, reader.large_objects
        self.found.extensions = reader.extensions
        if reader.connects:
            raise IntegrityError(
                "was made with --create: it goes to the database that it names, not to the one that is restored",
                "Make it again without --create, or take out the lines CREATE DATABASE and \\connect.",
            )
        if reader.commands:
            lines = ", ".join(printable(line) for line in reader.commands)
            self.unchecked.append(
                f"{name} has commands for psql itself, where pg_dump writes none: {lines}; a restore ends where one is"
            )
        if missing := reader.missing():
            raise IntegrityError(f"is no whole dump: it {missing}")

    def _custom(self, artifact: Artifact, source: Stored) -> None:
        for _ in content_of(self.stored, source):
            pass
        self.unchecked.append(f"{artifact.file} {CUSTOM}")

    def _archive(self, artifact: Artifact, source: Stored) -> None:
        chunks, root = content_of(self.stored, source), os.fsencode(artifact.folder)
        name, index = artifact.file, self.stored.manifest.artifact("index", artifact.name)
        if index is None:
            volume_archive.walk(chunks, root, trusted=False)
            return
        again = Stored(self._store, index.file, Silent(), self.stored.identity)
        with self._reading(index.file) as listing, contextlib.closing(again):
            try:
                walked = volume_archive.compare(chunks, listing.content(), again.content, root, trusted=False)
            except IntegrityError as error:
                self._add(name, error.message)
            else:
                for problem in walked.problems:
                    self._add(name, problem)

    def _add(self, name: str, problem: str) -> None:
        self.problems.append(problem if problem.startswith(f"{name} ") else f"{name}: {problem}")
