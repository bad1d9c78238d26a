"""What the doctor says of point-in-time recovery, from facts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from backup.errors import BackupError
from backup.formatting import listed, plural, printable, size
from backup.model.finding import Finding, failure, ok, warning
from backup.monitoring.window import Window, base_sizes, still_to_come, wal_a_day, wal_kept
from backup.operations.pitr.increment import INCREMENTAL_SINCE
from backup.postgres.replication import ClusterFacts
from backup.postgres.wal_rights import WalRights
from backup.postgres.wal_slot import SET_LIMIT, Slots, refusal

# One for the stream, one for a base backup.
_SENDERS: Final = 2
_DROP: Final = "By hand, as a superuser: SELECT pg_drop_replication_slot('{}');"
_ENTRY: Final = (
    "A line for it in pg_hba.conf, `host replication {} ADDRESS scram-sha-256`, and `SELECT pg_reload_conf();`. Where"
    " a managed server allows none, BACKUP_PITR=off and the provider's own recovery."
)
RECEIVED_ALONE: Final = "moments are received here, but can be brought back, and proven, only where a Docker engine is"
_RESTART: Final = "as a superuser, then restart the database server"


def recovery(image: str, *, there: bool) -> Finding:
    """Say in which `image` the server of a moment is started, whose own image the network does not tell."""
    if there:
        return ok(f"moments are recovered in {image}, which must have the extensions in use")
    text = f"moments cannot be brought back, nor proven, before the image {image} is on this machine"
    return warning(text, f"`docker pull {image}`, or give that name to an image with the extensions in use.")


def server(
    rights: WalRights, tablespaces: Sequence[str], *, streaming: bool, refused: BackupError | None = None
) -> Iterator[Finding]:
    """Say what keeps WAL from being received, or base backups from being taken.

    `streaming`: our own session is among `used`. `refused`: what the server said to a receiver over the network.
    """
    found = [*_settings(rights, streaming=streaming), *_role(rights), *_tablespaces(tablespaces)]
    role = printable(rights.role)
    if refused and not any(line.level == "fail" for line in found):
        hint = _ENTRY.format(role) if "pg_hba.conf" in refused.message else refused.hint
        found.append(failure(f"nobody is let in to receive WAL over the network: {refused.message}", hint))
    senders = f"{rights.used} of {rights.senders} senders are in use"
    yield from found or [ok(f"{role} may receive WAL (wal_level {printable(rights.level)}; {senders})")]


def _settings(rights: WalRights, *, streaming: bool) -> Iterator[Finding]:
    if rights.standby:
        yield failure(
            "the database server is a standby, whose WAL is another server's: none is received",
            "Let DB_SERVICE or DB_HOST name the primary.",
        )
    if rights.level not in ("replica", "logical"):
        yield failure(
            f"wal_level is {printable(rights.level)}: this server's WAL cannot be replayed",
            f"ALTER SYSTEM SET wal_level = 'replica'; {_RESTART}.",
        )
    needed = _SENDERS - streaming
    if rights.senders - rights.used < needed:
        left = f"{rights.used} of max_wal_senders = {rights.senders} are in use"
        what = f"{left}; {plural(needed, 'more is', 'more are')} needed, for the stream and for a base backup"
        hint = f"ALTER SYSTEM SET max_wal_senders = {rights.used + needed + 5}; {_RESTART}."
        yield failure(what, hint) if rights.senders - rights.used < 1 else warning(what, hint)


def _role(rights: WalRights) -> Iterator[Finding]:
    if not rights.allowed:
        role = printable(rights.role)
        yield failure(
            f"{role} may not receive WAL: it has no right of replication",
            f"As a superuser: ALTER ROLE {role} REPLICATION;",
        )


def _tablespaces(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        yield failure(
            f"the cluster has tablespaces of its own ({listed(names)}): base backups do not hold those yet",
            "Move what is there into pg_default (ALTER DATABASE or ALTER TABLE … SET TABLESPACE), or set"
            " BACKUP_PITR=off.",
        )


def slot(slots: Slots, own: str, *, wanted: bool) -> Iterator[Finding]:
    """Say what keeps the server from keeping WAL for us, and which slots of ours it has for nothing."""
    found = slots.named(own)
    if wanted and (why := refusal(slots.cap)):
        yield failure(f"{why}; WAL is received without a slot", SET_LIMIT)
    elif found and wanted:
        yield ok(f"the slot {own} keeps {size(found.held)} of WAL")
    elif found:
        yield warning(
            f"the slot {own} is left on the server, and keeps {size(found.held)} of WAL: nothing is received by it",
            f"The next start of the service drops it, and so does the next backup. {_DROP.format(own)}",
        )
    for each in slots.ours:
        # With one that is in use the server keeps no more than without it.
        if each.name != own and each.status != "reserved":
            yield warning(
                f"the slot {printable(each.name)} of another backup volume keeps {size(each.held)} of WAL",
                f"Does a sidecar use it? {_DROP.format(printable(each.name))}",
            )


def increments(cluster: ClusterFacts) -> Iterator[Finding]:
    """Say whether base backups are incremental, and what that takes where the server could."""
    if cluster.summarizing:
        yield ok("base backups hold what has changed since the last one, on a full one each week (summarize_wal is on)")
    elif cluster.major >= INCREMENTAL_SINCE:
        yield ok(
            "each base backup is a full one; as a superuser, ALTER SYSTEM SET summarize_wal = on; and"
            " SELECT pg_reload_conf(); make them hold only what has changed, on a full one each week"
        )


def room(window: Window, free: int, cluster: int, now: datetime) -> Finding:
    """Say whether the volume has room for the window, in bytes. `cluster` is its size."""
    (fulls, full), *more_kinds = base_sizes(window, cluster)
    a_day, more = wal_a_day(window, now), still_to_come(window, now, cluster)
    measured = "" if window.base else "at most "
    what = (
        f"{plural(fulls, 'base backup')} of {measured}{size(full)}"
        + "".join(f", {count} incremental ones of {size(each)}" for count, each in more_kinds)
        + (f" and {size(a_day)} of WAL a day" if a_day else ", and WAL")
        + f" for {plural(wal_kept(window).days, 'day')}: {size(more)} more, {size(free)} are free"
    )
    if more <= free:
        return ok(what)
    hint = "Enlarge the disk, set BACKUP_PITR_DAYS lower, or let BACKUP_PITR_BASE take fewer base backups."
    return warning(what, hint)


def is_streaming(window: Window, now: datetime) -> bool:
    """Whether our stream has a session on the server."""
    stream = window.stream
    return stream is not None and stream.up and now - stream.looked <= window.max_lag
