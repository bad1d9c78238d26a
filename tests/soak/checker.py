"""What a set must hold, and whether it does. Nothing here asks the product, nor shares code with it.

An expectation is taken when a set is made: the rows that were acknowledged before and after, everything else in the
database by our own SQL, every content that a file had meanwhile.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.writers import ACCOUNTS, KEPT_EVENTS, amount, chain, marked, tree
from tests.support.database import Server
from tests.support.faults import TIERS, judge

# Relations that the writer changes: known by the ledger, not by a hash.
MOVING = ("ledger", "account", "event", "event_id_seq")
_CATALOGUE = """
    SELECT 'index ' || indexname || ' ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'column ' || attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || ' '
        || attnotnull || coalesce(pg_get_expr(adbin, adrelid), '')
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'relation ' || relname || ' ' || relkind::text || ' ' || coalesce(relacl::text, '') || ' '
        || relowner::regrole || coalesce(obj_description(oid, 'pg_class'), '') || coalesce(pg_get_viewdef(oid), '')
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm', 'S')
    UNION ALL SELECT 'large object ' || oid || ' ' || md5(lo_get(oid)) FROM pg_largeobject_metadata
"""


_NAMES = "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')"


_HASHES = {
    "S": "SELECT last_value FROM {}",
    "r": "SELECT count(*) || ' ' || coalesce(sum(('x' || left(md5(a_row::text), 15))::bit(60)::bigint), 0)"
    " FROM {} a_row",
}
# By as much a sequence may be ahead after a crash of the server: its log is that many values ahead.
_AHEAD = 32
# What the second volume holds, as long as it is there.
OTHER = {"page.txt": marked(b"a page", 0o644)}
_COUNTS = ("files", "directories", "links", "hard_links", "bytes")
_WORDS = ("kind", "name", "file", "stored_size", "stored_sha256", "plain_size", "plain_sha256", "encryption")


@dataclass
class Findings:
    """What the end is judged by. `breaches` are the promises of other kinds: something hung, was left, or was told."""

    faults: Counter[str] = field(default_factory=Counter)
    false: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def well(self) -> bool:
        return not (self.false or self.lost or self.breaches)


@dataclass(frozen=True)
class Data:
    """All that a database holds: the tokens of the ledger, and a hash of each other thing."""

    tokens: list[str]
    accounts: list[tuple[int, int]]
    events: list[tuple[int, str]]
    rest: Mapping[str, str]

    @classmethod
    def read(cls, server: Server, database: str) -> Data:
        """As one snapshot has it."""
        with server.connect(database) as connection, connection.transaction():
            run = connection.execute
            run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            run("SET LOCAL search_path = public; SET LOCAL timezone = 'UTC'; SET LOCAL extra_float_digits = 3")
            rest = {row: "" for (row,) in run(_CATALOGUE)}
            found = run(_NAMES)
            for name, kind in found.fetchall():
                if name in MOVING:
                    continue
                rest[f"content {name}"] = str((run(_HASHES[kind].format(name).encode()).fetchone() or ("",))[0])
            return cls(
                [token for (token,) in run("SELECT token FROM ledger ORDER BY n")],
                [(moved, balance) for moved, balance in run("SELECT moved, balance FROM account ORDER BY id")],
                [(n, body) for n, body in run("SELECT n, body FROM event ORDER BY n")],
                rest,
            )

    def inner(self) -> Iterator[str]:
        """What does not follow from its own ledger."""
        moved, balance = [0] * ACCOUNTS, [0] * ACCOUNTS
        for n, token in enumerate(self.tokens, 1):
            moved[n % ACCOUNTS] += 1
            balance[n % ACCOUNTS] += amount(token)
        if self.accounts != list(zip(moved, balance, strict=True)):
            yield "the accounts are not what the ledger makes of them"
        first = max(1, len(self.tokens) - KEPT_EVENTS + 1)
        if self.events != [(n, token[::-1]) for n, token in enumerate(self.tokens, 1) if n >= first]:
            yield "the events are not those of the ledger"


@dataclass(frozen=True)
class Expectation:
    """What a set must hold. `links` are those of the ledger from `low` on, one for each number of rows it may have."""

    low: int
    links: list[bytes]
    rest: Mapping[str, str]
    files: Mapping[str, set[str | None]]
    # Files that the manifest lists as changed while they were read: nothing is promised of these.
    changed: frozenset[str] = frozenset()
    # What stands for files that were there all the time, under whatever names.
    kept: frozenset[str] = frozenset()

    def tokens(self, tokens: list[str]) -> Iterator[str]:
        """What is wrong with a ledger."""
        high = self.low + len(self.links) - 1
        if not self.low <= len(tokens) <= high:
            yield f"the ledger has {len(tokens)} rows, between {self.low} and {high} were acknowledged"
        elif chain(tokens)[-1] != self.links[len(tokens) - self.low]:
            yield f"the {len(tokens)} rows of the ledger are not those that were acknowledged"

    def database(self, data: Data) -> Iterator[str]:
        """What is wrong with a restored database."""
        yield from self.tokens(data.tokens)
        yield from data.inner()
        for name in sorted(set(self.rest) | set(data.rest)):
            if not _same(name, self.rest.get(name), data.rest.get(name)):
                yield f"{name}: {data.rest.get(name, 'missing')!r} instead of {self.rest.get(name, 'nothing')!r}"

    def tree(self, found: Mapping[str, str]) -> Iterator[str]:
        """What is wrong with restored files."""
        for path in sorted(set(self.files) | set(found)):
            if found.get(path) not in self.files.get(path, {None}) and path not in self.changed:
                yield f"{path} is {found.get(path, 'missing')}, which it never was"
        for mark in sorted(self.kept - set(found.values())):
            names = [path for path, marks in self.files.items() if mark in marks]
            if not any(path == each or path.startswith(f"{each}/") for path in names for each in self.changed):
                yield f"{' or '.join(sorted(names))} was there all the time, and is missing under every name"


def _same(name: str, expected: str | None, found: str | None) -> bool:
    if expected and found and name.startswith("content ") and name.endswith("_seq"):
        return int(expected) <= int(found) <= int(expected) + _AHEAD
    return expected == found


def exactly(data: Data, files: Mapping[str, str]) -> Expectation:
    """That everything is as it is now."""
    return Expectation(len(data.tokens), [chain(data.tokens)[-1]], data.rest, {p: {mark} for p, mark in files.items()})


@dataclass(frozen=True)
class Live:
    """What is live: database and files."""

    data: Data
    files: Mapping[str, str]

    @classmethod
    def read(cls, server: Server, database: str, media: Path) -> Live:
        return cls(Data.read(server, database), tree(media))

    @property
    def expectation(self) -> Expectation:
        return exactly(self.data, self.files)


# --- stored sets -------------------------------------------------------------------------------------------------


def listed(root: Path) -> dict[str, Path]:
    """The manifests by id, of plain files alone."""
    found = (path for tier in TIERS for path in (root / tier).glob("obcms_set_*.json"))
    return {p.name[len("obcms_set_") : -len(".json")]: p for p in found if p.is_file() and not p.is_symlink()}


def parts(manifest: Path) -> list[Path]:
    """The files of a set that never change: all but verdict and pin."""
    names = [artifact["file"] for artifact in json.loads(manifest.read_bytes())["artifacts"]]
    return [manifest, manifest.with_suffix(".sha256"), *(manifest.parent / name for name in names)]


def says(data: bytes) -> Any:
    """What a manifest says of its files; None for one that cannot be read. Its other words are covered by no sum."""
    try:
        whole = json.loads(data)
        database, volumes = whole["database"] or {}, whole["volumes"]
        # A word that is missing where there is none says the same.
        artifacts = [
            {key: value for key, value in each.items() if key in _WORDS and value} for each in whole["artifacts"]
        ]
        return (
            [whole["format"], whole["id"], whole["tier"], artifacts],
            [database.get("rows"), database.get("large_objects")],
            [[each["name"], *(each[what] for what in _COUNTS)] for each in volumes],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def digests(manifest: Path) -> dict[str, str]:
    """The SHA-256 of each."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() if p.exists() else "missing" for p in parts(manifest)}


