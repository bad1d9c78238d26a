"""The files of one set against its manifest, or what they hold by themselves, each read from the disk once.

Nothing is recorded here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from backup.catalog.packs import packs_beside
from backup.errors import IntegrityError, KeyMissing, StoreError
from backup.formatting import plural, printable
from backup.media.tree import Judged, Location, parse_pairs
from backup.model.backup_set import SEALED, StoredSet, manifest_name, missing_or_resized
from backup.model.manifest import Artifact, DatabasePart, file_name
from backup.operations.set_artifacts import read_bounded
from backup.operations.verify import volume_archive
from backup.operations.verify.consistency import OF_A_VOLUME, contradictions, named_by
from backup.operations.verify.packs import PackChecks
from backup.operations.verify.stored_bytes import Stored
from backup.operations.verify.written import Written
from backup.pipeline.chunks import split_lines
from backup.pipeline.file_type import FileKind
from backup.postgres.dump.contents import Contents, ContentsCheck
from backup.postgres.dump.dump_digest import Outline
from backup.postgres.dump.dump_reader import DumpReader
from backup.progress import Progress, Silent
from backup.storage.directory import LocalStore

# What is fed with a dump as it is read.
Reader = DumpReader | Outline
_LISTED: Final = 20
_STORED_ALONE: Final = "what the files hold: this time their stored bytes alone were compared"
_LONGEST_LIST: Final = 1 << 20
_SUM: Final = re.compile(rb"([0-9a-f]{64})  ([A-Za-z0-9._-]+)\n")
_CLUSTER_HEADER: Final = b"--\n-- PostgreSQL database cluster dump\n--\n"


@dataclass
class SetContent:
    """What reading a set told: rows per table, large objects and extensions of its database; by file the SHA-256 of
    what was read, and what it is by its bytes where no manifest says it."""

    rows: dict[str, int] = field(default_factory=dict)
    large_objects: int = 0
    extensions: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)
    content: dict[str, FileKind] = field(default_factory=dict)


class Checked(NamedTuple):
    """What is wrong with a set, what could not be judged, and what was learnt."""

    problems: list[str]
    unchecked: list[str]
    found: SetContent


class SetCheck:
    """One check of a set by its manifest. `outline`, if given, is fed with the database's dump."""

    _trusted = True

    def __init__(
        self,
        stored: StoredSet,
        progress: Progress,
        outline: Reader | None = None,
        packs: PackChecks | None = None,
        written: Written | None = None,
    ) -> None:
        self._stored, self._manifest, self._progress, self._outline = stored, stored.manifest, progress, outline
        self._packs = packs or PackChecks(packs_beside(stored.directory), progress)
        self._store, self._written = LocalStore(stored.directory), written or Written()
        self._found = SetContent()
        self._contents: Contents | None = None
        self._problems: list[str] = []

    def run(self, *, quick: bool) -> Checked:
        """Judge every file. Quick: by its size and SHA-256 as it lies; else also by all that it holds."""
        sizes = {artifact.file: size_of(self._store, artifact.file) for artifact in self._manifest.artifacts}
        if self._manifest.id != self._stored.id:
            self._problems.append(f"the manifest is that of {printable(self._manifest.id)}")
        self._problems += [] if quick else contradictions(self._manifest)
        self._problems += missing_or_resized(self._manifest, sizes)
        self._problems += self._wrong_sums()
        for pack in self._manifest.packs:
            self._problems += self._packs.problems(pack, quick=quick)
        usable = [artifact for artifact in self._manifest.artifacts if sizes[artifact.file] == artifact.stored_size]
        for artifact in contents_first(usable):
            if not quick:
                self._judge(artifact, usable)
            elif not self._written.is_in(self._store, artifact):
                with self._reading(artifact):
                    pass
        if quick and (part := self._manifest.database):
            self._found.rows, self._found.large_objects = dict(part.rows), part.large_objects
            self._found.extensions = list(part.extensions)
        sealed = self._stored.encrypted and self._stored.identity is None
        unchecked = [SEALED if sealed else _STORED_ALONE] if quick else []
        return Checked(self._problems, unchecked, self._found)

    def _judge(self, artifact: Artifact, usable: list[Artifact]) -> None:
        beside = [each for each in usable if each.name == artifact.name and each.kind in OF_A_VOLUME]
        if artifact.kind in ("volume", "tree") and len(beside) == 2:
            judge = self._volume if artifact.kind == "volume" else self._tree
            judge(artifact, next(each for each in beside if each.kind == "index"))
        elif artifact.kind in ("volume", "tree") or (artifact.kind == "index" and len(beside) < 2):
            self._alone(artifact)
        elif artifact.kind == "roles":
            with self._reading(artifact) as source:
                self._problems += named_of(artifact, wrong_roles(self._plain(source, artifact)))
        elif artifact.kind == "contents":
            with self._reading(artifact) as source:
                contents = Contents.decode(read_bounded(self._plain(source, artifact), artifact.file))
                self._contents = self._contents or contents
        elif artifact.kind == "database":
            self._database(artifact)

    @contextlib.contextmanager
    def _reading(self, artifact: Artifact) -> Iterator[Stored]:
        """A file to be read by the body. Afterwards the rest is read, and the whole compared with the manifest."""
        source = Stored(self._store, artifact.file, self._progress, self._stored.identity)
        locked: KeyMissing | None = None
        try:
            try:
                yield source
            except IntegrityError as error:
                self._problems += named_of(artifact, [error.message])
            except KeyMissing as error:  # or its beginning is damaged, which the rest tells
                locked = error
            source.drain()
            self._found.sha256[artifact.file] = source.sha256
            if not source.failed and (text := self._changed(artifact, source.sha256)):
                self._problems.append(f"{artifact.file} {text}")
            elif locked:
                raise KeyMissing(f"{artifact.file}: {locked.message}", locked.hint)
        except StoreError as error:
            self._problems.append(error.message)
        finally:
            source.close()

    def _changed(self, artifact: Artifact, sha256: str) -> str:
        if sha256 == artifact.stored_sha256:
            return ""
        return "has changed since it was written: its SHA-256 differs from the manifest's"

    def _plain(self, source: Stored, artifact: Artifact) -> Generator[bytes, None, None]:
        """What an artifact holds, compared with the manifest when its end is reached."""
        digest = hashlib.sha256() if artifact.plain_sha256 else None
        contents = self._contents if artifact == self._manifest.artifact("database") else None
        parts = [(part.stored, part.size) for part in contents.parts] if contents else []
        for piece in source.content(parts=parts):
            if digest:
                digest.update(piece)
            yield piece
        if source.plain_size != artifact.plain_size:
            text = f"unpacks to {source.plain_size:,} bytes instead of {artifact.plain_size:,}"
            self._problems.append(f"{artifact.file} {text}")
        elif digest and digest.hexdigest() != artifact.plain_sha256:
            self._problems.append(f"{artifact.file} does not unpack to what was packed")

    def _database(self, artifact: Artifact) -> None:
        # Files of an old set may be more dumps than one; it is the first that is restored.
        first = artifact == self._manifest.artifact("database")
        reader = self._outline if self._outline and first else DumpReader()
        check = ContentsCheck(self._contents) if self._contents and first else None
        with self._reading(artifact) as source:
            for piece in self._plain(source, artifact):
                reader.feed(piece)
                if check:
                    check.feed(piece)
            reader.finish()
            if first:
                self._found.rows, self._found.large_objects = reader.rows, reader.large_objects
                self._found.extensions = reader.extensions
            problems = [f"is an incomplete dump: it {missing}"] if (missing := reader.missing()) else []
            if check and not check.agrees(reader.spans):
                problems.append("does not hold what its contents list")
            self._problems += named_of(artifact, [*problems, *self._wrong_dump(artifact, reader)])

    def _wrong_dump(self, _artifact: Artifact, reader: Reader) -> list[str]:
        return wrong_rows(self._manifest.database, reader) if self._manifest.database else []

    def _volume(self, archive: Artifact, index: Artifact) -> None:
        if self._is_as_written(archive, index):
            return
        with self._reading(archive) as content, self._reading(index) as listing:
            again = Stored(self._store, index.file, Silent(), self._stored.identity)
            try:
                walked = volume_archive.compare(
                    self._plain(content, archive),
                    self._plain(listing, index),
                    again.content,
                    os.fsencode(archive.folder),
                    lambda: self._progress.advance(0),
                    trusted=self._trusted,
                )
            except IntegrityError as error:
                self._problems += named_of(archive, [error.message])
            else:
                self._judge_counts(archive, walked)
            finally:
                again.close()

    def _is_as_written(self, archive: Artifact, index: Artifact) -> bool:
        """Whether what was read back, the index and the manifest agree. Where not, reading all says why."""
        members = self._written.held(self._written.archives, self._store, archive)
        if members is None:
            return False
        before, agrees = len(self._problems), False
        with self._reading(index) as listing:
            agrees = members.agrees(self._plain(listing, index))
        self._judge_counts(archive, members.walked)
        right = agrees and len(self._problems) == before
        del self._problems[before:]
        return right

    def _tree(self, tree: Artifact, index: Artifact) -> None:
        named = {pack.file: pack for pack in self._manifest.packs if pack.volume == tree.name}
        whole = {file for file, pack in named.items() if not self._packs.problems(pack)}

        def digest(place: Location, size: int) -> str | None:
            return self._packs.content(named[place.pack], place, size) if place.pack in whole else volume_archive.UNREAD

        judged: Judged | None = self._packs.judged(named[file] for file in whole)
        if next((part.hard_links for part in self._manifest.volumes if part.name == tree.name), 1):
            judged = None  # what links lead to is looked for in all of it
        with self._reading(tree) as source, self._reading(index) as listing:
            again = Stored(self._store, index.file, Silent(), self._stored.identity)
            lines, listed = split_lines(self._plain(source, tree)), split_lines(self._plain(listing, index))
            try:
                walked = volume_archive.compare_tree(
                    named_by(parse_pairs(lines, listed, judged), named),
                    again.content,
                    os.fsencode(tree.folder),
                    digest,
                    lambda: self._progress.advance(0),
                )
                if judged:
                    walked.counts.update(files=judged.files, bytes=judged.stored)
                if judged and not walked.problems:
                    self._packs.note_judged(judged)
            except IntegrityError as error:
                self._problems += named_of(tree, [error.message])
            else:
                self._judge_counts(tree, walked)
            finally:
                again.close()

    def _alone(self, artifact: Artifact) -> None:
        """An archive or an index whose other half cannot be used."""
        with self._reading(artifact) as source:
            plain = self._plain(source, artifact)
            if artifact.kind == "volume":
                walked = volume_archive.walk(plain, os.fsencode(artifact.folder), trusted=self._trusted)
                self._judge_counts(artifact, walked)
            elif artifact.kind == "tree":
                for _ in plain:
                    pass
            else:
                volume_archive.read_index(plain)

    def _judge_counts(self, archive: Artifact, walked: volume_archive.Walked) -> None:
        part = next((part for part in self._manifest.volumes if part.name == archive.name), None)
        counts = volume_archive.wrong_counts(part, walked) if part else []
        self._problems += named_of(archive, [*walked.problems, *counts])

    def _wrong_sums(self) -> list[str]:
        """What is wrong with the list for `sha256sum -c`, with which people check a set without this product."""
        name = file_name("set", self._stored.id, "sha256")
        try:
            sums = read_sums(self._store, name)
        except (IntegrityError, StoreError) as error:
            return [error.message]
        expected = {artifact.file: artifact.stored_sha256 for artifact in self._manifest.artifacts}
        manifest = sums.pop(manifest_name(self._stored.id), "")
        if manifest and manifest != _sha256(self._store, manifest_name(self._stored.id)):
            return [f"{manifest_name(self._stored.id)} has changed since {name} was written"]
        return [] if sums == expected else [f"{name} does not list what the manifest lists"]


