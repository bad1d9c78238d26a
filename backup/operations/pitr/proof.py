"""A drill of the window: its newest moment is recovered and read, and a set is compared with what its dump saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from backup.errors import DumpFailed, IntegrityError, KeyMissing, LoadFailed, NotFound, NotProven
from backup.formatting import duration, local_time, plural, printable
from backup.logging import logger
from backup.model.backup_set import Verdict
from backup.model.run import Run
from backup.model.wal import WindowProof, lsn
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.pitr.comparison import DamagedSet, Night, compare_set, dump_again
from backup.operations.pitr.recover import RecoveredOrigin, work_size
from backup.operations.preemption import giving_way
from backup.operations.restore.locking import refuse_unfinished
from backup.postgres.dump.dump_reader import DumpReader

OPERATION: Final = "drill-moments"
# What says something of the base, of its WAL, or of what they make together. The rest failed for want of something.
_JUDGED: Final = (IntegrityError, LoadFailed, DumpFailed)
# Sets that are looked at until one can be compared; and differences that are told.
_NIGHTS: Final = 3
_LISTED: Final = 10
_ASIDE: Final = "values of sequences and rows of unlogged or just rewritten tables aside"


@dataclass(frozen=True, kw_only=True)
class ProofContext(Context):
    """What a drill of the window works with. `origin` finds what recovers its newest moment: NotFound for none.

    `nights` are the sets that can be compared, newest first.
    """

    origin: Callable[[], RecoveredOrigin]
    nights: Callable[[], Iterator[Night]]


def prove_window(request: runs.Request, context: ProofContext) -> WindowProof:
    """Recover the newest moment and read it, compare a set, and keep what was found. NotProven if either failed."""
    run = request.run(OPERATION, context.clock())
    with runs.locked(context, run, request.wait) as run, runs.recorded(context, run) as recording:
        refuse_unfinished(context.catalog.root, run.started)
        with giving_way(context.catalog.root):
            proof = _prove(run, context, recording)
        recording.success = {"message": proof_words(proof, context)}
    return proof


def _prove(run: Run, context: ProofContext, recording: runs.Recording) -> WindowProof:
    origin = context.origin()
    asked = origin.moment
    proof = WindowProof(tried=run.started, base=asked.base.id, moment=asked.wanted.moment or asked.base.ended)
    reader = DumpReader()
    try:
        with runs.timed(recording.seconds, "total"), origin.reach(run.id, context.progress) as reached:
            dump_again(reached, reader, run.id, context.progress)
            size = work_size(asked, lsn(reached.recovered.lsn) if reached.recovered else 0)
        with runs.timed(recording.seconds, "comparison"):
            equals, uncompared, damaged = _compare(run, context)
    except _JUDGED as error:
        asked.archive.keep_proof(proof.model_copy(update={"problem": error.message}))
        raise NotProven(
            f"the window is not proven: {error.message}",
            "`base --full` takes a new base backup, from which the window begins anew; sets are not concerned.",
        ) from error
    done = {"rows": sum(reader.rows.values()), "bytes": size, "seconds": recording.seconds["total"]}
    proof = proof.model_copy(update={**done, "equals": equals, "uncompared": uncompared})
    asked.archive.keep_proof(proof)
    if damaged:
        damaged.message += "; the window itself is proven"
        raise damaged
    return proof


def _compare(run: Run, context: ProofContext) -> tuple[str, str, DamagedSet | None]:
    """(The set that the window equals, why none could be compared, a damaged one). IntegrityError for one that differs.

    A set that is damaged counts no longer.
    """
    why, damaged = "no set was made within the window since WAL is received", None
    for night in islice(context.nights(), _NIGHTS):
        try:
            found = compare_set(night, run.id, context.progress)
        except DamagedSet as error:
            why, damaged = error.message, damaged or error
            logger.warning("not compared: {}", printable(why))
            verdict = Verdict(checked=context.clock(), problems=error.problems)
            context.catalog.record_verdict(night.stored, verdict, run.started, locked=True)
            continue
        except (NotFound, KeyMissing) as error:
            why = f"{night.stored.id}: {error.message}"
            logger.info("not compared: {}", why)
            continue
        if found:
            raise IntegrityError(
                f"recovered to what the dump of {night.stored.id} saw, the database differs from it:"
                f" {printable('; '.join(found[:_LISTED]))}"
            )
        return night.stored.id, "", damaged
    return "", why, damaged


def proof_words(proof: WindowProof, context: ProofContext) -> str:
    """What a drill that went well found, in one line."""
    until = local_time(proof.moment, context.catalog.zone, "%Y-%m-%d %H:%M:%S")
    compared = f"compared with no set ({printable(proof.uncompared)})"
    if proof.equals:
        compared = f"equals {proof.equals} object by object, {_ASIDE}"
    return (
        f"recovered from the base backup {proof.base} to {until} in {duration(proof.seconds)}, and read:"
        f" {plural(proof.rows, 'row')}; {compared}"
    )
