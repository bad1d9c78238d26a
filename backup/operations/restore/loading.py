"""The new state, made beside the old one: a database loaded from the dump, files unpacked from the archives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from backup.database import Login, settings_for
from backup.database.admin import apply, create
from backup.database.content import analyzing, count_large_objects, count_rows
from backup.database.server import Database, find, fitting, roles
from backup.errors import LoadFailed, RestoreFailed
from backup.journal import DatabaseSwap, Step
from backup.log import logger
from backup.manifest import DatabasePart, Manifest, file_name, parse_file_name
from backup.operations import roles_file
from backup.operations.check_bytes import Stored
from backup.operations.load import loading
from backup.operations.restore.piped import decrypted
from backup.operations.restore.shop import Work
from backup.operations.roles_file import require_unchanged
from backup.operations.verify import Found
from backup.sets import StoredSet
from backup.sources.clients import Clients
from backup.sources.places import LOAD_OPTIONS
from backup.sources.postgres import PostgresSource
from backup.sources.roles import Roles
from backup.stores.disk import free_space
from backup.stores.local import LocalStore
from backup.stream.age import SUFFIX
from backup.stream.content import Kind
from backup.stream.filters import DumpReader
from backup.stream.order import Entry
from backup.text import plural, printable

_SPARE: Final = 1.05
# How an archive of pg_dump's custom format begins.
_MAGIC: Final = b"PGDMP"
_NO_ROLE: Final = re.compile(r'role ("(?:[^"]|"")+") does not exist')


def swap_for(source: PostgresSource, live: Database | None, stamp: str, marker: str) -> DatabaseSwap:
    """The names of a restore's databases; nothing is made yet."""
    name = source.login.name
    return DatabaseSwap(
        live=name,
        live_oid=live.oid if live else None,
        new=fitting(name, f"__restore_{stamp}"),
        kept=fitting(name, f"__before_{stamp}"),
        marker=marker,
        settings=settings_for(source.login, name) if live else (),
    )


def load(work: Work, source: PostgresSource, stored: StoredSet, found: Found, entries: Sequence[Entry]) -> None:
    """Make the new database, load it strictly, compare it with what was dumped. `entries` are built behind its rows."""
    swap, login = work.journal.database, source.login
    if swap is None:
        return
    part = stored.manifest.database if stored.manifest else None
    live = find(login, swap.live)
    like = part.locale if part and part.locale else live.locale if live else None
    listed = roles_of(stored)
    new_roles = _make_roles(login, listed, part.bootstrap if part else "") if listed else []
    if new_roles:  # noted before anything else can fail: a rollback removes them again
        work.advance(Step.LOADING, roles=tuple(new_roles))
    oid = create(login, swap.new, like, swap.marker)
    if not live:
        swap = swap.model_copy(update={"settings": _settings(login, None, listed, part, swap.live)})
    work.advance(Step.LOADING, database=swap.model_copy(update={"new_oid": oid}))
    # What the server would refuse in the exchange, it refuses before hours of loading.
    apply(login, swap.new, _settings(login, live, listed, part, swap.new), rehearse=True)
    _fill(work, source, stored, found, entries)
    work.shop.progress.phase("counting rows and making the planner's statistics")
    new = replace(login, name=swap.new)
    with analyzing(new) as failed:
        _compare(new, found)
    if failed:
        logger.warning("ANALYZE failed, so queries may be slow until autovacuum has run: {}", failed[0])


def _settings(
    login: Login, live: Database | None, listed: Roles | None, part: DatabasePart | None, name: str
) -> tuple[str, ...]:
    """What belongs to a database, for one called `name`: as the live one has it; without one, as the set says."""
    if live:
        return settings_for(login, name)
    return tuple(listed.database_settings(part.name, name)) if listed and part else ()


def extract(work: Work, stored: StoredSet) -> None:
    """Unpack the archives beside the live files."""
    work.advance(Step.EXTRACTING)
    if not work.journal.volumes:
        return
    trees = work.shop.trees()
    for volume in work.journal.volumes:
        work.shop.progress.phase(f"unpacking {volume.name}")
        archive, index, root = archive_of(stored, volume.name)
        limit = most_bytes(stored.manifest, volume.name) or free_space(work.shop.volumes / volume.name)
        with ExitStack() as stack:
            spooled = work.shop.spool / f"{work.shop.instance}.{work.journal.run}"
            content = stack.enter_context(decrypted(stored, archive, spooled.with_name(f"{spooled.name}.archive")))
            listing = spooled.with_name(f"{spooled.name}.index")
            trees.extract(
                volume.name,
                content,
                stack.enter_context(decrypted(stored, index, listing)) if index else None,
                volume.stamp,
                root=root,
                limit=limit,
                trusted=stored.manifest is not None,
            )


def volumes_of(stored: StoredSet) -> tuple[str, ...]:
    """The volumes that a set has archives of."""
    if stored.manifest:
        return tuple(volume.name for volume in stored.manifest.volumes)
    if stored.loose:
        return tuple(each.volume for each in stored.loose if each.volume)
    parsed = [part for part in map(parse_file_name, stored.files) if part]
    return tuple(part.what for part in parsed if part.content == "tar.gz")