def wrong_rows(part: DatabasePart, reader: Reader) -> list[str]:
    """Where a dump holds other rows or large objects than the manifest says."""
    problems = []
    for table in sorted(part.rows.keys() | reader.rows.keys()):
        expected, found = part.rows.get(table), reader.rows.get(table)
        if expected is None or found is None:
            where = "the manifest" if expected is None else "the dump"
            problems.append(f"table {printable(table)} is missing in {where}")
        elif expected != found:
            problems.append(f"table {printable(table)} has {plural(found, 'row')} instead of {expected:,}")
    if len(problems) > _LISTED:
        problems[_LISTED:] = [f"and {len(problems) - _LISTED:,} more tables"]
    if part.large_objects != reader.large_objects:
        problems.append(f"has {plural(reader.large_objects, 'large object')} instead of {part.large_objects:,}")
    return problems


def wrong_roles(chunks: Iterable[bytes]) -> list[str]:
    """Whether a file of roles is whole. Settings follow its trailer, so that it may stand anywhere."""
    head, reader = b"", DumpReader()
    for chunk in chunks:
        head += chunk[: len(_CLUSTER_HEADER) - len(head)]
        reader.feed(chunk)
    reader.finish()
    if head != _CLUSTER_HEADER:
        return ["does not begin like a list of roles"]
    return [f"is an incomplete list of roles: it {missing}"] if (missing := reader.missing()) else []


def read_sums(store: LocalStore, name: str) -> dict[str, str]:
    """SHA-256 in hex by file name from a list for `sha256sum -c`. IntegrityError for a damaged one, StoreError."""
    data = store.read(name, _LONGEST_LIST)
    found = {match[2].decode(): match[1].decode() for match in _SUM.finditer(data)}
    if b"".join(b"%s  %s\n" % (value.encode(), key.encode()) for key, value in found.items()) != data:
        raise IntegrityError(f"{name} is damaged")
    return found


def size_of(store: LocalStore, name: str) -> int | None:
    """Bytes of a stored file, None where there is none."""
    try:
        return (store.directory / name).lstat().st_size
    except OSError:
        return None


def _sha256(store: LocalStore, name: str) -> str:
    return hashlib.sha256(store.read(name)).hexdigest()


def contents_first(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """In the order in which they are judged: a dump is compared with its contents."""
    return sorted(artifacts, key=lambda each: each.kind != "contents")


def named_of(artifact: Artifact, problems: list[str]) -> list[str]:
    """Problems that name the file which they are of."""
    known = artifact.file + " "
    return [each if each.startswith(known) else f"{artifact.file}: {each}" for each in problems]