def whole(manifest: Path) -> str:
    """Why a set is not whole, by plain tools; empty if it is."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / manifest.parent.name
        place.mkdir()
        try:
            for path in parts(manifest):
                if path.exists():
                    (place / path.name).symlink_to(path)
            judge(Path(folder))
        except (AssertionError, OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def stored(manifest: Path, expected: Expectation) -> Iterator[str]:
    """What is wrong with what a set holds, read from its files alone."""
    for artifact in json.loads(manifest.read_bytes())["artifacts"]:
        path = manifest.parent / artifact["file"]
        if artifact["kind"] == "database":
            yield from expected.tokens(list(_ledger(path)))
        elif artifact["kind"] == "volume":
            found = dict(_archived(path))
            if artifact["name"] == "media":
                yield from expected.tree(found)
            elif found != OTHER:
                yield f"the volume {artifact['name']} is {found}"


def volumes(manifest: Path) -> frozenset[str]:
    """The volumes that a set holds; none for a manifest that cannot be read."""
    try:
        return frozenset(each["name"] for each in json.loads(manifest.read_bytes())["volumes"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def halves(manifest: Path) -> set[str]:
    """Which halves a set holds."""
    kinds = {artifact["kind"] for artifact in json.loads(manifest.read_bytes())["artifacts"]}
    return {half for half, kind in (("database", "database"), ("media", "volume")) if kind in kinds}


def changed(manifest: Path) -> frozenset[str]:
    """The files that a set does not vouch for."""
    volumes = json.loads(manifest.read_bytes()).get("volumes", [])
    return frozenset(each["path"] for volume in volumes for each in volume.get("changed", []))


def _ledger(dump: Path) -> Iterator[str]:
    """The tokens of the dump's ledger, in their order."""
    rows, inside = {}, False
    with gzip.open(dump, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if inside and line == "\\.\n":
                break
            if inside:
                n, token = line.rstrip("\n").split("\t")
                rows[int(n)] = token
            inside = inside or line.startswith("COPY public.ledger ")
    yield from (rows.get(n, "missing") for n in range(1, max(rows, default=0) + 1))


def _archived(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if member.isreg() and (stream := archive.extractfile(member)):
                yield name, marked(stream.read(), member.mode & 0o7777)
            elif member.issym():
                yield name, marked(member.linkname.encode(), 0o777)
