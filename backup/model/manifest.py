"""The manifest: what one set holds, in the JSON file that is written last and makes it a set.

Pure data, no effects. A manifest of any format ever released can be read for ever
(`tests/golden/`); a newer format than this product knows is refused, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, ValidationError

from backup.errors import IntegrityError
from backup.model.frozen import Frozen
from backup.model.pack import Count, FileName, Pack, Sha256, why_unusable
from backup.model.recovered import Recovered
from backup.model.snapshot import DumpSnapshot

MANIFEST_FORMAT: Final = 1
INCREMENTAL_FORMAT: Final = 2  # of a set whose files lie in packs
STAMP: Final = "%Y-%m-%d_%H-%M-%S"


class Tier(StrEnum):
    """A directory of sets. The first three are scheduled, `manual` is a person's own, `snapshot` of media alone."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"
    PRE_RESTORE = "pre-restore"
    SNAPSHOT = "snapshot"


_BY_NAME: Final = {str(tier): tier for tier in Tier}
_TIERS: Final = "|".join(re.escape(tier) for tier in Tier)
_NAME: Final = re.compile(
    # Years of four digits that no zone can push out of the calendar.
    rf"obcms_(?P<what>[A-Za-z0-9][A-Za-z0-9._-]*)_(?P<tier>{_TIERS})_(?P<stamp>[12]\d{{3}}(?:-\d\d){{2}}_\d\d(?:-\d\d){{2}})"
    r"\.(?P<suffix>(?:sql|tar|files|contents|tree)\.gz(?:\.age)?|sha256|json)"
)

# What earlier scripts called their dumps, packed or not, whatever the format: no tier is in the name.
_OLDER: Final = re.compile(r"(?:obcms_backup|bmms_pilot)_([12]\d{3})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)\.sql(?:\.gz)?")

# As SQL calls them, and the option that names a locale of theirs.
_PROVIDERS: Final = {"c": ("libc", ""), "i": ("icu", "ICU_LOCALE"), "b": ("builtin", "BUILTIN_LOCALE")}
# LC_COLLATE and LC_CTYPE were all that there was before.
_FIRST_WITH_PROVIDERS: Final = 15

ArtifactKind = Literal["database", "contents", "roles", "volume", "index", "tree", "base", "segment"]


class Artifact(Frozen):
    """One stored file: sizes in bytes and SHA-256 of the stored bytes and of what they unpack to.

    A volume's archive has no `plain_sha256`: its index has the SHA-256 of every file in it, and so has the manifest in
    a base backup. Nor has a dump with contents, which have those of its parts. `encryption`: how the gzip file is
    encrypted, whose name then ends in `.age`; the stored bytes are the encrypted ones.
    """

    kind: ArtifactKind
    name: str = ""
    file: FileName
    stored_size: Count
    stored_sha256: Sha256
    plain_size: Count
    plain_sha256: Sha256 | Literal[""]
    encryption: Literal["", "age"] = ""

    @property
    def folder(self) -> str:
        """The folder that a volume's archive is of."""
        return self.name


class Locale(Frozen):
    """What `CREATE DATABASE` needs to make a database like the dumped one; `provider` as in pg_database: c, i or b."""

    encoding: str
    collate: str
    ctype: str
    provider: str = "c"
    locale: str = ""
    rules: str = ""

    @property
    def provider_name(self) -> str:
        """The provider as SQL calls it; one that is not known as it is."""
        return _PROVIDERS.get(self.provider, (self.provider,))[0]

    def clause(self, literal: Callable[[str], str], major: int = _FIRST_WITH_PROVIDERS) -> str:
        """The options of CREATE DATABASE on a server of this major version; `literal` writes an SQL literal."""
        words = [f"ENCODING {literal(self.encoding)} LC_COLLATE {literal(self.collate)} LC_CTYPE {literal(self.ctype)}"]
        if major >= _FIRST_WITH_PROVIDERS and self.provider in _PROVIDERS:
            name, option = _PROVIDERS[self.provider]
            words += [f"LOCALE_PROVIDER {name}", *([f"{option} {literal(self.locale)}"] if option else [])]
        return " ".join([*words, f"ICU_RULES {literal(self.rules)}"] if self.rules else words)


class Preload(Frozen):
    """What a server loads when it starts, and the settings of those libraries that are not the default ones."""

    libraries: tuple[str, ...] = ()
    settings: dict[str, str] = {}


