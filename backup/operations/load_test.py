"""Whether a set that was just made loads: its definitions, into a throw-away server, in seconds.

Rows seldom keep a set from loading; definitions do, and many sets have the same. So a set is tried when no other one
with its definitions was, and its rows are left to a drill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.errors import BackupError, IntegrityError, Interrupted, LoadFailed
from backup.formatting import printable
from backup.logging import logger
from backup.model.backup_set import NOT_WAITED_FOR, LoadTest, StoredSet, precedent
from backup.operations.load import Load, against_set, attempt_for, complete, load_dump, wanted
from backup.operations.preemption import GaveWay, giving_way
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.scratch_server import Places

# Seconds for all of it; it takes two.
LIMIT: Final = 180.0
_TOO_MANY: Final = "its definitions are too large for a load test"


@dataclass(frozen=True)
class Dumped:
    """What is known of a set since its dump: the script of its definitions (None: too many), and that of its roles."""

    script: Sequence[bytes] | None
    roles: str


def load_test(
    stored: StoredSet,
    dumped: Dumped,
    *,
    others: Sequence[StoredSet],
    root: Path,
    run: str,
    places: Callable[[StoredSet], Places],
    clock: Callable[[], datetime],
    limit: float = LIMIT,
) -> LoadTest:
    """Try the definitions of a set, unless one of the `others` has shown that they load. Under the lock of `root`.

    It is given `limit` seconds.
    """
    part = stored.manifest.database
    before = precedent(others, part) if part else None
    known = before.verdict if before else None
    if before and known and known.loads:
        return _as_before(before, clock())
    if stored.safety and before:
        return LoadTest(tried=clock(), untried=f"{before.id}, with the same definitions, does not load")
    if stored.safety or dumped.script is None:
        return LoadTest(tried=clock(), untried=NOT_WAITED_FOR if stored.safety else _TOO_MANY)
    found = _tried(stored, dumped, root, run, places, clock(), limit)
    if before and known and known.proof and found.loads:
        # Its rows kept it from loading. Whether those of this one do, a drill tells.
        why = f"its definitions load, but the rows of {before.id}, with the same definitions, did not: {known.refusal}"
        return found.model_copy(update={"untried": why})
    return found


def _as_before(before: StoredSet, now: datetime) -> LoadTest:
    verdict = before.verdict
    tried = verdict.load_test if verdict else None
    proof = verdict.proof if verdict else None
    if proof:
        return LoadTest(tried=proof.tried, server_version=proof.server_version, alike=before.id)
    if tried:
        return tried.model_copy(update={"alike": tried.alike or before.id})
    return LoadTest(tried=now, alike=before.id)


def _tried(
    stored: StoredSet,
    dumped: Dumped,
    root: Path,
    run: str,
    places: Callable[[StoredSet], Places],
    now: datetime,
    limit: float,
) -> LoadTest:
    try:
        with giving_way(root, limit):
            found = places(stored)
            logger.info("load test of {}: its definitions, into {}", stored.id, found.way)
            return _into(found, stored, dumped, run, now)
    except GaveWay as ended:
        return LoadTest(tried=now, untried=ended.message)
    except Interrupted as signalled:
        return LoadTest(tried=now, untried=f"the run was stopped (signal {signalled.exit_code - 128})")
    except IntegrityError as error:
        # No restore and no drill goes on with roles that it cannot read.
        return LoadTest(tried=now, refusal=printable(error.message), remedy=error.hint)
    except BackupError as error:
        return LoadTest(tried=now, untried=error.message, remedy=error.hint)


def _into(places: Places, stored: StoredSet, dumped: Dumped, run: str, now: datetime) -> LoadTest:
    began = time.monotonic()
    with places.prepare(wanted(stored, dumped.roles, rows=False), run) as place:
        extensions: set[str] = set()

        def go(load: Load) -> None:
            reader = DumpReader(place.adaptation.applied(load.split), counting=False)
            for piece in dumped.script or ():
                reader.feed(piece)
            reader.finish()
            extensions.update(reader.extensions)
            load.finish()

        try:
            load_dump(place.clients, run, attempt_for(stored), go, lambda: place.renew(run))
            complete(place.clients, extensions, run)
        except LoadFailed as error:
            if not against_set(error, place):
                raise
            return LoadTest(
                tried=now, server_version=place.server_version, refusal=printable(error.message), remedy=error.hint
            )
        logger.debug("its definitions were loaded in {:.1f} s", time.monotonic() - began)
        return LoadTest(tried=now, server_version=place.server_version)
