"""What the doctor says of each thing it looks at, from facts. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.docker.container import Container, mount_source
from backup.docker.permissions import CALLS, Purpose, Rights
from backup.formatting import age, duration, listed, plural, printable, size
from backup.model.backup_set import SKEW, StoredSet
from backup.model.finding import Finding, failure, ok, warning
from backup.model.schedule import Slot
from backup.monitoring.alerts.destinations import WHAT_TO_SET
from backup.monitoring.alerts.model import HEARTBEAT, Receipt
from backup.monitoring.health.model import Limits, newest
from backup.monitoring.health.volume import space_findings
from backup.postgres.inspect import DatabaseFacts, DatabaseRights
from backup.storage.filesystem import ON_A_DISK

_WITHOUT: Final[Mapping[Purpose, str]] = {
    "backup": "backups fail this way",
    "drill": "drills and the commands of BACKUP_POST_RESTORE fail",
    "restore": "a restore cannot stop the application",
    "secret": "the password file of the database's container cannot be read; set DB_PASSWORD_FILE instead",
}
# The first version of PostgreSQL that knows such a role.
_MAINTAIN: Final = 17
# What a dump and its file names may differ by without confusing anybody.
_CLOCKS: Final = timedelta(seconds=30)
_Users = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Measured:
    """One volume below /volumes: what is in it or why that cannot be told, and what the engine calls it."""

    name: str
    files: int = 0
    bytes: int = 0
    problem: str = ""
    source: str = ""


@dataclass(frozen=True)
class Keys:
    """The settings' side: what is encrypted (`off`, `offsite`, `all`), to whom (short names), and whether the
    identity is here: `identity` its path, empty for none; `trouble` why it cannot be used."""

    encrypt: str
    recipients: tuple[str, ...] = ()
    identity: str = ""
    trouble: str = ""


def engine(found: Rights) -> Iterator[Finding]:
    """Say what the engine is, and what it refuses."""
    kind = {True: ", rootless", False: "", None: ", rootless or not is unknown"}[found.rootless]
    yield ok(f"Docker {found.version} answers at {found.url}{kind}")
    for purpose, without in _WITHOUT.items():
        calls = [call for call in found.refused if call.purpose == purpose]
        if calls:
            text = f"refused: {', '.join(call.shown for call in calls)}: {without}"
            hint = "Allow these calls in the socket proxy."
            yield failure(text, hint) if purpose == "backup" else warning(text, hint)
    if not found.refused:
        what = "the socket" if found.url.startswith("unix:") else "this way to the engine"
        yield ok(f"all {len(CALLS)} calls in use are allowed; {what} is as good as root on its machine")


def no_engine(message: str, hint: str, *, network: bool, wanted: bool) -> Finding:
    """Say that there is no engine: `network` says that DB_HOST names a server, `wanted` that a socket was given."""
    if not network:
        return failure(f"{message}; and DB_HOST is not set, so there is no other way to the database", hint)
    if wanted:
        return warning(f"{message}; the database is reached over the network anyway", hint)
    return ok("there is none, and none is needed: the database is reached over the network")


def database(facts: DatabaseFacts, way: str) -> Iterator[Finding]:
    """Say which database there is, and what may keep its dumps from loading."""
    where = f"{facts.name}, {size(facts.size)}, on PostgreSQL {facts.server_version}"
    yield ok(f"{where}, by {way}")
    yield from (warning(caution) for caution in facts.cautions)


def password(user: str, *, public: bool) -> Iterator[Finding]:
    """A password that everybody could guess, and that cannot be told from a name."""
    if public:
        yield warning(
            f"the password of {user} is a public word, such as the role's own name: it is easy to guess, and hidden"
            " in logs only behind a word like password=",
            "Change the role's password, also in the application and in DB_PASSWORD_FILE.",
        )


def client(facts: DatabaseFacts, *, beside: bool) -> Finding:
    """Say which client dumps it; that there is one has been asked."""
    whose = "the database's own image brings it" if beside else "this image brings it"
    return ok(f"pg_dump {facts.major} for PostgreSQL {facts.major}: {whose}")


def database_rights(facts: DatabaseFacts, rights: DatabaseRights) -> Iterator[Finding]:
    """Say what the login may not do, and what that means."""
    user = printable(rights.role)
    if rights.unreadable:
        yield failure(
            f"{user} may not read {listed(rights.unreadable)}: a backup will fail",
            f"As a superuser: GRANT pg_read_all_data TO {user}.",
        )
    if rights.hidden:
        yield failure(
            f"row-level security hides rows from {user} in {listed(rights.hidden)}: a backup will fail",
            f"As a superuser: ALTER ROLE {user} BYPASSRLS.",
        )
    if rights.superuser:
        yield ok(f"{user} is a superuser: passwords of roles are in the sets, and all can be restored")
        return
    yield _ordinary(rights, user)
    if not rights.keep_logins:
        remedy = f"; a superuser can allow it: GRANT pg_maintain TO {user}" if facts.major >= _MAINTAIN else ""
        yield ok(
            f"{user} may not hold back logins while a restore swaps: for a moment clients may see that the database"
            f" does not exist, and a pooler may repeat that for seconds{remedy}"
        )
    yield from (ok(f"not in a dump: {each}") for each in facts.not_carried if not each.startswith("passwords"))


def _ordinary(rights: DatabaseRights, user: str) -> Finding:
    missing = [
        *(["databases (CREATEDB)"] if not rights.create_databases else []),
        *(["roles that are missing (CREATEROLE)"] if not rights.create_roles else []),
        *([f"the extensions {listed(rights.untrusted)} (superuser)"] if rights.untrusted else []),
    ]
    what = f"{user} is not a superuser: passwords of roles are not in the sets"
    if not missing:
        return ok(f"{what}; databases, roles and extensions can be restored")
    return warning(
        f"{what}, and a restore cannot make {', '.join(missing)}",
        f"Use a superuser for DB_USER, or as one: ALTER ROLE {user} CREATEDB CREATEROLE.",
    )


def volumes(found: Sequence[Measured], allow_empty: Collection[str], filled: Collection[str]) -> Iterator[Finding]:
    """Say whether there are volumes, and files in them; sets hold files of those that are `filled`."""
    if not found:
        hint = "Mount it: `media_volume:/volumes/media:ro`. Without media at all: BACKUP_ALLOW_EMPTY=none."
        none = "none is mounted below /volumes"
        yield ok(f"{none}, as is allowed") if "none" in allow_empty else failure(f"{none}: no media", hint)
    for each in found:
        holds = f"{each.name} holds {plural(each.files, 'file')}, {size(each.bytes)}"
        if each.problem:
            yield failure(f"{each.name} cannot be read: {each.problem}")
        elif each.files:
            yield ok(holds)
        elif each.name in allow_empty:
            yield ok(f"{each.name} is empty, as is allowed")
        elif each.name not in filled:
            yield warning(
                f"{each.name} is empty, and no set holds a file of it yet",
                f"Is it the one that the application writes to? If it may stay empty: BACKUP_ALLOW_EMPTY={each.name}.",
            )
        else:
            yield failure(
                f"{each.name} is empty, which is how a wrong or forgotten mount looks",
                f"Is it the volume that the application writes to? If it may be empty: BACKUP_ALLOW_EMPTY={each.name}.",
            )


def mounts(found: Sequence[Measured], application: Iterable[Container], spared: Collection[str]) -> Iterator[Finding]:
    """Say whether our volumes are those of the application. `spared` are sources of the database's own."""
    writers, readers = _uses(application)
    ours = {volume.source for volume in found}
    others = {name: who for name, who in writers.items() if name not in ours and name not in spared}
    for volume in found:
        yield _mount(volume, writers, readers, others)
    if others:
        yield ok(f"not in the sets, though the application writes there: {_users(others)}")


