"""A set as it lies on disk, and what is known of it. Plain data; `catalog` reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from backup.manifest import Manifest, Tier, file_name

State = Literal["complete", "complete with changes", "damaged", "unreadable", "old script"]
GOOD: Final[frozenset[State]] = frozenset({"complete", "complete with changes"})


# What a verdict says is unchecked when there was no key.
SEALED: Final = (
    "what the files hold: they are encrypted and no identity is here; it was judged while they were written, before"
    " encryption, and their stored bytes were read back"
)


class Missing(BaseModel):
    """Files that rows of the database name and no archive of the set holds; `listed` is cut at 1,000."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    columns: tuple[str, ...] = ()
    referenced: int = 0
    missing: int = 0
    listed: tuple[str, ...] = ()


class Proof(BaseModel):
    """What the newest drill found: the set was restored into a throw-away server and dumped again.

    No differences: proven. `seconds` maps each phase to its duration, `total` to the whole.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    tried: AwareDatetime
    server_version: str = ""
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
    files: Missing | None = None

    @property
    def proven(self) -> bool:
        """Whether what was restored equals what was dumped."""
        return not self.differences


class Verdict(BaseModel):
    """What the newest verification of a set found. No problems: good. `unchecked` names what could not be judged.

    `proof` is the newest drill's, kept by later verifications.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    checked: AwareDatetime
    problems: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    proof: Proof | None = None


def merged(new: Verdict, there: Verdict | None, begun: datetime | None) -> Verdict:
    """What is known when one look, begun then, ends and another has noted its verdict meanwhile. Damage stays told."""
    if there is None:
        return new
    if begun and there.checked > begun and there.problems and not new.problems:
        return there
    if new.problems or there.proof is None or (new.proof and new.proof.tried >= there.proof.tried):
        return new
    return new.model_copy(update={"proof": there.proof})


class Pin(BaseModel):
    """A set that is kept whatever its age, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    since: AwareDatetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class LooseFile:
    """A file that belongs to no set, recognised by its bytes: `kind` is sql, custom or tar.

    `volume` is the one that an archive belongs to, empty when that is not known; `root` the archive's one folder.
    """

    name: str
    kind: str
    packed: bool
    size: int
    volume: str = ""
    root: str = ""
    server_version: str = ""
    encrypted: bool = False


@dataclass(frozen=True)
class StoredSet:
    """A set as it lies in `directory`. `manifest` is None for the old scripts' files and for an unreadable one.

    `loose` are files elsewhere that are no set at all; then id and time are those of the path that was named. `path` is
    that of a set elsewhere, which no id finds. `identity` names the file with the key that opens an encrypted one.
    """

    directory: Path
    id: str
    tier: Tier
    time: datetime
    state: State
    files: tuple[str, ...]
    size: int
    manifest: Manifest | None = None
    verdict: Verdict | None = None
    problem: str = ""
    pin: Pin | None = None
    loose: tuple[LooseFile, ...] = ()
    path: str = ""
    identity: Path | None = None

    @property
    def query(self) -> str:
        """What names it on a command line: its id, or the path of one elsewhere, quoted for a shell."""
        return shlex.quote(self.path) if self.path else self.id

    @property
    def safety(self) -> bool:
        """A safety set. It holds what a restore was about to replace, and is no backup."""
        return self.tier is Tier.PRE_RESTORE

    @property
    def good(self) -> bool:
        """Published, all its files there in their sizes, and not found damaged since."""
        return self.state in GOOD

    @property
    def verified(self) -> bool:
        """Good, and every stored byte read at least once since it was published.

        Of an encrypted set without its key that says that nothing has changed since its content was judged, while it
        was written, and not that anybody can open it: `unopened`.
        """
        return self.good and self.verdict is not None

    @property
    def encrypted(self) -> bool:
        """Whether any of it is encrypted."""
        if self.manifest:
            return any(artifact.encryption for artifact in self.manifest.artifacts)
        return any(each.encrypted for each in self.loose) or any(name.endswith(".age") for name in self.files)

    @property
    def unopened(self) -> bool:
        """Encrypted, and its newest verification had no key: nobody has shown that it can be opened."""
        return self.encrypted and not self.proven and (self.verdict is None or SEALED in self.verdict.unchecked)

    @property
    def proven(self) -> bool:
        """Good, and restored by a drill to what was dumped."""
        return self.good and self.verdict is not None and self.verdict.proof is not None and self.verdict.proof.proven


def newest_good(sets: Iterable[StoredSet], tier: Tier | None = None) -> StoredSet | None:
    """The newest good set (of a tier), from sets in any order."""
    good = [s for s in sets if s.good and (tier is None or s.tier is tier)]
    return max(good, key=lambda s: s.time, default=None)


def manifest_name(identifier: str) -> str:
    """`obcms_set_<id>.json`."""
    return file_name("set", identifier, "json")


def verdict_name(identifier: str) -> str:
    """`obcms_set_<id>.verdict`."""
    return file_name("set", identifier, "verdict")


def pin_name(identifier: str) -> str:
    """`obcms_set_<id>.pin`."""
    return file_name("set", identifier, "pin")


def missing_or_resized(manifest: Manifest, sizes: dict[str, int | None]) -> list[str]:
    """What the directory alone shows to be wrong with a set; `sizes` maps file names to bytes."""
    problems = []
    for artifact in manifest.artifacts:
        size = sizes.get(artifact.file)
        if size is None:
            problems.append(f"{artifact.file} is missing")
        elif size != artifact.stored_size:
            problems.append(f"{artifact.file} has {size:,} bytes instead of {artifact.stored_size:,}")
    return problems
