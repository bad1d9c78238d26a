"""What a restore would do, before it does anything: facts in, a plan out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from backup.formatting import age, duration, plural, printable, size
from backup.model.derived_manifest import BareFile
from backup.model.finding import Finding
from backup.model.recovered import MediaThen
from backup.operations.restore.plan.checks import Need, needs, refusals, warnings
from backup.operations.restore.plan.compatibility import named, own
from backup.operations.restore.plan.facts import (
    LiveDatabase,
    Only,
    RestoreFacts,
    Server,
    VolumeFacts,
    restore_source,
    restored_volumes,
    wants_database,
)

__all__ = [
    "RestoreFacts",
    "LiveDatabase",
    "Need",
    "Only",
    "Plan",
    "PlanSection",
    "Server",
    "VolumeFacts",
    "media_words",
    "plan",
]

PlanRow = tuple[str, str]


@dataclass(frozen=True)
class PlanSection:
    """A heading, and rows of label and text; all safe to print."""

    heading: str
    rows: tuple[PlanRow, ...]


@dataclass(frozen=True)
class Plan:
    """What would be done. It may be done when there are no refusals; `busy`: nothing but another run forbids it."""

    sections: tuple[PlanSection, ...]
    warnings: tuple[Finding, ...]
    refusals: tuple[Finding, ...]
    needs: tuple[Need, ...]
    busy: bool = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that speaks against it, what forbids it last."""
        return self.warnings + self.refusals

    @property
    def possible(self) -> bool:
        """Whether nothing forbids it."""
        return not self.refusals


def plan(facts: RestoreFacts) -> Plan:
    """The plan of one restore."""
    needed = tuple(needs(facts))
    parts = [
        ("source", tuple(_source(facts))),
        ("is replaced", tuple(_replaced(facts))),
        ("is done", tuple(_done(facts))),
        ("room", tuple(_room(needed))),
    ]
    sections = tuple(PlanSection(heading, rows) for heading, rows in parts if rows)
    forbidden = refusals(facts, needed)
    return Plan(sections, warnings(facts, needed), forbidden, needed, facts.busy and len(forbidden) == 1)


def _source(facts: RestoreFacts) -> Iterator[PlanRow]:
    what, given = restore_source(facts), facts.source
    yield "set", printable(what.name)
    yield "kind", printable(" and ".join(map(_kind, given.loose)) or given.state)
    if what.time is not None:
        local = what.time.astimezone(facts.zone)
        since = age(facts.now - what.time)
        old = since if since == "just now" or since.endswith(" ahead") else f"{since} old"
        replaced = facts.live is not None or any(volume.live_files for volume in restored_volumes(facts))
        lost = f"; everything since {local:%Y-%m-%d %H:%M} ({facts.zone.key}) is replaced" if replaced else ""
        yield "age", old + lost
    if recovered := facts.source.manifest.database and facts.source.manifest.database.recovered:
        yield "recovered", recovered.words(facts.zone)
        stay = not restored_volumes(facts)
        yield "media", media_words(facts.media, given.time, stay=stay)
    if facts.only:
        yield "only", f"the {facts.only}"
    if not given.loose:
        yield "last drill", _drill(facts)


def media_words(then: MediaThen | None, moment: datetime, *, stay: bool = True) -> str:
    """Say what becomes of the media when a moment of the database is restored, and which set has those of then."""
    theirs = then.words(moment) if then else "no set has any"
    return f"stay as they are; {theirs}" if stay else theirs


def _kind(file: BareFile) -> str:
    if file.kind == "volume":
        return f"an archive of {file.folder}/"
    return f"a {'plain' if file.content == 'sql' else 'custom-format'} dump"


def _drill(facts: RestoreFacts) -> str:
    verdict = facts.source.verdict
    proof = verdict.proof if verdict else None
    if proof is None:
        return "never"
    took = f", took {duration(proof.seconds['total'])}" if "total" in proof.seconds else ""
    found = "proven" if proof.proven else f"not proven ({plural(len(proof.differences), 'difference')})"
    found = "did not load" if proof.refusal else found
    return f"{found} {proof.tried.astimezone(facts.zone):%Y-%m-%d %H:%M}{took}"


def _replaced(facts: RestoreFacts) -> Iterator[PlanRow]:
    if wants_database(facts):
        if facts.live is None:
            yield "database", f"none: {printable(facts.target) or 'a new one'} is created"
        else:
            ends = f", {plural(facts.live.sessions, 'session')} of others will be ended" if facts.live.sessions else ""
            text = f"{facts.live.name}, {size(facts.live.size)}, owner {facts.live.owner}{ends}"
            yield "database", printable(text)
    for volume in restored_volumes(facts):
        text = (
            f"{_tree(volume.live_files, volume.live_bytes)} become {_tree(volume.archive_files, volume.archive_bytes)}"
        )
        yield f"volume {printable(volume.name)}", text


def _tree(files: int | None, count: int | None) -> str:
    known = "an unknown number of files" if files is None else plural(files, "file")
    return f"{known}, {size(count)}" if count is not None else known


def _done(facts: RestoreFacts) -> Iterator[PlanRow]:
    yield "safety set", "taken and verified first" if facts.safety else "none"
    if wants_database(facts) and facts.server and facts.server.missing_roles:
        yield "roles", f"made, because they are missing: {named(facts.server.missing_roles)}"
    if wants_database(facts):
        yield from own(facts.contrast, live=facts.live is not None)
    yield "stopped", _stopped(facts)
    if facts.commands:
        yield "then run", named(facts.commands)
    yield "kept", "what is live now, beside the new; `undo` puts it back"
    if facts.kept_bytes is not None:
        yield (
            "dropped",
            f"what the previous restore replaced, {size(facts.kept_bytes)}: that restore can no longer be undone",
        )


def _stopped(facts: RestoreFacts) -> str:
    if not facts.stops:
        return "no container"
    then = ", the swap and the commands" if facts.commands else " and the swap"
    stopping = f"up to {duration(facts.stop_seconds)} to stop them all at once" if facts.stop_seconds else "the stop"
    return f"{named(facts.stops)}; started again at the end: the application is down for {stopping}{then}"


def _room(needed: tuple[Need, ...]) -> Iterator[PlanRow]:
    for need in needed:
        free = "unknown" if need.free is None else size(need.free)
        yield printable(need.place), f"{size(need.bytes)} needed, {free} free"
