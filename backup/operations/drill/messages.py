"""What a drill found, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backup.errors import IntegrityError, NotProven
from backup.formatting import duration, printable
from backup.model.backup_set import StoredSet, Verdict

_LISTED: Final = 20


def proven(verdict: Verdict) -> str:
    """What a drill that went well found, in one line."""
    proof = verdict.proof
    if proof is None:
        return "not drilled"
    took = f"restored and dumped again in {duration(proof.seconds.get('total', 0))}: equal"
    return "; ".join([took, *(printable(note) for note in proof.notes)])


def judge(stored: StoredSet, verdict: Verdict) -> None:
    """IntegrityError for a damaged set, NotProven for one that does not load, or was restored to something else."""
    if verdict.problems:
        raise IntegrityError(
            f"{stored.id} is damaged:{_listing(verdict.problems)}",
            "Do not restore it; `list` shows other sets, `create` takes a new one.",
        )
    if verdict.refusal:
        raise NotProven(f"{stored.id} does not load: {printable(verdict.refusal)}", _remedy(verdict))
    if verdict.proof and verdict.proof.differences:
        raise NotProven(
            f"{stored.id} was restored, but is not what was dumped:{_listing(verdict.proof.differences)}",
            "Its bytes are as they were written, but do not rely on it alone: `create` takes a new set, `drill latest`"
            " tries that one.",
        )


def _remedy(verdict: Verdict) -> str:
    return f"{verdict.remedy} `list` shows which sets load; `drill` tries the newest of them.".strip()


def _listing(found: Sequence[str]) -> str:
    more = [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return "".join(f"\n  - {printable(line)}" for line in [*found[:_LISTED], *more])
