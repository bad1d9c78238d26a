"""A base backup: the whole cluster as it is, which received WAL can be replayed on; and what is then needless."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup import formatting
from backup.catalog.wal_archive import StreamFile, WalArchive, clusters
from backup.errors import BackupError, ConfigError, DumpFailed, IntegrityError, KeyMissing, NoSpace, SourceError
from backup.formatting import printable
from backup.logging import logger
from backup.model.manifest import Artifact
from backup.model.run import Outcome, Run
from backup.model.wal import (
    DEFAULT_SIZE,
    Base,
    SegmentId,
    expired,
    is_segment,
    lsn,
    needless,
    spans,
    unneeded,
)
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.pitr.increment import Choice, flaw, known_lengths, parent_of, words
from backup.operations.pitr.scrub import SCRUB_HINT, scrub_share
from backup.operations.restore.locking import refuse_unfinished
from backup.pipeline import age, gzip
from backup.postgres.base_backup import BaseContent, BaseReader
from backup.postgres.dump_source import PostgresSource
from backup.postgres.replication import ClusterFacts, cluster_facts, cut_files, held_wal, server_wal, summarized
from backup.postgres.session_settings import Standing
from backup.postgres.wal_rights import receiver_name
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.filesystem import free_space

BASE: Final = "base"
# The trigger of one that follows a gap: until it is there, no moment can be had.
WINDOW: Final = "window"
_OPTIONS: Final = (
    *("--pgdata=-", "--format=tar", "--wal-method=none", "--no-sync"),
    *("--checkpoint=fast", "--manifest-checksums=SHA256", "--label=obcms-backup"),
)
_GLANCE: Final = 0.2
_CATCH_UP: Final = 30.0
# A base packs to a third of the cluster or less; what is free must be enough for one that does not pack at all.
_SPARE: Final = 64 << 20
_AT_ONCE: Final = 2


@dataclass(frozen=True, kw_only=True)
class BaseContext(Context):
    """What a base backup works with. `days`: how far back moments are kept; `patience` in seconds, for the stream.

    `identity` opens what is encrypted to `recipients`, if it is here.
    """

    source: Callable[[], PostgresSource]
    days: int
    level: int
    patience: float
    recipients: Sequence[age.Recipient] = ()
    steady: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def take_base(request: runs.Request, context: BaseContext, *, full: bool = False) -> Run:
    """Take a base backup, compare it with the server's manifest, read it back, and remove what is then needless.

    It holds what has changed since the newest one where the server can tell that, unless it is to be `full`.
    ConfigError where none can be taken, SourceError while no WAL is received: without that it would be worth nothing.
    """
    run = request.run(BASE, context.clock())
    with runs.locked(context, run, request.wait) as run, runs.recorded(context, run) as recording:
        refuse_unfinished(context.catalog.root, run.started)
        source = context.source()
        source.sweep()
        facts = cluster_facts(source.login)
        source.clients.check(Standing(facts.major))
        archive = WalArchive(context.catalog.root, facts.system_identifier)
        # First what nobody needs any more: it may be what keeps a base from having room.
        removed = prune(context, archive)
        _require(context, facts)
        # Before it is chosen what to build on.
        damaged = scrub_share(archive, context.progress, context.clock()) if run.trigger != WINDOW else []
        choice = Choice("it was asked for") if full else _choice(context, source, archive, facts)
        with runs.timed(recording.seconds, "total"):
            # Slots are named by lower-case letters, digits and underscores.
            with held_wal(source.login, f"obcms_backup_{source.instance}"):
                base, choice = _take(_Taking(context, run, source, archive, facts), choice)
                _catch_up(context, source)
            _await_wal(context, archive, base)
        removed += prune(context, archive)
        if damaged:
            raise IntegrityError(f"{base.id} was taken, but {'; '.join(map(printable, damaged))}", SCRUB_HINT)
        recording.success = {
            "outcome": Outcome.SUCCESS,
            "message": f"{base.id}: {formatting.size(base.bytes)} in {formatting.size(base.artifact.stored_size)}"
            + (f"; {words(base, choice.why)}" if facts.summarizing else "")
            + (f"; {formatting.plural(removed, 'older file')} removed" if removed else ""),
        }
    return recording.run


def _require(context: BaseContext, facts: ClusterFacts) -> None:
    """Refuse what would be no base, before the server does anything."""
    if facts.tablespaces:
        raise ConfigError(
            f"the cluster has tablespaces ({printable(', '.join(facts.tablespaces))}), which base backups do not take"
            " along; none was made",
            "Set BACKUP_PITR=off, or move what lies there to pg_default. Nightly sets are not concerned.",
        )
    stream = StreamFile(context.catalog.root).read()
    if stream is None or not stream.as_of(context.clock()).up or stream.system_identifier != facts.system_identifier:
        said = stream.message if stream and stream.message else "nothing is known of it"
        raise SourceError(
            f"no WAL is being received ({printable(said)}), so a base backup would be worth nothing; none was made",
            "BACKUP_PITR=on, and `docker compose up -d backup`; `moments` shows the stream.",
        )


def _require_room(archive: WalArchive, facts: ClusterFacts, parent: Base | None) -> None:
    """NoSpace unless there is room for a base like the last one of its kind; at first for the whole cluster."""
    free, bases = free_space(archive.directory), archive.list_bases()
    alike = [base for base in bases if bool(base.parent) == bool(parent)] or bases
    needed = int(alike[-1].artifact.stored_size * 1.1) if alike else facts.bytes
    if free < needed + _SPARE:
        raise NoSpace(
            f"a base backup takes about {formatting.size(needed)}, and {formatting.size(free)} are free; none was made",
            NoSpace.remedy,
        )


def _choice(context: BaseContext, source: PostgresSource, archive: WalArchive, facts: ClusterFacts) -> Choice:
    """What the next base is to build on."""
    timeline = server_wal(source.login, receiver_name(source.instance)).timeline
    parent = parent_of(archive.list_bases(), facts, timeline, archive.proof(), context.clock())
    if isinstance(parent, str):
        return Choice(parent)
    try:
        # What has been cut must be known once it is taken: if that cannot be asked, it is better known now.
        cut_files(source.login, timeline, parent.start, parent.end)
    except BackupError as error:
        return Choice(f"the summaries of WAL cannot be read: {error.message}")
    manifest = archive.manifest(parent)
    return Choice("", parent, manifest) if manifest else Choice(f"the manifest of {parent.id} is not here")


@dataclass(frozen=True)
class _Taking:
    """What a base is taken with."""

    context: BaseContext
    run: Run
    source: PostgresSource
    archive: WalArchive
    facts: ClusterFacts


def _take(taking: _Taking, choice: Choice) -> tuple[Base, Choice]:
    """Take it, and say as what. Of what the server cannot send, or sends wrongly, as an incremental one, a full one is
    taken."""
    if parent := choice.parent:
        _require_room(taking.archive, taking.facts, parent)
        try:
            return _receive(taking, choice), choice
        except _Refused as error:
            logger.warning("no incremental base backup: {}; a full one is taken", printable(str(error)))
            choice = Choice(str(error))
    else:
        logger.info("a full base backup: {}", printable(choice.why))
    _require_room(taking.archive, taking.facts, None)
    return _receive(taking, choice), choice


class _Refused(Exception):
    """There is no incremental base; why."""


@dataclass
class _Unpacked:
    """How many bytes a base unpacks to, as the disk gives it back; 0 unless that is whole.

    `locked`: why nobody here can unpack it.
    """

    identity: Path | None
    size: int = 0
    locked: KeyMissing | None = None

    def take(self, stored: Iterator[memoryview]) -> None:
        """Unpack what is stored."""
        with contextlib.suppress(IntegrityError, *gzip.DAMAGED):
            try:
                pieces = gzip.unpack(age.decrypted_chunks(map(bytes, stored), self.identity), single=True)
                self.size = sum(map(len, pieces))
            except KeyMissing as error:
                self.locked = error

    def require(self, artifact: Artifact) -> None:
        """IntegrityError unless it is what was written."""
        if self.locked:
            logger.warning("{}: read back, and not unpacked: {}", artifact.file, self.locked.message)
        elif self.size != artifact.plain_size:
            raise IntegrityError(
                f"the base backup {artifact.file} does not unpack to what was packed, and was not kept; older ones are"
                " untouched",
                "The disk gave back what was written. Is the memory of the machine failing? `base` tries again.",
            )


def _receive(taking: _Taking, choice: Choice) -> Base:
    """Receive it, compare it, and publish it. _Refused where there is none that builds on the chosen one."""
    context, archive, parent = taking.context, taking.archive, choice.parent
    started, identifier = context.clock(), f"{taking.run.started:%Y%m%dT%H%M%SZ}"
    context.progress.phase("base backup", None if parent else taking.facts.bytes)
    # The checkpoint before its first byte may take minutes, and is the server's work.
    patient = context.steady() + max(context.patience, 900.0)
    reader, unpacked, begun = BaseReader(), _Unpacked(context.catalog.identity), False
    with contextlib.ExitStack() as stack:
        stack.callback(reader.abandon)
        writer = stack.enter_context(
            ArtifactWriter(
                archive.bases, f"{identifier}.tar.gz", "base", "", context.level, context.recipients, unpacked.take
            )
        )
        try:
            with taking.source.clients.base_backup(
                _OPTIONS, taking.run.id, lambda: not begun and context.steady() < patient, choice.manifest
            ) as output:
                for chunk in output.chunks(lambda: context.progress.advance(0)):
                    begun = True
                    reader.feed(chunk)
                    writer.write(chunk)
                    context.progress.advance(len(chunk))
            content = reader.finish()
        except DumpFailed as error:
            if parent:
                raise _Refused(error.message) from error
            raise
        cut = _require_sound(taking, parent, content) if parent else ()
        artifact = writer.finish()
        unpacked.require(artifact)
        base = _record(taking, identifier, started, content, artifact, parent)
        base = base.model_copy(update={"shortened": cut})
        archive.keep_base(base, writer.staged, content.manifest if base.summarized else b"")
    if unpacked.locked and unpacked.identity:
        raise unpacked.locked
    return base


def _require_sound(taking: _Taking, parent: Base, content: BaseContent) -> tuple[tuple[int, int, int, int], ...]:
    """_Refused unless what came, and what it builds on, make together what the server has; what is `shortened`."""
    asked = taking.source.login, content.timeline, parent.start, content.start
    try:
        cut = cut_files(*asked)
        # The server removes old ones while the base streams by; what those had of cuts is not in the answer.
        if not summarized(*asked):
            raise _Refused("summaries of WAL that it was made from were removed meanwhile")
    except BackupError as error:
        raise _Refused(error.message) from error
    if why := flaw(parent, content, cut):
        raise _Refused(why)
    return known_lengths(parent, content, cut)


def _record(
    taking: _Taking,
    identifier: str,
    started: datetime,
    content: BaseContent,
    artifact: Artifact,
    parent: Base | None,
) -> Base:
    source, facts = taking.source, taking.facts
    return Base(
        id=identifier,
        run=taking.run.id,
        started=started,
        ended=taking.context.clock(),
        artifact=artifact,
        user=source.login.user,
        image=source.image,
        image_id=source.image_id,
        timeline=content.timeline,
        start=content.start,
        end=content.end,
        bytes=content.bytes,
        parent=parent.id if parent else "",
        summarized=facts.summarizing,
        checksums=facts.checksums,
        system_identifier=facts.system_identifier,
        server_version=facts.server_version,
        databases=facts.databases,
        size=facts.size,
    )


def _catch_up(context: BaseContext, source: PostgresSource) -> None:
    """Wait for the receiver to have what the base ends with; a while only: a gap is seen and said by itself."""
    name, until = receiver_name(source.instance), context.steady() + _CATCH_UP
    place = lsn(server_wal(source.login, name).current)
    while lsn(server_wal(source.login, name).received or "0/0") < place and context.steady() < until:
        context.sleep(_GLANCE)


def _await_wal(context: BaseContext, archive: WalArchive, base: Base) -> None:
    """Wait for the WAL up to the moment at which the base is consistent; SourceError when it does not come."""
    until, file = context.steady() + context.patience, StreamFile(context.catalog.root)
    while True:
        found = spans(archive.list_bases(), archive.received(base.size, file.read()))
        if any(span.live and base.id in [each.id for each in span.bases] for span in found):
            return
        if context.steady() > until:
            raise SourceError(
                f"the WAL that the base backup {base.id} needs has not come within {context.patience:.0f} s",
                "`moments` says what the stream does. The next `base` is tried once it is level.",
            )
        context.sleep(_GLANCE)


def prune(context: BaseContext, archive: WalArchive) -> int:
    """Remove bases and segments that no kept moment needs; how many files. Only under the lock."""
    now, keep = context.clock(), timedelta(days=context.days)
    archive.sweep_bases()
    bases, stream = archive.list_bases(), StreamFile(context.catalog.root).read()
    # One whose own WAL is not here brings nothing back, and no other one gives way to it.
    able = [base for span in spans(bases, archive.received(_size(bases), stream)) for base in span.bases]
    # Two of them at most: a clock that is wrong for a night must not take the whole window.
    over = unneeded(expired(able, keep, now), bases)[:_AT_ONCE]
    gone = unneeded([*over, *(each for each in bases if each not in able and each.ended <= now - keep)], bases)
    for base in gone:
        archive.remove_base(base)
    archive.remove_aside(now - keep)
    removed = len(gone) + archive.remove_damaged(now - keep)
    removed += _prune_segments(archive, [each for each in bases if each not in gone])
    for other in clusters(context.catalog.root):
        if other.system_identifier != archive.system_identifier:
            removed += _prune_other(other, now - keep)
    return removed


def _size(bases: Sequence[Base]) -> int:
    return bases[-1].size if bases else DEFAULT_SIZE


def _prune_segments(archive: WalArchive, bases: Sequence[Base]) -> int:
    size = _size(bases)
    listed = {SegmentId.of(each.name, size): each for each in archive.list_segments() if is_segment(each.name)}
    gone = [listed[each] for each in needless(listed, bases)]
    archive.remove_segments(gone)
    return len(gone)


def _prune_other(other: WalArchive, until: datetime) -> int:
    """Remove what is left of a cluster that is no more, once all of it is older than any moment that is kept."""
    bases, segments = other.list_bases(), other.list_segments()
    if any(each.ended > until for each in bases) or any(each.received > until for each in segments):
        return 0
    for base in bases:
        other.remove_base(base)
    other.remove_segments(segments)
    other.remove_damaged(until)
    other.note_server(None)
    return len(bases) + len(segments)
