"""What commands answer to programs: the forms of their results, and every document by its kind."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AliasChoices, Field

from backup.documents.base_model import (
    Document,
    Exact,
    Instant,
    Spans,
    Text,
    at,
    derived,
    document,
    form,
    many,
    maybe,
    row,
)
from backup.documents.status import BREAK, FINDING, HEALTH, JOB, MOMENTS, RUN, SET, STATUS
from backup.model.finding import Level
from backup.model.manifest import Manifest, Tier

_TEXTS, _COUNTS = many(Text), dict[str, int]
_SIZE, _BYTES, _SECONDS = at(int, "size"), at(int, "bytes"), at(Spans, "seconds")

# What is known of a set by reading and restoring it.
_MISSING = form("Missing", columns=_TEXTS, referenced=int, missing=int, listed=_TEXTS)
_PROOF = form(
    "Proof",
    tried=Instant,
    proven=bool,
    server_version=Text,
    differences=_TEXTS,
    remedy=Text,
    notes=_TEXTS,
    phase_seconds=_SECONDS,
    files=maybe(_MISSING, "files"),
)
_LOAD_TEST = form("LoadTest", tried=Instant, server_version=Text, refusal=Text, remedy=Text, untried=Text, alike=Text)
_VERDICT = form(
    "Verdict",
    checked=Instant,
    problems=_TEXTS,
    unchecked=_TEXTS,
    proof=maybe(_PROOF, "proof"),
    load_test=maybe(_LOAD_TEST, "load_test"),
)

# What is in a set.
_FOLDER = row(form("Folder", path=Exact, files=int, size_bytes=int))
_TREE = form("Tree", volume=Text, files=int, size_bytes=_BYTES, directories=many(_FOLDER), problem=Text)
_SUM = row(form("Sum", rows=int, parts=int))
_FILE = form("File", volume=Text, path=Exact, size_bytes=_SIZE, sha256=str)
_VERSION = form(
    "Version",
    set=at(Text, "stored", "id"),
    time=at(Instant, "stored", "time"),
    what=Text,
    path=maybe(Exact, "entry", "path"),
    size_bytes=maybe(int, "entry", "size"),
    sha256=maybe(str, "entry", "sha256"),
)
_LOSS = form(
    "LostRows",
    time=at(Instant, "deletion", "time"),
    table=Exact,
    rows=at(int, "deletion", "rows"),
    files=at(int, "deletion", "count"),
    before_lsn=at(str, "deletion", "before_lsn"),
)
_PATH = form("Path", volume=Text, path=Exact, files=int, size_bytes=_BYTES, live=bool, live_files=int, live_bytes=int)

# What takes the space, and what is removed.
_SET_USE = form(
    "SetUse",
    id=Text,
    tier=Text,
    size_bytes=_BYTES,
    kind_bytes=at(_COUNTS, "kinds"),
    needs_bytes=at(int, "needs"),
    frees_bytes=at(int, "frees"),
)
_OTHER_USE = row(form("OtherUse", path=Exact, size_bytes=int))
_DECISION = form(
    "Decision",
    set=at(Text, "stored", "id"),
    tier=at(Tier, "stored", "tier"),
    time=at(Instant, "stored", "time"),
    size_bytes=at(int, "stored", "size"),
    state=at(Text, "stored", "state"),
    action=Literal["keep", "remove", "wait", "later"],
    reason=Text,
)
_CLEANUP = form("Cleanup", hold=Text, waiting=int, later=int, removed=_TEXTS, decisions=many(_DECISION))
_PLACE_CLEANUP = form("PlaceCleanup", _CLEANUP, place=Text, ends=dict[Text, str])
_COPY = form(
    "Copy",
    set=at(Text, "id"),
    tier=Tier,
    time=Instant,
    size_bytes=_SIZE,
    state=Text,
    here=maybe(bool, "local"),
    note=Annotated[Text, Field(validation_alias=AliasChoices("note", "problem"))],
)
_COPIES = form("Copies", place=Text, copies=many(_COPY), read_bytes=maybe(int, "read"))
_UPLOAD = form("Upload", place=Text, sent=_TEXTS, sent_bytes=_BYTES, same=int)
_STEP = form("Step", state=Text, level=Level, text=at(Text, "words"), hint=Text)
_SECTION = form("Section", heading=Text, rows=many(tuple[Text, Text]))
_NEED = form("Need", place=Text, disk=Text, needed_bytes=_BYTES, free_bytes=maybe(int, "free"))
_SETTING = form("Setting", name=Text, value=Text, source=Text)
_LAST = form(
    "LastRun",
    started=at(Instant, "run", "started"),
    ended=maybe(Instant, "run", "ended"),
    slot=maybe(Instant, "run", "slot"),
    slots=at(int, "run", "slots"),
    trigger=at(Text, "run", "trigger"),
    exit_code=maybe(int, "exit_code"),
    crashed=bool,
    reason=Text,
)
_MISSED = form("Missed", slot=Instant, slots=at(int, "count"))
_JOB = form("PlannedJob", JOB, last=maybe(_LAST, "last"), missed=maybe(_MISSED, "missed"))
_ENTRY = form("LogEntry", time=maybe(Instant, "time"), level=Text, log=Text, run=Text, text=Exact)
_ATTEMPT = form("Attempt", count=int, next=Instant, error=Text)
_MESSAGE = form(
    "Message",
    kind=Text,
    title=Text,
    created=Instant,
    delivered=(_TEXTS, []),
    tries=(many(_ATTEMPT, by=Text), {}),
)
_RECEIPT = form("Receipt", target=Text, error=Text, duration_seconds=at(float, "seconds"))
_SERVICE = form("DatabaseService", service=Text, container=at(Text, "name"), image=Text)
_MOUNT = form("Mount", name=Text, source=Exact, key=Text, bind=bool, writers=_TEXTS, left_out=Text)

_ALL: Final[tuple[type[Document], ...]] = (
    STATUS,
    HEALTH,
    document("sets", "The sets, newest first: `list`.", sets=many(SET)),
    document(
        "set",
        "All about one set: `show`. `manifest` is as in its file, which has a format of its own.",
        SET,
        files=_TEXTS,
        verdict=maybe(_VERDICT, "verdict"),
        manifest=derived(maybe(Manifest, "manifest"), lambda manifest: None if manifest.derived else manifest),
        media=many(_TREE),
    ),
    document("verdict", "What `verify` or `drill` found of a set.", _VERDICT, set=Text),
    document("run", "The run of `create`.", RUN),
    document(
        *(
            "tables",
            "The rows of each table, and the sums of those that have parts: `show --tables`.",
        ),
        set=Text,
        tables=dict[Exact, int],
        sums=many(_SUM, by=Exact),
    ),
    document("files", "The files in the archives of a set: `show --files`.", set=Text, files=many(_FILE)),
    document("history", "A file, set by set: `show --path`.", set=Text, path=Exact, versions=many(_VERSION)),
    document("paths", "What `restore --path` would put back.", set=Text, paths=many(_PATH)),
    document(
        "usage",
        "What takes the space: `du`. `undo_bytes` lie in the database server and the volumes.",
        size_bytes=_BYTES,
        free_bytes=at(int, "free"),
        total_bytes=at(int, "total"),
        undo_bytes=at(int, "undo"),
        tier_bytes=at(_COUNTS, "tiers"),
        kind_bytes=at(_COUNTS, "kinds"),
        other_bytes=at(_COUNTS, "other"),
        sets=many(_SET_USE),
        leftovers=many(_OTHER_USE),
        foreign=many(_OTHER_USE),
    ),
    document("pin", "Whether a set is pinned now: `pin`, `unpin`.", set=Text, pinned=bool),
    document("cleanup", "What is, or would be, removed, and why: `prune`.", _CLEANUP, dry_run=bool),
    document("cleanups", "The same at each place: `offsite prune`.", dry_run=bool, places=many(_PLACE_CLEANUP)),
    document("copies", "The copies at each place: `offsite list`, `offsite verify`.", places=many(_COPIES)),
    document("uploads", "What was sent to each place: `upload`.", places=many(_UPLOAD)),
    document("pull", "A set that came back: `offsite pull`.", set=Text, place=Text, folder=maybe(Exact, "folder")),
    document("import", "What was taken in, or is here already: `import`.", imported=_TEXTS, known=_TEXTS),
    document(
        "plan",
        "What `restore` would do; `possible` unless a finding is `fail`.",
        possible=bool,
        sections=many(_SECTION),
        findings=many(FINDING),
        needs=many(_NEED),
    ),
    document(
        "doctor",
        "What `doctor` found; `status` is the worst level.",
        status=Level,
        findings=many(FINDING),
        settings=many(_SETTING),
    ),
    document("steps", "What was done to a bucket: `offsite setup`, `offsite check`.", steps=many(_STEP)),
    document("schedule", "When each job runs next, and how it ran last: `schedule`.", jobs=many(_JOB)),
    document(
        "moments",
        "The moments that can be brought back: `moments`. `on`: WAL is being received (BACKUP_PITR).",
        MOMENTS,
        on=bool,
        text=Text,
        breaks=many(BREAK),
        problems=many(FINDING),
    ),
    document(
        "deletions",
        "Commits that deleted many rows of a table, or 0 and whole `files`: `moments --lost`. `before_lsn`: go there.",
        since=Instant,
        until=Instant,
        losses=many(_LOSS),
    ),
    document("log", "What was logged, oldest first: `logs`.", entries=many(_ENTRY)),
    document("messages", "What waits for delivery, or is held back: `notify --pending`.", messages=many(_MESSAGE)),
    document("receipts", "What came of test messages: `notify --test`.", receipts=many(_RECEIPT)),
    document("probe", "What the running service answers: `healthcheck`.", exit_code=int, text=Text),
    document(
        "setup",
        "What the engine says of a project, and the overlay made of that: `setup`.",
        project=Text,
        database=_SERVICE,
        network=Text,
        media=many(_MOUNT),
        stop=_TEXTS,
        zone=Text,
        service=Text,
        overlay=Exact,
    ),
)
DOCUMENTS: Final = {made.model_fields["kind"].default: made for made in _ALL}