def _uses(application: Iterable[Container]) -> tuple[_Users, _Users]:
    """Sort the services by the source of what they mount: who may write to it, and who reads it only."""
    writers: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    for container in application:
        for mount in container.mounts:
            used = writers if mount.get("RW") else readers
            used.setdefault(mount_source(mount), set()).add(container.service or container.name)
    return writers, readers


def _mount(volume: Measured, writers: _Users, readers: _Users, others: _Users) -> Finding:
    name = f"{volume.name} is {volume.source}"
    if volume.source in writers:
        return ok(f"{name}, which {listed(sorted(writers[volume.source]))} may write to")
    if volume.source in readers:
        return warning(
            f"{name}, which {listed(sorted(readers[volume.source]))} only reads",
            "Is it the volume that the application writes to?",
        )
    unused = f"{name}, which no container of the project uses"
    if others:
        hint = f"Mount the application's own at /volumes/{volume.name}. It writes to: {_users(others)}."
        return failure(unused, hint)
    return warning(unused, "Is the application up? `docker compose ps -a` shows it.")


def _users(used: _Users) -> str:
    return listed([f"{name} ({listed(sorted(who))})" for name, who in sorted(used.items())], mark="; ")


def space(free: int, total: int, needed: int | None, min_free: float) -> Iterator[Finding]:
    """Free space against the next set and the limit, in bytes; `needed` is None where it cannot be predicted."""
    limits = Limits(min_free=min_free, next_set=needed)
    found = list(space_findings(free, limits))
    expects = f"the next set will take about {size(needed)}" if needed else "the size of the next set is unknown"
    yield from found or [ok(f"{size(free)} of {size(total)} are free; {expects}")]


