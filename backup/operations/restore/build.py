"""The new state, made beside the old one: a database loaded from the dump, files unpacked from the archives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from backup.errors import DatabaseUnavailable, LoadFailed, RestoreFailed
from backup.formatting import listed, plural, printable
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Locale, Manifest
from backup.operations.load import Apart, Load, attempt_for, complete, load_dump, rows_apart, sessions_at_once
from backup.operations.restore.context import Work
from backup.operations.restore.decrypt_pipe import decrypted
from backup.operations.restore.journal import DatabaseSwap, RestoreStep
from backup.operations.restore.server_compatibility import Fit, allowed, contrast, given, last_notes, taken
from backup.operations.set_artifacts import (
    archive_of,
    content_of,
    dump_of,
    open_file,
    packs_of,
    read_roles,
    require_unchanged,
)
from backup.operations.verify.run import SetContent
from backup.pipeline.file_type import FileKind
from backup.postgres.admin import apply_settings, create_database, drop
from backup.postgres.deferred_statements import Deferred
from backup.postgres.dump.adaptation import LOADING, Adaptation
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import settings_for
from backup.postgres.roles import Roles
from backup.postgres.row_counts import analyzing, count_rows
from backup.postgres.server import Database, find_database, fitting_name, roles, usable
from backup.postgres.session import Login
from backup.progress import Progress
from backup.storage.filesystem import free_space

_SPARE: Final = 1.05


def swap_for(source: PostgresSource, live: Database | None, stamp: str, marker: str) -> DatabaseSwap:
    """The names of a restore's databases; nothing is made yet."""
    name = source.login.name
    return DatabaseSwap(
        live=name,
        live_oid=live.oid if live else None,
        new=fitting_name(name, f"__restore_{stamp}"),
        kept=fitting_name(name, f"__before_{stamp}"),
        marker=marker,
        settings=settings_for(source.login, name) if usable(live) else (),
    )


def load_database(work: Work, source: PostgresSource, stored: StoredSet, found: SetContent, fitted: Fit) -> None:
    """Make the new database, load it strictly, compare it with what was dumped."""
    swap = work.journal.database
    if swap is None:
        return
    apart, jobs = rows_apart(stored, work.context.progress), work.context.jobs()
    # What loads it is started beside what comes before.
    with source.clients.ahead(work.journal.run, sessions_at_once(apart, jobs)):
        renew = _prepare(work, swap, source.login, stored, fitted)
        _fill(work, source, stored, found, fitted, renew, apart, jobs)


def _prepare(work: Work, swap: DatabaseSwap, login: Login, stored: StoredSet, fitted: Fit) -> Callable[[], None]:
    """Make the new database; gives what makes it anew."""
    part = stored.manifest.database
    live = usable(find_database(login, swap.live))
    like = part.locale if part and part.locale else live.locale if live else None
    listed = roles_of(stored)
    unlike = contrast(login, live, swap.settings, listed, part)
    new_roles = _make_roles(login, listed, part.bootstrap if part else "") if listed else []
    if new_roles:  # noted before anything else can fail: a rollback removes them again
        work.advance(RestoreStep.LOADING, roles=tuple(new_roles))
    place = live.tablespace if live else ""
    swap = _make(work, swap, login, like, place)
    its = taken(login, given(login, unlike, swap.settings, listed, part), swap.new)
    work.advance(RestoreStep.LOADING, database=swap.model_copy(update={"settings": (*its.own, *its.roles)}))
    work.told += last_notes(login, live, unlike, fitted.lacks)
    return lambda: _renew(work, login, like, place)


def extract_volumes(work: Work, stored: StoredSet) -> None:
    """Unpack the archives beside the live files."""
    if not work.journal.volumes:
        return
    work.advance(RestoreStep.EXTRACTING)
    trees, nearest = work.context.trees(), list[str]()
    for volume in work.journal.volumes:
        work.context.progress.phase(f"unpacking {volume.name}")
        archive, index, root = archive_of(stored, volume.name)
        limit = most_bytes(stored.manifest, volume.name) or free_space(work.context.volumes / volume.name)
        with ExitStack() as stack:
            spooled = work.context.spool / f"{work.context.instance}.{work.journal.run}"
            content = stack.enter_context(decrypted(stored, archive, spooled.with_name(f"{spooled.name}.archive")))
            listing = spooled.with_name(f"{spooled.name}.index")
            notes = trees.extract(
                volume.name,
                content,
                stack.enter_context(decrypted(stored, index, listing)) if index else None,
                volume.stamp,
                root=root,
                limit=limit,
                trusted=not stored.derived,
                packs=packs_of(stored),
            )
        nearest += [f"{volume.name}: {note}" for note in notes]
    for line in nearest:
        logger.warning("{}", line)
    # In the journal: whoever ends this after a kill says it, too.
    work.advance(RestoreStep.EXTRACTING, nearest=tuple(nearest))


def roles_of(stored: StoredSet) -> Roles | None:
    """The roles that a set was dumped with."""
    text = read_roles(stored, unchanged=True)
    return Roles.parse(text) if text else None


def _make_roles(login: Login, listed: Roles, bootstrap: str) -> list[str]:
    there = roles(login)
    missing = listed.missing(there)
    if missing:
        logger.info("making {}: {}", plural(len(missing), "missing role"), printable(", ".join(missing)))
        apply_settings(login, login.name, allowed(login, login.name, listed.script(there, bootstrap)))
    return missing


