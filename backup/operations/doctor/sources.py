"""What is said of the engine, the database and the volumes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backup.docker.container import Container, source
from backup.docker.permissions import CALLS, Purpose, Rights
from backup.formatting import listed, plural, printable, size
from backup.operations.doctor.model import Found, Line
from backup.postgres.inspect import DatabaseRights, Facts

_WITHOUT: Final[Mapping[Purpose, str]] = {
    "backup": "no backup can be made this way",
    "drill": "no drill can be made, and commands of BACKUP_POST_RESTORE cannot be run",
    "restore": "a restore cannot stop the application",
    "secret": "a password that the database's container has in a file cannot be read; set DB_PASSWORD_FILE then",
}
# The first version of PostgreSQL that knows such a role.
_MAINTAIN: Final = 17
_Users = Mapping[str, Collection[str]]


def engine(found: Rights) -> Iterator[Line]:
    """The engine's lines: what it is, and what it refuses."""
    say = Found("engine")
    kind = {True: ", rootless", False: "", None: ", which may not be asked whether it is rootless"}[found.rootless]
    yield say.ok(f"Docker {found.version} answers at {found.url}{kind}")
    for purpose, without in _WITHOUT.items():
        calls = [call for call in found.refused if call.purpose == purpose]
        if calls:
            text = f"refused: {', '.join(call.shown for call in calls)}: {without}"
            hint = "Allow these calls in the proxy before the socket."
            yield say.failed(text, hint) if purpose == "backup" else say.warning(text, hint)
    if not found.refused:
        what = "the socket" if found.url.startswith("unix:") else "this way to the engine"
        yield say.ok(f"all {len(CALLS)} calls that are used are allowed; {what} is as good as root on its machine")


def no_engine(message: str, hint: str, *, network: bool, wanted: bool) -> Line:
    """There is no engine: `network` says that DB_HOST names a server, `wanted` that a socket was given."""
    say = Found("engine")
    if not network:
        return say.failed(f"{message}; and DB_HOST is not set, so there is no other way to the database", hint)
    if wanted:
        return say.warning(f"{message}; the database is reached over the network all the same", hint)
    return say.ok("there is none, and none is needed: the database is reached over the network")


def database(facts: Facts, way: str) -> Iterator[Line]:
    """Which database there is, and what may keep its dumps from loading."""
    say = Found("database")
    where = f"{facts.name}, {size(facts.size)}, on PostgreSQL {facts.server_version}"
    yield say.ok(f"{where}, by {way}")
    yield from (say.warning(caution) for caution in facts.cautions)


def password(user: str, *, public: bool) -> Iterator[Line]:
    """A password that everybody could guess, and that cannot be told from a name."""
    if public:
        yield Found("database").warning(
            f"the password of {user} is a public word, such as the role's own name: anybody can guess it, and"
            " where it is not behind a word like password= it cannot be told from the name and is shown",
            "Give the role another password and set it where the application and DB_PASSWORD_FILE have it.",
        )


def client(facts: Facts, *, beside: bool) -> Line:
    """Which client dumps it; that there is one has been asked."""
    whose = "the database's own image brings it" if beside else "this image brings it"
    return Found("client").ok(f"pg_dump {facts.major} for PostgreSQL {facts.major}: {whose}")


def database_rights(facts: Facts, rights: DatabaseRights) -> Iterator[Line]:
    """What the login may not do, and what that means."""
    say, user = Found("rights"), printable(rights.role)
    if rights.unreadable:
        yield say.failed(
            f"{user} may not read {listed(rights.unreadable)}: a backup will fail",
            f"As a superuser: GRANT pg_read_all_data TO {user}.",
        )
    if rights.hidden:
        yield say.failed(
            f"row-level security hides rows from {user} in {listed(rights.hidden)}: a backup will fail",
            f"As a superuser: ALTER ROLE {user} BYPASSRLS.",
        )
    if rights.superuser:
        yield say.ok(f"{user} is a superuser: passwords of roles are in the sets, and all can be restored")
        return
    yield _ordinary(rights, user)
    if not rights.keep_logins:
        remedy = f"; a superuser can allow it: GRANT pg_maintain TO {user}" if facts.major >= _MAINTAIN else ""
        yield say.ok(
            f"{user} may not keep logins waiting while a restore swaps: for a moment clients may be told that the"
            f" database does not exist, and a pooler may go on saying so for seconds{remedy}"
        )
    yield from (say.ok(f"not in a dump: {each}") for each in facts.not_carried if not each.startswith("passwords"))


