"""What forbids a restore, what a person must know before agreeing to it, and the room that it needs. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from backup.formatting import age, plural, printable, size
from backup.model.backup_set import BARE, SKEW, StoredSet
from backup.model.finding import Finding, failure, warning
from backup.operations.restore.plan.compatibility import lacking_findings, left_behind, named, otherwise
from backup.operations.restore.plan.facts import (
    RestoreFacts,
    major,
    restore_source,
    restored_volumes,
    taken,
    wants_database,
    wants_media,
)

# Halves of one run of the old scripts carry the same stamp, or nearly.
_TOGETHER: Final = timedelta(hours=1)
# A loaded database is rarely larger than it was; its indexes are sorted in temporary files, and its log is kept.
_DATABASE: Final = 1.2
_BLOCK: Final = 4096
_SLACK: Final = 1 << 20


def refusals(facts: RestoreFacts, needed: Sequence[Need]) -> tuple[Finding, ...]:
    """Why this restore must not happen; nothing when it may."""
    found = [*_unfinished(facts), *_source_refused(facts), *_halves(facts)]
    if wants_database(facts):
        found += _server_refused(facts)
    return tuple([*found, *_volumes_refused(facts), *_space(facts, needed)])


def warnings(facts: RestoreFacts, needed: Sequence[Need]) -> tuple[Finding, ...]:
    """What does not forbid it, but is to be known."""
    found = [*_time(facts), *_stored(facts.source, facts), *_halves_apart(facts), *_live(facts), *_parts(facts)]
    for need in needed:
        if need.free is None:
            text = f"the free space of {printable(need.place)} is unknown; about {size(need.bytes)} is needed"
            found.append(warning(text, "Check with `df` on its machine; if it fills up, the restore is rolled back."))
    return tuple(found)


def lacking(extensions: Sequence[str]) -> Finding:
    """The refusal of a server without these extensions."""
    return failure(
        f"the server does not have the extensions {named(extensions)}",
        "Install them on the server, or use the image of the set: `show` names it.",
    )


def _unfinished(facts: RestoreFacts) -> Iterator[Finding]:
    if facts.unfinished:
        hint = facts.unfinished_hint or "`restore --resume` or `restore --rollback` ends it."
        yield failure(printable(facts.unfinished), printable(hint))


def _source_refused(facts: RestoreFacts) -> Iterator[Finding]:
    given = facts.source
    if given.state in ("damaged", "unreadable"):
        text = f"{given.id} is {given.state}: {printable(given.problem)}"
        yield failure(text, f"`verify {printable(given.query)}` looks again; `list` shows other sets.")


def _halves(facts: RestoreFacts) -> Iterator[Finding]:
    what, name = restore_source(facts), printable(restore_source(facts).name)
    hint = "`list` and `show` say what the others hold."
    if facts.only == "database" and not what.database:
        yield failure(f"{name} holds no database", f"Leave out `--only database`, or choose another set: {hint}")
    elif facts.only == "media" and not what.volumes:
        yield failure(f"{name} holds no media", f"Leave out `--only media`, or choose another set: {hint}")
    elif not (what.database or what.volumes):
        yield failure(f"{name} holds neither a database nor media", hint)


def _server_refused(facts: RestoreFacts) -> Iterator[Finding]:
    if facts.server is None:
        yield failure(
            "there is no database server to restore to",
            "Start it (`docker compose up -d db`) or set DB_HOST or DB_SERVICE; `--only media` does without.",
        )
        return
    of_set, of_server = major(restore_source(facts).server_version), major(facts.server.version)
    if of_set and of_server and of_set > of_server:
        yield failure(
            f"the set is from PostgreSQL {of_set}, the server is {of_server}: a newer dump does not load into an"
            " older server",
            f"Restore to a server of version {of_set} or later.",
        )
    if facts.server.missing_extensions:
        yield lacking(facts.server.missing_extensions)
    yield from lacking_findings(facts.lacking)


def _volumes_refused(facts: RestoreFacts) -> Iterator[Finding]:
    absent = [volume.name for volume in restored_volumes(facts) if not volume.mounted]
    if absent:
        text = f"the set holds volumes that are not mounted here: {named(absent)}"
        yield failure(text, "Mount them under BACKUP_VOLUMES_DIR as the overlay shows, or use `--only database`.")
    for volume in (each for each in restored_volumes(facts) if each.one_name):
        first, second = map(repr, volume.one_name)
        text = (
            f"{first} and {second} of the set are one name in the volume {printable(volume.name)}, whose file system"
            " ignores case: one would overwrite the other"
        )
        hint = "Use a volume whose file system tells them apart, such as ext4 or XFS"
        yield failure(
            text, f"{hint}; `cat {printable(restore_source(facts).name)} --path PATH` writes a single file to stdout."
        )
    if wants_media(facts) and not restored_volumes(facts):
        text = "it is not known which volume the media belong to"
        yield failure(text, "Mount the volume under BACKUP_VOLUMES_DIR, or use `--only database`.")


def _space(facts: RestoreFacts, needed: Sequence[Need]) -> Iterator[Finding]:
    for disk in short_disks(needed):
        places = " and ".join(f"{printable(need.place)} (needs {size(need.bytes)})" for need in disk.needs)
        text = f"it does not fit: {places}: {size(disk.bytes)} needed, {size(disk.free)} free"
        frees = f"; `undo --discard` frees up to {size(facts.kept_bytes)}" if facts.kept_bytes else ""
        yield failure(text, f"Free {size(disk.bytes - disk.free)} there, or give it a larger disk{frees}.")


def _time(facts: RestoreFacts) -> Iterator[Finding]:
    taken = restore_source(facts).time
    if taken is None:
        text = f"it is unknown when {printable(restore_source(facts).name)} was taken, and so what would be lost"
        yield warning(text, "Check the date of the file before you confirm; `list` shows sets with their time.")
    elif taken > facts.now + SKEW:
        text = f"the set is from the future ({age(facts.now - taken)}): a clock was wrong"
        yield warning(text, "`list` shows the order of the sets; make sure that this is the one you mean.")


def _halves_apart(facts: RestoreFacts) -> Iterator[Finding]:
    if not (wants_database(facts) and wants_media(facts)):
        return
    dumped, packed = (taken(facts.source, kind) for kind in ("database", "volume"))
    if dumped is None or packed is None or abs(dumped - packed) > _TOGETHER:
        yield warning(
            "database and media may be of different runs: rows may refer to missing files",
            "Compare the times of the two files, and check the application's files after the restore.",
        )


def _stored(given: StoredSet, facts: RestoreFacts) -> Iterator[Finding]:
    proof = given.verdict.proof if given.verdict else None
    prove = f"`drill {printable(given.query)}` restores it into a throw-away server."
    if unchecked := (given.verdict and given.verdict.unchecked) or ([BARE] if given.derived else []):
        yield warning(f"not checked: {named(unchecked)}", prove)
    if given.safety:
        text = "it is a safety set: what an earlier restore was about to replace"
        yield warning(text, "If you mean a backup, `list` shows them; `undo` is the quick way back from a restore.")
    for text in facts.less:
        yield warning(text, "Was it taken after the damage? `list` shows earlier sets, `show ID` tables and rows.")
    if given.state == "complete with changes" and wants_media(facts):
        yield warning("files changed while the set was taken", f"`show {printable(given.query)}` lists them.")
    if wants_database(facts) and given.verdict and given.verdict.refusal:
        text = f"a throw-away server could not load it, and this restore may fail the same way: {given.verdict.refusal}"
        yield warning(printable(text), printable(f"{given.verdict.remedy} `list` shows which sets load.".strip()))
    elif wants_database(facts) and proof is None and not given.loose:
        yield warning("no drill has ever restored this set", prove)
    elif wants_database(facts) and proof is not None and proof.differences:
        text = f"its drill found differences from the dump: {named(proof.differences)}"
        yield warning(text, "`list` shows the sets that are proven.")
    if proof is not None and proof.files is not None and proof.files.missing:
        text = (
            f"{proof.files.missing:,} of {plural(proof.files.referenced, 'file')} that its rows refer to are not in it"
        )
        yield warning(text, f"`show {printable(given.query)}` lists them.")
    part = given.manifest.database
    if (then := facts.media) and then.files and then.files.missing:
        text = f"{then.files.missing:,} of {plural(then.files.referenced, 'file')} that its rows refer to are not in"
        hint = "What is live may have them. If not, `show ID --path PATH` tells whether another set does."
        yield warning(f"{text} {printable(then.set)}, whose media go with it", hint)
    if part and part.not_carried and wants_database(facts):
        yield warning(f"the dump does not carry {named(part.not_carried)}", "Create them by hand after the restore.")
    for caution in part.cautions if part and wants_database(facts) else ():
        yield warning(printable(caution), "`create` warned of it. " + prove)


def _live(facts: RestoreFacts) -> Iterator[Finding]:
    what = restore_source(facts)
    if wants_database(facts) and facts.server:
        theirs, ours = what.system_identifier, facts.server.system_identifier
        if theirs and ours and theirs != ours:
            yield warning(
                f"the set was taken from another server (system identifier {printable(theirs)}, not {printable(ours)})",
                "Make sure that this is the server you mean: DB_HOST or DB_SERVICE names it.",
            )
        of_set, of_server = major(what.server_version), major(facts.server.version)
        if of_set and of_server and of_set < of_server:
            text = f"the set is from PostgreSQL {of_set}, the server is {of_server}: it loads, but there is no way back"
            yield warning(text, "Test the application after the restore; `undo` brings the live state back.")
    if wants_database(facts):
        yield from otherwise(facts.lacking)
        yield from left_behind(facts.live) if facts.live else ()
    target = facts.live.name if facts.live else facts.target
    if wants_database(facts) and what.database_name and target and what.database_name != target:
        text = f"the set is of the database {printable(what.database_name)} and replaces {printable(target)}"
        yield warning(text, "Make sure that DB_NAME is the database you mean.")


def _parts(facts: RestoreFacts) -> Iterator[Finding]:
    if not facts.safety:
        text = "no safety set of the live state will be taken"
        yield warning(text, "Leave out `--no-safety` unless there is no room; `undo` still has what is replaced.")
    what, only = restore_source(facts), facts.only
    if only and what.database and what.volumes:
        other = "media" if only == "database" else "database"
        text = f"the {other} stays as it is: rows may refer to missing files"
        # A restore of a moment has no such option: it is of the database alone.
        whole = f"Use `restore {printable(facts.source.query)}`" if facts.media else f"Leave out `--only {only}`"
        yield warning(text, f"{whole} to restore both as they were together.")
    if facts.writers:
        text = f"these write and cannot be stopped from here: {named(facts.writers)}"
        yield warning(text, "Stop them before you confirm: what they write during the restore is lost.")
    for volume in (each for each in restored_volumes(facts) if each.left_files):
        count = (
            f"{plural(volume.left_files, 'file')} ({size(volume.left_bytes)}) of the volume {printable(volume.name)}"
        )
        text = f"{count} are in no set, because they match {named(volume.left_out)} (BACKUP_MEDIA_EXCLUDE)"
        hint = "Copy them elsewhere unless the application recreates them; `undo` keeps them for a while."
        yield warning(f"{text}: they are replaced, too", hint)
    left = [volume.name for volume in facts.volumes if volume.mounted and not volume.archived]
    if left and wants_media(facts):
        yield warning(f"the set does not hold the volumes {named(left)}; they stay as they are", "`list` shows others.")


@dataclass(frozen=True)
class Need:
    """Bytes needed in one place, and free there (None: not known). Places on the same `disk` share what is free."""

    place: str
    bytes: int
    free: int | None
    disk: str = ""


@dataclass(frozen=True)
class Short:
    """A disk that is too small for all that is to be put on it."""

    needs: tuple[Need, ...]
    bytes: int
    free: int


def short_disks(needed: Sequence[Need]) -> list[Short]:
    """Disks without room. A place without a known disk stands for itself."""
    disks: dict[str, list[Need]] = defaultdict(list)
    for number, need in enumerate(needed):
        disks[f"disk {need.disk}" if need.disk else f"place {number}"].append(need)
    found = []
    for group in disks.values():
        free = min((need.free for need in group if need.free is not None), default=None)
        total = sum(need.bytes for need in group)
        if free is not None and total > free:
            found.append(Short(tuple(group), total, free))
    return found


def needs(facts: RestoreFacts) -> Iterator[Need]:
    """What is needed in each place: the new state is made while the old one is live."""
    if wants_database(facts) and facts.server:
        size = restore_source(facts).size or facts.database_bytes or (facts.live.size if facts.live else 0)
        yield Need("the database server", round(size * _DATABASE) + _SLACK, facts.server.free, facts.server.disk)
    for volume in restored_volumes(facts):
        # Of old archives only the live tree gives an idea.
        bytes_ = volume.live_bytes if volume.archive_bytes is None else volume.archive_bytes
        files = volume.live_files if volume.archive_files is None else volume.archive_files
        total = (bytes_ or 0) + _BLOCK * (files or 0) + _SLACK
        yield Need(f"the volume {volume.name}", total, volume.free, volume.disk)
    if facts.safety:
        yield Need("the backup volume", facts.safety_bytes + _SLACK, facts.backup_free, facts.backup_disk)