def dump_of(stored: StoredSet) -> str:
    """The file that holds the database; empty for a set without one."""
    if stored.manifest:
        artifact = stored.manifest.artifact("database")
        return artifact.file if artifact else ""
    if stored.loose:
        return next((each.name for each in stored.loose if each.kind != Kind.TAR), "")
    return _named(stored, "backup", "sql.gz")


def archive_of(stored: StoredSet, volume: str) -> tuple[str, str, str]:
    """The archive of a volume, its index (empty for none), and the folder that it is of."""
    for each in stored.loose:
        if each.volume == volume:
            return each.name, "", each.root
    archive, index = (_named(stored, volume, suffix) for suffix in ("tar.gz", "files.gz"))
    return archive, index if stored.manifest else "", volume


def _named(stored: StoredSet, what: str, content: str) -> str:
    """The file of a set that holds this, encrypted or not; empty when there is none."""
    names = (file_name(what, stored.id, f"{content}{ending}") for ending in ("", SUFFIX))
    return next((name for name in names if name in stored.files), "")


def roles_of(stored: StoredSet) -> Roles | None:
    """The roles that a set was dumped with."""
    text = roles_file.read(stored, unchanged=True)
    return Roles.parse(text) if text else None


def _make_roles(login: Login, listed: Roles, bootstrap: str) -> list[str]:
    there = roles(login)
    missing = listed.missing(there)
    if missing:
        logger.info("making {}: {}", plural(len(missing), "missing role"), printable(", ".join(missing)))
        apply(login, login.name, listed.script(there, bootstrap))
    return missing


def _fill(work: Work, source: PostgresSource, stored: StoredSet, found: Found, entries: Sequence[Entry]) -> None:
    swap, file = work.journal.database, dump_of(stored)
    if swap is None:
        return
    content = found.content.get(file)
    custom, packed = content is not None and content.kind is Kind.CUSTOM, content is None or content.packed
    work.shop.progress.phase("loading the database", stored.size)
    clients, run = source.loading(swap.new, work.journal.run), work.journal.run
    stored_file = Stored(LocalStore(stored.directory), file, work.shop.progress, stored.identity)
    artifact = stored.manifest.artifact("database") if stored.manifest else None

    def pieces() -> Iterator[bytes]:
        """All of the dump. Nothing is ended in good order unless it is as it was verified."""
        yield from stored_file.content(packed=packed, single=stored.manifest is not None)
        stored_file.drain()
        if artifact:
            require_unchanged(stored_file, artifact)

    try:
        if custom:
            _fill_custom(clients, run, pieces())
        else:
            _fill_plain(clients, run, pieces(), entries)
    except LoadFailed as error:
        raise RestoreFailed(
            f"{stored.id} does not load: {error.message}. The live data were not touched", _hint(error)
        ) from error
    finally:
        stored_file.close()


def _fill_plain(clients: Clients, run: str, pieces: Iterator[bytes], entries: Sequence[Entry]) -> None:
    with loading(clients, run, (lambda: entries) if entries else None) as load:
        reader = DumpReader(load.split, counting=False)
        for piece in pieces:
            reader.feed(piece)
        reader.finish()
        load.finish()


def _fill_custom(clients: Clients, run: str, pieces: Iterator[bytes]) -> None:
    with clients.feed("pg_restore", ("--exit-on-error",), run, LOAD_OPTIONS) as program:
        # It opens its file twice: to see what it is, by five bytes, and then to read it.
        program.show(_MAGIC)
        for piece in pieces:
            program.write(piece)
        program.finish(b"")


def _hint(error: LoadFailed) -> str:
    if role := _NO_ROLE.search(error.message):
        return (
            f"Make the role on the server (CREATE ROLE {role[1]}), which the set names but does not hold; again then."
        )
    return error.hint


def _compare(login: Login, found: Found) -> None:
    """Rows and large objects of the new database against those that were counted in the dump."""
    if not found.rows:
        return
    there = count_rows(login, found.rows)
    wrong = [
        f"{printable(table)}: {there.get(table, 'no table')} instead of {rows:,} rows"
        for table, rows in sorted(found.rows.items())
        if there.get(table) != rows
    ]
    objects = count_large_objects(login)
    if objects != found.large_objects:
        wrong.append(f"{plural(objects, 'large object')} instead of {found.large_objects:,}")
    if wrong:
        raise RestoreFailed(
            f"the loaded database is not what was dumped: {'; '.join(wrong[:10])}; the live data were not touched",
            "`drill` names every difference; `list` shows other sets.",
        )


def most_bytes(manifest: Manifest | None, volume: str) -> int:
    """The most that an archive may unpack to; 0 when no manifest tells."""
    part = next((v for v in manifest.volumes if v.name == volume), None) if manifest else None
    return int(part.bytes * _SPARE) + (64 << 20) if part else 0