def cautions(sets: Iterable[StoredSet], live: Collection[str]) -> Iterator[Finding]:
    """Repeat what was said when the newest set was made, good or not, unless the live database says it, too."""
    last = newest(s for s in sets if s.summary.database and not s.safety)
    part = last.manifest.database if last else None
    if last is None or part is None:
        return
    yield from (warning(f"{last.id}: {each}") for each in part.cautions if each not in live)


def clock(zone: ZoneInfo, now: datetime, ahead: timedelta | None, newest: datetime | None) -> Iterator[Finding]:
    """Zone and clock. `ahead` is the server's clock against ours, `newest` the latest moment that is recorded."""
    yield ok(f"it is {now.astimezone(zone):%Y-%m-%d %H:%M:%S} in {zone.key} (TZ)")
    if newest is not None and newest > now + SKEW:
        yield failure(
            f"the clock jumped: a run or a set is recorded at {newest:%Y-%m-%d %H:%M:%S %Z}, {age(now - newest)}",
            "Correct the clock of this machine: `date` shows it.",
        )
    if ahead is None:
        yield warning("not compared with the database server's clock: the database does not answer")
    elif abs(ahead) > _CLOCKS:
        way = "ahead of" if ahead > timedelta() else "behind"
        yield warning(
            f"the database server's clock is {duration(abs(ahead).total_seconds())} {way} this one",
            "Correct the clock of the machine that is wrong.",
        )
    else:
        yield ok("the database server's clock agrees")


def schedule(slots: Sequence[Slot], zone: ZoneInfo, reasons: Sequence[Finding]) -> Iterator[Finding]:
    """The next run of each job, and what was missed."""
    coming = [(slot.times[0], slot.job) for slot in slots if slot.times]
    shown = ", ".join(f"{job} {moment.astimezone(zone):%a %Y-%m-%d %H:%M}" for moment, job in sorted(coming))
    if not any(job in ("daily", "weekly", "monthly") for _, job in coming):
        yield failure("no backup is scheduled", "Set BACKUP_DAILY, such as `0 2 * * *`.")
    else:
        yield ok(f"next: {shown}")
    yield from reasons


def running(container: Container | None, here: Sequence[Container]) -> Iterator[Finding]:
    """Say whether the service is up: `here` are the project's containers of our image, `container` is our own."""
    if container is None:
        return
    up = [each for each in here if each.running]
    if up:
        yield ok(f"{printable(up[0].name)} is running")
    else:
        yield warning("the backup service is not running: nothing is scheduled", "docker compose up -d backup")


def check_restore(
    stopped: Sequence[Container], commands: Sequence[tuple[str, str]], up: Collection[str]
) -> Iterator[Finding]:
    """Say who would be stopped by a restore, and whether its last commands have a place; `up` are running services."""
    names = ", ".join(sorted({printable(each.service or each.name) for each in stopped}))
    yield ok(
        f"a restore would stop {names} while it swaps" if names else "a restore would stop no container: none runs"
    )
    for service, command in commands:
        where = f"`{printable(command)}` after a restore"
        if service in up:
            yield ok(f"{where} runs in {printable(service)}")
        else:
            yield failure(
                f"{where} cannot run: no container of {printable(service)} is running",
                "Correct BACKUP_POST_RESTORE, or start the service.",
            )