def _ordinary(rights: DatabaseRights, user: str) -> Line:
    say = Found("rights")
    missing = [
        *(["databases (CREATEDB)"] if not rights.create_databases else []),
        *(["roles that are missing (CREATEROLE)"] if not rights.create_roles else []),
        *([f"the extensions {listed(rights.untrusted)} (superuser)"] if rights.untrusted else []),
    ]
    what = f"{user} is not a superuser: passwords of roles are not in the sets"
    if not missing:
        return say.ok(f"{what}; databases, roles and extensions can be restored")
    return say.warning(
        f"{what}, and a restore cannot make {', '.join(missing)}",
        f"Use a superuser for DB_USER, or as one: ALTER ROLE {user} CREATEDB CREATEROLE.",
    )


@dataclass(frozen=True)
class Measured:
    """One volume below /volumes: what is in it or why that cannot be told, and what the engine calls it."""

    name: str
    files: int = 0
    bytes: int = 0
    problem: str = ""
    source: str = ""


def volumes(found: Sequence[Measured], allow_empty: Collection[str], filled: Collection[str]) -> Iterator[Line]:
    """Whether there are volumes, and files in them; sets hold files of those that are `filled`."""
    say = Found("volumes")
    if not found:
        hint = "Mount it: `media_volume:/volumes/media:ro`. Without media at all: BACKUP_ALLOW_EMPTY=none."
        none = "none is mounted below /volumes"
        yield say.ok(f"{none}, as is allowed") if "none" in allow_empty else say.failed(f"{none}: no media", hint)
    for each in found:
        holds = f"{each.name} holds {plural(each.files, 'file')}, {size(each.bytes)}"
        if each.problem:
            yield say.failed(f"{each.name} cannot be read: {each.problem}")
        elif each.files:
            yield say.ok(holds)
        elif each.name in allow_empty:
            yield say.ok(f"{each.name} is empty, as is allowed")
        elif each.name not in filled:
            yield say.warning(
                f"{each.name} is empty, and no set has held a file of it so far",
                f"Is it the one that the application writes to? If it may stay empty: BACKUP_ALLOW_EMPTY={each.name}.",
            )
        else:
            yield say.failed(
                f"{each.name} is empty, which is how a wrong or forgotten mount looks",
                f"Is it the volume that the application writes to? If it may be empty: BACKUP_ALLOW_EMPTY={each.name}.",
            )


def mounts(found: Sequence[Measured], application: Iterable[Container], spared: Collection[str]) -> Iterator[Line]:
    """Whether our volumes are those of the application. `spared` are sources of the database's own."""
    writers, readers = _uses(application)
    ours = {volume.source for volume in found}
    others = {name: who for name, who in writers.items() if name not in ours and name not in spared}
    for volume in found:
        yield _mount(volume, writers, readers, others)
    if others:
        yield Found("mounts").ok(f"not in the sets, though the application writes there: {_users(others)}")


def _uses(application: Iterable[Container]) -> tuple[_Users, _Users]:
    """Who mounts what writable, and who reads it only: services by the mount's source."""
    writers: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    for container in application:
        for mount in container.mounts:
            used = writers if mount.get("RW") else readers
            used.setdefault(source(mount), set()).add(container.service or container.name)
    return writers, readers


def _mount(volume: Measured, writers: _Users, readers: _Users, others: _Users) -> Line:
    say, name = Found("mounts"), f"{volume.name} is {volume.source}"
    if volume.source in writers:
        return say.ok(f"{name}, which {listed(sorted(writers[volume.source]))} may write to")
    if volume.source in readers:
        return say.warning(
            f"{name}, which {listed(sorted(readers[volume.source]))} only reads",
            "Is it the volume that the application writes to?",
        )
    unused = f"{name}, which no container of the project uses"
    if others:
        hint = f"Mount the application's own at /volumes/{volume.name}. It writes to: {_users(others)}."
        return say.failed(unused, hint)
    return say.warning(unused, "Is the application up? `docker compose ps -a` shows it.")


def _users(used: _Users) -> str:
    return listed([f"{name} ({listed(sorted(who))})" for name, who in sorted(used.items())], mark="; ")
