"""The set as it grows."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from backup.model.manifest import Artifact, ArtifactKind, DatabasePart, VolumePart
from backup.model.pack import Pack
from backup.operations import runs
from backup.operations.create.context import CreateContext
from backup.operations.verify.written import Written
from backup.postgres.dump.definitions import Definitions
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.directory import LocalStore
from backup.storage.staged_file import StagedFile, Taker


@dataclass
class SetDraft:
    """The set as it grows: artifacts, staged files, parts, and how long each phase took.

    `definitions` and `roles` are what makes its database and its roles, to be tried. `packs` are those that it needs,
    `named` bytes of each, `new_packs` the files of those that it makes, `written` what the disk gave back
    of all. It is as old as `started`.
    """

    id: str
    run: str
    store: LocalStore
    started: datetime
    artifacts: list[Artifact] = field(default_factory=list)
    staged: list[StagedFile] = field(default_factory=list)
    database: DatabasePart | None = None
    definitions: Definitions = field(default_factory=Definitions)
    roles: str = ""
    volumes: list[VolumePart] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    new_packs: list[StagedFile] = field(default_factory=list)
    written: Written = field(default_factory=Written)
    seconds: dict[str, float] = field(default_factory=dict)

    def take(self, writer: ArtifactWriter) -> Artifact:
        """Seal a writer's file and keep it for publication."""
        artifact = writer.finish()
        self.artifacts.append(artifact)
        self.staged.append(writer.staged)
        self.written.note(writer.staged)
        return artifact

    def forget(self) -> None:
        """Nothing of it counts: what was taken is made anew."""
        self.artifacts.clear()
        self.staged.clear()
        self.database = None

    def discard(self) -> None:
        """Throw away what was taken."""
        for file in self.staged:
            file.discard()

    def timed(self, phase: str) -> AbstractContextManager[None]:
        """Add the body's duration to `phase`."""
        return runs.timed(self.seconds, phase)

    def writer(
        self,
        context: CreateContext,
        file: str,
        kind: ArtifactKind,
        name: str = "",
        taker: Taker | None = None,
    ) -> ArtifactWriter:
        """A file of it, to be written. `taker` is for one that is not encrypted."""
        recipients = context.recipients
        return ArtifactWriter(
            self.store, file, kind, name, context.compression, recipients, None if recipients else taker
        )
