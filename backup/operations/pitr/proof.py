"""A drill of the window: its newest base and all its WAL are recovered, and what comes out is read as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backup.errors import DumpFailed, IntegrityError, LoadFailed, NotProven
from backup.formatting import duration, local_time, plural
from backup.model.run import Run
from backup.model.wal import WindowProof
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.pitr.recover import RecoveredOrigin
from backup.operations.preemption import giving_way
from backup.operations.restore.locking import refuse_unfinished
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump_source import DUMP_SESSION, dump_options

OPERATION: Final = "drill-moments"
# What says something of the base, of its WAL, or of what they make together. The rest failed for want of something.
_JUDGED: Final = (IntegrityError, LoadFailed, DumpFailed)


@dataclass(frozen=True, kw_only=True)
class ProofContext(Context):
    """What a drill of the window works with. `origin` finds what recovers its newest moment: NotFound for none."""

    origin: Callable[[], RecoveredOrigin]


def prove_window(request: runs.Request, context: ProofContext) -> WindowProof:
    """Recover the newest moment, dump its database to nowhere, and keep what was found. NotProven if it failed."""
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
            context.progress.phase("reading what was recovered", reached.facts.size)
            options = dump_options(reached.facts.locale.encoding, statistics=False)
            with reached.source.clients.run("pg_dump", options, run.id, DUMP_SESSION) as output:
                for chunk in output.chunks(lambda: context.progress.advance(0)):
                    reader.feed(chunk)
                    context.progress.advance(len(chunk))
            reader.finish()
            reader.check_whole()
    except _JUDGED as error:
        asked.archive.keep_proof(proof.model_copy(update={"problem": error.message}))
        raise NotProven(
            f"the window is not proven: {error.message}",
            "`base` takes a new base backup, from which the window begins anew; sets are not concerned.",
        ) from error
    done = {"rows": sum(reader.rows.values()), "seconds": recording.seconds["total"]}
    proof = proof.model_copy(update=done)
    asked.archive.keep_proof(proof)
    return proof


def proof_words(proof: WindowProof, context: ProofContext) -> str:
    """What a drill that went well found, in one line."""
    until = local_time(proof.moment, context.catalog.zone, "%Y-%m-%d %H:%M:%S")
    return (
        f"recovered from the base backup {proof.base} to {until} in {duration(proof.seconds)}, and read:"
        f" {plural(proof.rows, 'row')}"
    )
