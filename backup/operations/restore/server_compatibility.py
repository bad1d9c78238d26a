"""How a set fits the server that it is restored to: what is not there, and whose settings and roles count.

What lives keeps its own. What an image has just made, so that nobody has ever put anything into it, is given the set's.
What is looked at is not changed: what the server may not take is tried and taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backup.logging import logger
from backup.model.manifest import DatabasePart
from backup.operations.load import NO_RIGHT
from backup.operations.restore.plan.compatibility import left_behind, otherwise, own
from backup.operations.restore.plan.facts import Contrast, Lacking, LiveDatabase, major
from backup.postgres.admin import refused_statements
from backup.postgres.dump.adaptation import LOADING, Adaptation
from backup.postgres.preload_libraries import extension_of
from backup.postgres.psql import refusal
from backup.postgres.role_states import aligning, differing, subjects
from backup.postgres.roles import Roles, Statement, is_setting, retarget
from backup.postgres.server import Database, bootstrap, is_empty, is_new, replication, role_statements
from backup.postgres.server_dependencies import NEED_PRELOAD, ONE_DATABASE, Capabilities, capabilities
from backup.postgres.session import Login


@dataclass(frozen=True)
class Fit:
    """What is done otherwise, and what is not there."""

    adaptation: Adaptation = Adaptation()
    lacks: Lacking = Lacking()


def fit(login: Login, part: DatabasePart | None, server_version: str) -> Fit:
    """Ask how the set of `part` fits the server of `login`; of a dump without a manifest only what loading it takes."""
    versions = {**dict.fromkeys(part.extensions, ""), **part.versions} if part else {}
    has = capabilities(login, versions)
    same = part is not None and major(part.server_version) == major(server_version)
    made = {name: _version(name, version, has, same) for name, version in versions.items()}
    elsewhere = {
        name: has.only[name]
        for name in ONE_DATABASE
        if name in versions and has.only.get(name, login.name) != login.name
    }
    lacking = _lacking(part.preload.libraries, has) if part else ()
    adaptation = Adaptation(
        versions={name: was if made[name] == was else "" for name, was in versions.items()},
        waiting={name: schema for name, (_, schema) in ONE_DATABASE.items()},
        tablespaces=has.tablespaces,
    )
    lacks = Lacking(
        needed=tuple(name for name in lacking if name in NEED_PRELOAD and name in versions and name not in elsewhere),
        libraries=lacking,
        tablespaces=tuple(name for name in part.tablespaces if name not in has.tablespaces) if part else (),
        versions=tuple(
            (name, was, made[name]) for name, was in versions.items() if was and made[name] not in ("", was)
        ),
        elsewhere=tuple(elsewhere.items()),
    )
    return Fit(adaptation, lacks)


def _version(name: str, wanted: str, has: Capabilities, same_major: bool) -> str:
    """Choose the version to make: that of the set where it can be had, unless a newer server brings a newer one."""
    exact = same_major or name in LOADING
    return wanted if exact and (name, wanted) in has.versions else has.defaults.get(name, "")


def _lacking(wanted: Iterable[str], has: Capabilities) -> tuple[str, ...]:
    if has.libraries is None:
        return ()
    there = {extension_of(name) for name in has.libraries}
    return tuple(name for name in map(extension_of, wanted) if name not in there)


@dataclass(frozen=True)
class Given:
    """Statements in the breath of the exchange: `own` for the database of the name it then has, `roles` for roles."""

    own: tuple[str, ...] = field(default=(), repr=False)
    roles: tuple[str, ...] = field(default=(), repr=False)


def contrast(
    login: Login, live: Database | None, settings: Sequence[str], listed: Roles | None, part: DatabasePart | None
) -> Contrast:
    """Compare the database, whose `settings` are these, and the roles of a set with the server's; say whose count."""
    empty = live is None or is_empty(login)
    if listed is None or part is None:
        return Contrast(empty=False, new=False)
    wanted = _statements(listed.database_settings(part.name, login.name))
    there = _statements(settings) if live else wanted
    unlike = [each for key, each in {**there, **wanted}.items() if key not in there or key not in wanted]
    return Contrast(
        empty=empty,
        new=empty and is_new(login),
        settings=tuple(subjects(unlike)),
        roles={name: tuple(keys) for name, keys in differing(listed, Roles.parse(role_statements(login))).items()},
    )


def given(
    login: Login, found: Contrast, settings: Sequence[str], listed: Roles | None, part: DatabasePart | None
) -> Given:
    """Write the statements that this comes to; `settings` are those of what lives."""
    if listed is None or part is None or not found.empty:
        return Given(tuple(settings))
    # Somebody is at work as these, and the server cannot do without the first of its roles.
    unharmed = {login.user, bootstrap(login)}
    roles = aligning(listed, tuple(found.roles), unharmed) if found.new else []
    return Given(tuple(listed.database_settings(part.name, login.name)), tuple(roles))


def taken(login: Login, wanted: Given, name: str) -> Given:
    """Try on the database `name` what of it the server takes, and take it back: before hours of loading."""
    own, trial = len(wanted.own), [*retarget(wanted.own, login.name, name), *wanted.roles]
    left_out = _refused(login, name, trial, lambda number, why: number >= own or _may_go(trial[number], why))
    numbers = [number for number in range(len(trial)) if number not in left_out]
    return Given(
        tuple(wanted.own[number] for number in numbers if number < own),
        tuple(wanted.roles[number - own] for number in numbers if number >= own),
    )


def allowed(login: Login, name: str, statements: Sequence[str]) -> list[str]:
    """Choose the statements that the server takes; only settings may be among the others."""
    left_out = _refused(login, name, statements, lambda number, why: _may_go(statements[number], why))
    return [each for number, each in enumerate(statements) if number not in left_out]


def _may_go(statement: str, sqlstate: str) -> bool:
    """Tell whether it is a setting that no such server takes any more; what this login may not set, another may."""
    return is_setting(statement) and sqlstate != NO_RIGHT


def _refused(login: Login, name: str, statements: Sequence[str], may: Callable[[int, str], bool]) -> Collection[int]:
    """Find what the server refuses, and log it; RestoreFailed for what it may not."""
    found = refused_statements(login, name, statements, may)
    for number, why in found.items():
        logger.warning("{}", refusal(statements[number], why))
    return found


def last_notes(login: Login, live: Database | None, found: Contrast, lacks: Lacking) -> Iterator[tuple[str, str]]:
    """Say at the end of a restore what was kept, what was changed; warnings have a next step."""
    slots, subscriptions = replication(login, login.name)
    replaced = LiveDatabase(login.name, 0, 0, "", slots, subscriptions)
    findings = [*otherwise(lacks), *(left_behind(replaced) if live else ())]
    yield from ((f"{label}: {text}", "") for label, text in own(found, live=live is not None))
    yield from ((finding.text, finding.hint) for finding in findings)


def _statements(texts: Sequence[str]) -> Mapping[tuple[str, ...], Statement]:
    return {each.words: each for each in Roles.parse("\n".join(texts)).statements}