def _make(work: Work, swap: DatabaseSwap, login: Login, like: Locale | None, tablespace: str) -> DatabaseSwap:
    oid = create_database(login, swap.new, like, swap.marker, tablespace)
    swap = swap.model_copy(update={"new_oid": oid})
    work.advance(RestoreStep.LOADING, database=swap)
    return swap


def _renew(work: Work, login: Login, like: Locale | None, tablespace: str) -> None:
    """A new database in the place of the one that was begun."""
    swap = work.journal.database
    if swap and swap.new_oid:
        drop(login, swap.new_oid, swap.new)
        swap = swap.model_copy(update={"new_oid": None})
        # Found by its mark, until its number is noted.
        work.advance(RestoreStep.LOADING, database=swap)
        _make(work, swap, login, like, tablespace)


def _fill(
    work: Work,
    source: PostgresSource,
    stored: StoredSet,
    found: SetContent,
    fitted: Fit,
    renew: Callable[[], None],
    apart: Apart | None,
    jobs: int,
) -> None:
    swap, file = work.journal.database, dump_of(stored)
    if swap is None:
        return
    work.context.progress.phase("loading the database", stored.size)
    clients, run = source.loading(swap.new, work.journal.run), work.journal.run
    judge = _Judge(work, replace(source.login, name=swap.new), found, fitted.adaptation)

    @contextlib.contextmanager
    def sql(load: Load) -> Iterator[Iterator[bytes]]:
        if apart:
            yield load.pieces()
            return
        with contextlib.closing(_pieces(stored, file, found.sha256[file], work.context.progress)) as given:
            if found.content.get(file) is not FileKind.CUSTOM:
                yield given
                return
            with clients.as_sql(given, run) as converted:
                yield converted

    def go(load: Load) -> None:
        # Anew for each attempt: what was put aside at the first is gone with its database.
        with _putting_aside(judge.login, fitted) as aside:
            reader = DumpReader(fitted.adaptation.applied(load.split, aside), counting=False)
            with sql(load) as given:
                for piece in given:
                    reader.feed(piece)
            reader.finish()
            load.finish()
        judge.early(load.path)

    try:
        attempt = attempt_for(stored, allow_invalid=work.allow_invalid)
        work.loaded = load_dump(clients, run, attempt, go, renew, jobs=jobs, apart=apart)
        complete(clients, found.extensions, run)
        judge.late(work.loaded.path)
        for line in (*work.loaded.notes, *(each.told for each in work.loaded.left)):
            logger.warning("{}", printable(line))
    except LoadFailed as error:
        raise RestoreFailed(
            f"{stored.id} does not load: {error.message}. The live data were not touched", error.hint
        ) from error


@contextlib.contextmanager
def _putting_aside(login: Login, fitted: Fit) -> Iterator[Callable[[bytes], object]]:
    """Takes what can be in the database only once it has its name: kept in it until the commit runs it.

    Not where it is never to be the one that it can be in.
    """
    if fitted.lacks.elsewhere:
        yield len
        return
    kept = Deferred(login)
    yield kept.write
    kept.close()


def _pieces(stored: StoredSet, file: str, sha256: str, progress: Progress) -> Generator[bytes, None, None]:
    """All of the dump. Nothing is ended in good order unless it is as it was verified."""
    with open_file(stored, file, progress) as source:
        yield from content_of(stored, source)
        source.drain()
        require_unchanged(source, sha256)


@dataclass
class _Judge:
    """Counts the rows of the new database, and makes its statistics, while the sessions of the load end if it can."""

    work: Work
    login: Login
    found: SetContent
    how: Adaptation
    done: bool = False

    def early(self, path: str) -> None:
        """Try it. Not before extensions are told that all is loaded; where connections are short, it gets none yet."""
        self.done = False
        if LOADING.keys().isdisjoint(self.found.extensions):
            with contextlib.suppress(DatabaseUnavailable):
                self._judge(path)

    def late(self, path: str) -> None:
        """Do it, unless it is done."""
        if not self.done:
            self._judge(path)

    def _judge(self, path: str) -> None:
        context = self.work.context
        context.progress.phase("counting rows and making statistics")
        with analyzing(self.login, path, context.jobs()) as failed:
            _compare(self.login, self.found, self.how, path)
        if failed:
            logger.warning("ANALYZE failed, so queries may be slow until autovacuum has run: {}", failed[0])
        self.done = True


def _compare(login: Login, found: SetContent, how: Adaptation, path: str) -> None:
    """Rows and large objects of the new database against those that were counted in the dump."""
    if not found.rows:
        return
    wanted = {table: rows for table, rows in found.rows.items() if not how.waits("TABLE DATA", table)}
    there, objects = count_rows(login, wanted, path)
    wrong = [
        f"{printable(table)}: {there.get(table, 'no table')} instead of {plural(rows, 'row')}"
        for table, rows in sorted(wanted.items())
        if there.get(table) != rows
    ]
    if objects != found.large_objects:
        wrong.append(f"{plural(objects, 'large object')} instead of {found.large_objects:,}")
    if wrong:
        raise RestoreFailed(
            f"the loaded database differs from the dump: {listed(wrong, mark='; ')}; the live data were not touched",
            "`drill` lists every difference; `list` shows other sets.",
        )


def most_bytes(manifest: Manifest, volume: str) -> int:
    """The most that an archive may unpack to; 0 when nothing tells."""
    part = next((v for v in manifest.volumes if v.name == volume), None)
    return int(part.bytes * _SPARE) + (64 << 20) if part else 0
