"""The files of a set whose manifest is lost, by what they hold themselves."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from backup.errors import BackupError, IntegrityError, StoreError
from backup.formatting import printable
from backup.model.backup_set import BARE
from backup.model.manifest import Artifact, file_name
from backup.operations.set_artifacts import content_of, recognised
from backup.operations.verify.set_files import Checked, Reader, SetCheck, contents_first, named_of, read_sums
from backup.operations.verify.stored_bytes import Stored
from backup.pipeline.file_type import FileKind

# What is said of a custom-format dump that nobody has read yet.
CUSTOM: Final = "is a custom-format dump: only a restore can tell whether it is complete"


class BareCheck(SetCheck):
    """One of a set whose manifest is derived: its bytes say what they are, and all of them are read.

    One of ours that lost its manifest still has its checksums and its file indexes.
    """

    _trusted = False

    def run(self, *, quick: bool = False) -> Checked:
        """Judge every file; there is nothing to be quick with."""
        self._problems += [self._stored.problem] if self._stored.problem else []
        self._unchecked: list[str] = []
        self._sums = self._known_sums()
        for artifact in contents_first(self._manifest.artifacts):
            self._judge(artifact, list(self._manifest.artifacts))
        self._problems += [f"{name} is missing" for name in self._sums if name not in self._stored.files]
        if not self._sums:
            self._unchecked.append(BARE)
        return Checked(self._problems, self._unchecked, self._found)

    def _known_sums(self) -> dict[str, str]:
        name = file_name("set", self._stored.id, "sha256")
        try:
            return read_sums(self._store, name) if name in self._stored.files else {}
        except BackupError as error:
            self._problems.append(error.message)
            return {}

    def _judge(self, artifact: Artifact, usable: list[Artifact]) -> None:
        if artifact.kind not in ("database", "volume"):
            super()._judge(artifact, usable)
            return
        try:
            kind = recognised(self._stored, artifact.file)
            if (artifact.kind == "volume") != (kind is FileKind.TAR):
                raise IntegrityError("is an archive under a dump's name, or a dump under an archive's: rename it")
        except IntegrityError as error:
            self._problems += named_of(artifact, [error.message])
        except StoreError as error:
            self._problems.append(error.message)
        else:
            self._found.content[artifact.file] = kind
            if kind is not FileKind.CUSTOM:
                super()._judge(artifact, usable)
                return
            with self._reading(artifact) as source:
                for _ in self._plain(source, artifact):
                    pass
            self._unchecked.append(f"{artifact.file} {CUSTOM}")

    def _changed(self, artifact: Artifact, sha256: str) -> str:
        return "has changed since its checksum was written" if self._sums.get(artifact.file, sha256) != sha256 else ""

    def _plain(self, source: Stored, artifact: Artifact) -> Generator[bytes, None, None]:
        by_bytes = artifact.kind in ("database", "volume")
        yield from content_of(self._stored, source) if by_bytes else source.content()

    def _wrong_dump(self, artifact: Artifact, reader: Reader) -> list[str]:
        if reader.commands:
            lines = ", ".join(printable(line) for line in reader.commands)
            self._unchecked.append(
                f"{artifact.file} has commands for psql itself, where pg_dump writes none: {lines};"
                " a restore stops at the first"
            )
        elsewhere = (
            "was made with --create: it loads into the database that it names, not into the one that is restored"
        )
        return [elsewhere] if reader.connects else []