def no_stop(*, on_purpose: bool) -> Finding:
    """Say that there is no engine to stop containers with."""
    text = "a restore cannot stop the application here: there is no engine, or no Compose project"
    hint = "Stop whatever writes to the media by hand before a restore, and start it afterwards."
    return ok(f"{text}. {hint}") if on_purpose else warning(text, hint)


def alerts(names: Sequence[str], waiting: Sequence[Finding], heartbeat: bool) -> Iterator[Finding]:
    """Say who is told when a backup fails, and whether that works of late."""
    if not names:
        yield warning("no alert target is set: nobody hears of a failed backup", WHAT_TO_SET)
    else:
        yield ok(f"{plural(len(names), 'target')}: {', '.join(map(printable, names))}; --notify tests them")
    if heartbeat:
        yield ok(f"a {HEARTBEAT} is sent after each verified backup")
    yield from waiting


def tried(receipts: Sequence[Receipt]) -> Iterator[Finding]:
    """Say what came of the test messages."""
    for each in receipts:
        if each.error:
            text = f"{each.target} did not accept the test message: {each.error}"
            yield failure(text, "Correct the setting or the service it names, then run `notify --test`.")
        else:
            yield ok(f"{each.target} accepted the test message in {each.seconds:.1f} s")


def volume(sets: int, good: int, marker: str, memory: str, root: str) -> Iterator[Finding]:
    """The backup volume, which can be written; `memory` says that nothing lasts there, and is empty on a disk."""
    yield ok(f"{root} is mounted and can be written; it is {marker} and holds {plural(sets, 'set')}, {good} good")
    if memory:
        yield failure(memory, ON_A_DISK)


def encryption(keys: Keys, sets: Sequence[StoredSet]) -> Iterator[Finding]:
    """Say how sets are encrypted, where the key is, and whether anybody has shown that the newest one can be opened."""
    encrypted = [each for each in sets if each.encrypted and each.good]
    if keys.encrypt == "off" and not encrypted:
        yield ok("sets are not encrypted (BACKUP_ENCRYPT=off)")
        return
    what = {"off": "nothing new", "offsite": "offsite copies alone", "all": "every new set"}[keys.encrypt]
    yield ok(f"encrypted: {what}; recipients: {', '.join(keys.recipients) or 'none'}")
    if len(keys.recipients) == 1 and keys.encrypt != "off":
        yield Finding(
            "pass",
            "a single key opens the sets: if it is lost, so is every encrypted set",
            "Keep it in two places away from this machine, or add a second recipient to BACKUP_AGE_RECIPIENTS.",
        )
    yield _identity(keys)
    if encrypted:
        yield _newest_encrypted(max(encrypted, key=lambda each: (each.time, each.id)))
    elif keys.encrypt == "all":
        yield Finding("pass", "no encrypted set has been made yet", "`create` makes one.")


def _identity(keys: Keys) -> Finding:
    if keys.trouble:
        return warning(keys.trouble, "BACKUP_AGE_IDENTITY_FILE must name a file as `age-keygen -o FILE` writes it.")
    if keys.identity:
        return ok(
            f"the private key is here ({keys.identity}): encrypted sets are verified and drilled; whoever takes over"
            " this machine has the key too"
        )
    return Finding(
        "pass",
        "no private key is here: `verify` compares only stored bytes, and a scheduled drill of an encrypted set fails",
        "Prove every few months that the key still fits: `drill latest --identity FILE`.",
    )


def _newest_encrypted(stored: StoredSet) -> Finding:
    if stored.proven:
        return ok(f"{stored.id}, the newest encrypted set, was proven with its key")
    if not stored.unopened:
        return ok(f"{stored.id}, the newest encrypted set, was opened with its key, but never restored by a drill")
    return warning(
        f"{stored.id}, the newest encrypted set, was never opened with its key",
        f"`drill {stored.id} --identity FILE` opens it: better to notice a lost key now than in an emergency.",
    )
