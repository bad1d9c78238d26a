"""Whose settings a restored database gets, and its roles: those of the set, or those that are there.

What lives keeps its own. What an image has just made, so that nobody has ever put anything into it, is given the set's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from backup.logging import logger
from backup.model.manifest import DatabasePart
from backup.operations.restore.plan.facts import Contrast, Lacking, LiveDatabase
from backup.operations.restore.plan.fitting import left_behind, otherwise, own
from backup.postgres import Login, settings_for
from backup.postgres.admin import refused
from backup.postgres.psql import refusal
from backup.postgres.role_states import aligning, differing, subjects
from backup.postgres.roles import Roles, Statement, is_setting, retarget
from backup.postgres.server import Database, bootstrap, is_empty, is_new, replication, role_statements

# insufficient_privilege
_NO_RIGHT: Final = "42501"


@dataclass(frozen=True)
class Given:
    """Statements in the breath of the exchange: `own` for the database of the name it then has, `roles` for roles."""

    own: tuple[str, ...] = field(default=(), repr=False)
    roles: tuple[str, ...] = field(default=(), repr=False)


def contrast(login: Login, live: Database | None, listed: Roles | None, part: DatabasePart | None) -> Contrast:
    """How the database and the roles of a set and of the server differ, and whose count."""
    empty = live is None or is_empty(login)
    if listed is None or part is None:
        return Contrast(empty=False, new=False)
    wanted = _statements(listed.database_settings(part.name, login.name))
    there = _statements(settings_for(login, login.name)) if live else wanted
    unlike = [each for key, each in {**there, **wanted}.items() if key not in there or key not in wanted]
    return Contrast(
        empty=empty,
        new=empty and is_new(login),
        settings=tuple(subjects(unlike)),
        roles={name: tuple(keys) for name, keys in differing(listed, Roles.parse(role_statements(login))).items()},
    )


def given(
    login: Login, found: Contrast, live: Database | None, listed: Roles | None, part: DatabasePart | None
) -> Given:
    """The statements that this comes to."""
    if listed is None or part is None or not found.empty:
        return Given(settings_for(login, login.name) if live else ())
    # Somebody is at work as these, and the server cannot do without the first of its roles.
    unharmed = {login.user, bootstrap(login)}
    roles = aligning(listed, tuple(found.roles), unharmed) if found.new else []
    return Given(tuple(listed.database_settings(part.name, login.name)), tuple(roles))


def taken(login: Login, wanted: Given, name: str) -> Given:
    """What of it the server takes, tried on the database `name` and taken back: before hours of loading."""
    own, trial = len(wanted.own), [*retarget(wanted.own, login.name, name), *wanted.roles]
    left_out = _refused(login, name, trial, lambda number, why: number >= own or _may_go(trial[number], why))
    numbers = [number for number in range(len(trial)) if number not in left_out]
    return Given(
        tuple(wanted.own[number] for number in numbers if number < own),
        tuple(wanted.roles[number - own] for number in numbers if number >= own),
    )


def allowed(login: Login, name: str, statements: Sequence[str]) -> list[str]:
    """Those of the statements that the server takes; only settings may be among the others."""
    left_out = _refused(login, name, statements, lambda number, why: _may_go(statements[number], why))
    return [each for number, each in enumerate(statements) if number not in left_out]


def _may_go(statement: str, sqlstate: str) -> bool:
    """Whether it is a setting that no server of this kind takes any more; what this login may not set, another may."""
    return is_setting(statement) and sqlstate != _NO_RIGHT


def _refused(login: Login, name: str, statements: Sequence[str], may: Callable[[int, str], bool]) -> Collection[int]:
    """What the server refuses is told; RestoreFailed for what it may not."""
    found = refused(login, name, statements, may)
    for number, why in found.items():
        logger.warning("{}", refusal(statements[number], why))
    return found


def told(login: Login, live: Database | None, found: Contrast, lacks: Lacking) -> Iterator[tuple[str, str]]:
    """What is to be said at the end of a restore: what was kept, what was changed; warnings have a next step."""
    slots, subscriptions = replication(login, login.name)
    replaced = LiveDatabase(login.name, 0, 0, "", slots, subscriptions)
    remarks = [*otherwise(lacks), *(left_behind(replaced) if live else ())]
    yield from ((f"{label}: {text}", "") for label, text in own(found, live=live is not None))
    yield from ((remark.text, remark.hint) for remark in remarks)


def _statements(texts: list[str] | tuple[str, ...]) -> Mapping[tuple[str, ...], Statement]:
    return {each.words: each for each in Roles.parse("\n".join(texts)).statements}