class DatabasePart(Frozen):
    """Identity of the database, and what its dump holds. `rows` maps `schema.table` to rows dumped.

    `bootstrap` is the role that the server was initialised with; it exists on a new server before any is restored.
    `extensions` are those that the dump makes; earlier releases did not note them. `cautions` are sentences on what may
    keep the dump from loading or is lost with it, each with its remedy, as far as that was known when it was made.
    `versions` are those of the extensions, `tablespaces` those that something in the database lies in. `search_path`
    are the schemas in which sessions found what they name without one, `found_by_path` what functions find so, and
    `children` the parts of each table that has any (None: not noted), as the dump writes them.

    `definitions` is a SHA-256 of all in the dump but rows, sequence values and large objects, `environment` one of what
    else decides whether it loads: earlier releases noted neither. `recovered`: it is not the live one as it was then.
    `snapshot`: what the dump saw, noted where WAL is received.
    """

    name: str
    oid: Count
    system_identifier: str
    server_version: str
    image: str = ""
    image_id: str = ""
    size: Count = 0
    client_version: str
    command: tuple[str, ...]
    rows: dict[str, int]
    large_objects: Count = 0
    not_carried: tuple[str, ...] = ()
    locale: Locale | None = None
    bootstrap: str = ""
    extensions: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    preload: Preload = Preload()
    versions: dict[str, str] = {}
    tablespaces: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()
    found_by_path: dict[str, tuple[str, ...]] = {}
    children: dict[str, tuple[str, ...]] | None = None
    definitions: Sha256 | Literal[""] = ""
    environment: Sha256 | Literal[""] = ""
    recovered: Recovered | None = None
    snapshot: DumpSnapshot | None = None

    def alike(self, other: DatabasePart | DatabaseSummary | None) -> bool:
        """Whether one loads where the other does, but for their rows."""
        known = self.definitions and self.environment and other
        return bool(known) and all(
            getattr(self, each) == getattr(other, each) for each in ("definitions", "environment", "image_id")
        )


class FileChange(Frozen):
    """A file that was not stored as a whole and quiet file, and why."""

    path: str
    what: str


class VolumePart(Frozen):
    """What one volume's archive holds. Lists are cut at 1,000 entries, totals are exact."""

    name: str
    files: Count
    directories: Count
    links: Count
    hard_links: Count
    bytes: Count
    excludes: tuple[str, ...]
    changed: tuple[FileChange, ...] = ()
    changed_total: Count = 0
    skipped: tuple[FileChange, ...] = ()
    skipped_total: Count = 0


class Manifest(Frozen):
    """One set. `started` and `ended` are UTC; `zone` is the operator's, `started_local` as its clock showed.

    `derived`: it was made from what files show, since none was written (see derived_manifest.py). `packs`: those that
    hold its files, where the set has no archives of its own (format 2); `named`: bytes of content of each.
    """

    derived: ClassVar[bool] = False

    format: Literal[1, 2] = MANIFEST_FORMAT
    id: str
    tier: Tier
    run: str
    started: AwareDatetime
    ended: AwareDatetime
    started_local: str
    ended_local: str
    zone: str
    product_version: str
    artifacts: tuple[Artifact, ...]
    database: DatabasePart | None = None
    volumes: tuple[VolumePart, ...] = ()
    packs: tuple[Pack, ...] = ()
    named: dict[str, Count] = {}

    @property
    def status(self) -> str:
        """`complete`, or `complete with changes` when files changed while they were read."""
        return "complete with changes" if any(v.changed_total for v in self.volumes) else "complete"

    @property
    def stored_size(self) -> int:
        """Bytes of all artifacts on disk."""
        return sum(artifact.stored_size for artifact in self.artifacts)

    @property
    def holds_database(self) -> bool:
        """Whether the set has a dump."""
        return self.database is not None

    @property
    def volume_names(self) -> tuple[str, ...]:
        """The volumes that the set has archives of."""
        return tuple(volume.name for volume in self.volumes)

    @property
    def incremental(self) -> bool:
        """Whether packs hold its files."""
        return self.format == INCREMENTAL_FORMAT

    def artifact(self, kind: str, name: str = "") -> Artifact | None:
        """The artifact of that kind (and volume), if the set has one."""
        return next((a for a in self.artifacts if a.kind == kind and (not name or a.name == name)), None)


class ArtifactSummary(NamedTuple):
    """What is asked of an artifact in a listing."""

    kind: str
    file: str
    stored_size: int
    encryption: str


class DatabaseSummary(NamedTuple):
    """What is asked of a database in a listing: `tables` are counted, `rows` are those of all of them."""

    name: str
    system_identifier: str
    server_version: str
    size: int
    tables: int
    rows: int
    definitions: str
    environment: str
    image_id: str


class VolumeSummary(NamedTuple):
    """What is asked of a volume in a listing."""

    name: str
    files: int
    bytes: int
    changed_total: int


