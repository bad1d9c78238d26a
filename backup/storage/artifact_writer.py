"""One artifact on its way to disk: measure plain bytes → gzip → age, if wanted → measure stored bytes → staged file.

A producer that fails raises in the writer's body, so the file is thrown away before anything could
take it for whole. Compression runs in a thread of its own, with a bounded queue: memory stays flat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from backup.errors import IntegrityError
from backup.model.manifest import Artifact, ArtifactKind
from backup.pipeline import age, gzip
from backup.storage.directory import LocalStore
from backup.storage.staged_file import StagedFile, Taker


class ArtifactWriter:
    """A compressed file being written. Use as a context manager; `finish` seals it and gives its Artifact.

    `write` must be given bytes that nobody changes afterwards: they are queued for compression. `recipients`: those
    that it is encrypted to; its name then ends in `.age`. `taker`: see StagedFile.
    """

    def __init__(
        self,
        store: LocalStore,
        file: str,
        kind: ArtifactKind,
        name: str = "",
        level: int = 1,
        recipients: Sequence[age.Recipient] = (),
        taker: Taker | None = None,
    ) -> None:
        self.kind, self.name = kind, name
        self.size = 0
        # A volume's content is hashed file by file in its index, and a base's by the server; hashing it again as a
        # whole would tell nothing new. Whoever hashes what is written, part by part or as a whole, turns it off.
        self.hashing, self.plain_sha256 = kind not in ("volume", "base"), ""
        self._hash = hashlib.sha256()
        self.staged: StagedFile = store.stage(file + age.SUFFIX if recipients else file, taker)
        self._age: age.AgeWriter | None = None
        try:
            self._age = age.AgeWriter(self.staged, recipients) if recipients else None
            self._gzip = gzip.GzipWriter(self._age or self.staged, level)
        except BaseException:
            self._throw_away()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Throw away what was written."""
        self._gzip.abandon()
        self._throw_away()

    def _throw_away(self) -> None:
        if self._age:
            self._age.abandon()
        self.staged.discard()

    def write(self, data: bytes) -> int:
        """Append plain bytes."""
        self._gzip.write(data)
        if self.hashing:
            self._hash.update(data)
        self.size += len(data)
        return len(data)

    def mark(self) -> None:
        """Let what follows be read by itself (see GzipWriter.mark)."""
        self._gzip.mark()

    @property
    def marks(self) -> list[int]:
        """Where in the file what follows each mark begins, once it is finished. Nobody can seek in age's stream."""
        return self._gzip.marks

    @property
    def encrypted(self) -> bool:
        """Whether nobody reads the file without a key."""
        return self._age is not None

    def finish(self) -> Artifact:
        """Write the end, flush, read back from the disk, and describe what is there."""
        self._gzip.close()
        if self._age:
            self._age.close()
        if self.size and not self.staged.size:
            raise IntegrityError(f"{self.staged.name}: the compressor wrote nothing; the run was not published")
        self.staged.seal()
        return Artifact(
            kind=self.kind,
            name=self.name,
            file=self.staged.name,
            stored_size=self.staged.size,
            stored_sha256=self.staged.sha256,
            plain_size=self.size,
            plain_sha256=self._hash.hexdigest() if self.hashing else self.plain_sha256,
            encryption="age" if self._age else "",
        )
