"""The whole cluster in the database's own volume: its two trees exchanged while its container is stopped.

Both directions go by what is found, so that they can be begun again after a kill at any point. The container is started
in either case.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from backup.errors import BackupError, DatabaseNotYet, DatabaseUnavailable, RestoreFailed
from backup.formatting import printable
from backup.logging import logger
from backup.operations.restore.cluster_record import ClusterSwap, KeptCluster
from backup.operations.restore.context import RestoreContext, Work
from backup.postgres.cluster_trees import ClusterTree, ClusterTrees
from backup.postgres.replication import live_cluster, write_checkpoint

# Seconds for a server that was shut down to accept sessions; for one that answers but refuses us, it takes no more.
_UP: Final = 60.0
_REFUSED: Final = 5.0
_LOOK: Final = 0.05


def trees_of(context: RestoreContext, swap: ClusterSwap | KeptCluster) -> ClusterTrees:
    """The trees of a restore, in the data folder of its server."""
    return ClusterTrees(context.server(swap.place), swap.stamp)


def exchange(work: Work, *, onward: bool) -> None:
    """Stop the server, make one of the trees the live one, start it, and wait until it answers as that one.

    DatabaseUnavailable unless it does; then the other one is to be made live again.
    """
    swap = work.journal.cluster
    if swap is None:
        return
    trees = trees_of(work.context, swap)
    trees.server.sweep()
    work.context.progress.phase("exchanging the cluster")
    live: ClusterTree = "new" if onward else "old"
    # One that is live already is not stopped again: it may be in the midst of its crash recovery.
    moves = trees.state() != live
    if moves and trees.server.container().running:
        # What it has to write before it stops is written before the outage.
        with contextlib.suppress(BackupError):
            write_checkpoint(work.context.source().login)
    begun = time.monotonic()
    if moves:
        logger.info("stopping {}", printable(swap.place.name))
        trees.server.stop()
    trees.settle(live)
    logger.info("starting {}", printable(swap.place.name))
    trees.server.start()
    _await(work, swap, onward)
    work.window += time.monotonic() - begun


def back(work: Work, *, begun: bool) -> None:
    """Make the tree live that was it before, if an exchange had `begun`, and remove what a restore made."""
    swap = work.journal.cluster
    if swap is None:
        return
    trees = trees_of(work.context, swap)
    trees.server.sweep()
    if begun and trees.state() != "absent":
        exchange(work, onward=not swap.onward)
    elif begun:
        trees.server.start()


def remove_made(work: Work) -> None:
    """Remove what a restore that is rolled back made beside the live data."""
    if work.journal.cluster:
        trees_of(work.context, work.journal.cluster).discard()


def kept_cluster(work: Work) -> KeptCluster | None:
    """What is kept of an exchange that is done."""
    swap = work.journal.cluster
    if swap is None:
        return None
    return KeptCluster(
        place=swap.place,
        stamp=swap.stamp,
        system_identifier=swap.system_identifier,
        timeline=swap.timeline,
        bytes=trees_of(work.context, swap).taken(),
    )


def swap_back(context: RestoreContext, kept: KeptCluster) -> ClusterSwap:
    """The exchange that makes the other tree live. RestoreFailed when that cannot be. Nothing is touched."""
    trees = trees_of(context, kept)
    live, container = trees.state(), trees.server.container()
    if live not in ("new", "old"):
        raise RestoreFailed(
            f"the cluster that the last restore replaced is no longer whole ({live}); nothing was touched",
            "`undo --discard` removes what is left of it.",
        )
    if container.image_id != kept.place.image_id:
        raise RestoreFailed(
            f"{printable(container.name)} runs another image since the cluster was restored, and the one that is kept"
            " was never in it; nothing was touched",
            "Put the old image back, then `undo`; or keep what is live, and `undo --discard`.",
        )
    return ClusterSwap(
        place=kept.place,
        stamp=kept.stamp,
        system_identifier=kept.system_identifier,
        timeline=kept.timeline,
        onward=live == "old",
    )


def _await(work: Work, swap: ClusterSwap, onward: bool) -> None:
    """Until the server answers; DatabaseUnavailable when it does not, or is not the one that is to be live."""
    until, refused = time.monotonic() + _UP, 0.0
    while True:
        try:
            identifier, timeline = live_cluster(work.context.source().login)
            break
        except BackupError as error:
            now = time.monotonic()
            refused = 0.0 if isinstance(error, DatabaseNotYet) else refused or now
            if now > until or (refused and now - refused > _REFUSED):
                raise DatabaseUnavailable(
                    f"{printable(swap.place.name)} does not accept sessions after the exchange: {error.message}",
                    f"`docker logs {printable(swap.place.name)}` says why. Roles and passwords are those of the moment"
                    " that is restored.",
                ) from error
            work.context.sleep(_LOOK)
    if identifier != swap.system_identifier or (timeline == swap.timeline) is not onward:
        raise DatabaseUnavailable(
            f"{printable(swap.place.name)} answers as another cluster than the one that is to be live",
            "Is its data folder the one that PGDATA of its container names?",
        )
