"""How a set fits the server that it is restored to: what is not there, and what is done instead. Asked, not touched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backup.model.manifest import DatabasePart
from backup.operations.restore.plan.facts import Lacking, major
from backup.postgres import Login
from backup.postgres.dump.adaptation import LOADING, Adaptation
from backup.postgres.server_dependencies import NEED_PRELOAD, ONE_DATABASE, Capabilities, capabilities


@dataclass(frozen=True)
class Fit:
    """What is done otherwise, and what is not there."""

    adaptation: Adaptation = Adaptation()
    lacks: Lacking = Lacking()


def fit(login: Login, part: DatabasePart | None, server_version: str) -> Fit:
    """How the set of `part` fits the server of `login`; of a dump without a manifest only what it takes to load it."""
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
    """The version that is made: that of the set where it can be had, unless a newer server brings a newer one."""
    exact = same_major or name in LOADING
    return wanted if exact and (name, wanted) in has.versions else has.defaults.get(name, "")


def _lacking(wanted: Iterable[str], has: Capabilities) -> tuple[str, ...]:
    if has.libraries is None:
        return ()
    there = {_plain(name) for name in has.libraries}
    return tuple(name for name in map(_plain, wanted) if name not in there)


def _plain(library: str) -> str:
    return library.rpartition("/")[2].removesuffix(".so")
