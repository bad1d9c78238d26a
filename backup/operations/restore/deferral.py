"""What of a set can be in the database only once it has its name: kept in it meanwhile, run when it is live."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from backup.errors import BackupError
from backup.operations.restore.context import Work
from backup.operations.restore.fit import Fit
from backup.postgres import Login
from backup.postgres.deferred_statements import DONE, SCHEMA, Deferred, deferred
from backup.postgres.psql import STRICT, confined

_TELLING: Final = (*STRICT, "--tuples-only", "--no-align")


@contextlib.contextmanager
def putting_aside(login: Login, fitted: Fit) -> Iterator[Callable[[bytes], object]]:
    """Takes what waits into the database of `login`, unless it is never to be the one that it can be in."""
    if fitted.lacks.elsewhere:
        yield len
        return
    kept = Deferred(login)
    yield kept.write
    kept.close()


def put_in(work: Work) -> list[str]:
    """Run what waits in the database that is live now, all or nothing; what went wrong, in words."""
    swap = work.journal.database
    if swap is None:
        return []
    source = work.context.source()
    try:
        with deferred(source.login) as pieces:
            if pieces is None:
                return []
            clients = source.loading(swap.live, work.journal.run)
            with clients.talk((*_TELLING, "--single-transaction"), work.journal.run) as psql:
                psql.enter()
                psql.load.write(confined(psql.version))
                for piece in pieces:
                    psql.load.write(piece)
                psql.load.finish(DONE)
    except BackupError as error:
        return [
            f"what could only be put back once all was live failed, and waits in the schema {SCHEMA}: {error.message}"
        ]
    return []