class Summary(NamedTuple):
    """What is asked of the manifests of all sets at once, under the same names: small, whatever a manifest lists."""

    id: str
    tier: Tier
    run: str
    started: AwareDatetime
    ended: AwareDatetime
    status: str
    artifacts: tuple[ArtifactSummary, ...]
    database: DatabaseSummary | None
    volumes: tuple[VolumeSummary, ...]
    holds_database: bool
    volume_names: tuple[str, ...]
    packs: tuple[Pack, ...] = ()


def summarise(manifest: Manifest) -> Summary:
    """Reduce a manifest to what is asked of all sets at once."""
    part = manifest.database
    return Summary(
        id=manifest.id,
        tier=manifest.tier,
        run=manifest.run,
        started=manifest.started,
        ended=manifest.ended,
        status=manifest.status,
        artifacts=tuple(ArtifactSummary(a.kind, a.file, a.stored_size, a.encryption) for a in manifest.artifacts),
        database=DatabaseSummary(
            *(part.name, part.system_identifier, part.server_version, part.size, len(part.rows)),
            *(sum(part.rows.values()), part.definitions, part.environment, part.image_id),
        )
        if part
        else None,
        volumes=tuple(VolumeSummary(v.name, v.files, v.bytes, v.changed_total) for v in manifest.volumes),
        holds_database=manifest.holds_database,
        volume_names=manifest.volume_names,
        packs=manifest.packs,
    )


class FileId(NamedTuple):
    """A file name of a set, taken apart: `obcms_<what>_<tier>_<stamp>.<suffix>`.

    `older`: it is called as an earlier script called its dumps, and its tier is that of its folder.
    """

    what: str
    tier: Tier
    stamp: str
    suffix: str
    older: bool = False

    @property
    def content(self) -> str:
        """The suffix without that of encryption: `sql.gz`, `contents.gz`, `tar.gz`, `files.gz`, `tree.gz` or other."""
        return self.suffix.removesuffix(".age")

    @property
    def set_id(self) -> str:
        """The id of the set that the file belongs to."""
        return f"{self.tier.value}_{self.stamp}"

    @property
    def name(self) -> str:
        """The whole name again."""
        return file_name(self.what, self.set_id, self.suffix)


def set_id(tier: Tier, moment: datetime, zone: ZoneInfo) -> str:
    """`daily_2025-10-20_02-00-00`, by the clock of `zone`."""
    return f"{tier}_{moment.astimezone(zone).strftime(STAMP)}"


def file_name(what: str, identifier: str, suffix: str) -> str:
    """The name of one file of the set `identifier`, as the old scripts gave it."""
    return f"obcms_{what}_{identifier}.{suffix}"


def parse_file_name(name: str, folder: Tier | None = None) -> FileId | None:
    """The parts of a set's file name; None for any other name, and for a time that never was.

    `folder`: the tier of the folder, to which dumps of older names belong; None takes those for any other name.
    """
    match = _NAME.fullmatch(name)
    if not match and folder and (match := _OLDER.fullmatch(name)):
        stamp = "{}-{}-{}_{}-{}-{}".format(*match.groups())
        return FileId("backup", folder, stamp, "sql.gz", older=True) if _is_time(stamp) else None
    if not match or not _is_time(match["stamp"]):
        return None
    return FileId(match["what"], _BY_NAME[match["tier"]], match["stamp"], match["suffix"])


@lru_cache(maxsize=1 << 15)
def _is_time(stamp: str) -> bool:
    """Whether that time was; asked for each file of a set."""
    try:
        _clock_time(stamp)
    except ValueError:
        return False
    return True


def stamp_time(stamp: str, zone: ZoneInfo) -> datetime:
    """The moment (UTC) that a file name's stamp means in `zone`; the earlier one in a repeated hour."""
    return _clock_time(stamp).replace(tzinfo=zone).astimezone(UTC)


def _clock_time(stamp: str) -> datetime:
    """Read a STAMP, many times faster than strptime does."""
    return datetime.fromisoformat(f"{stamp[:10]}T{stamp[11:].replace('-', ':')}")


def to_json(manifest: Manifest) -> bytes:
    """The manifest as the bytes of its file."""
    # One without packs is written as before there were any.
    unused = None if manifest.incremental else {"packs", "named"}
    return manifest.model_dump_json(indent=2, exclude=unused).encode() + b"\n"


def from_json(data: bytes, file: str) -> Manifest:
    """Read a manifest back; IntegrityError when it is damaged or of a later format."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"manifest {file} cannot be used: {why_unusable(error)}") from None
