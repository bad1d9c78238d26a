"""A set as it lies on disk, and what is known of it. Plain data; `catalog` reads it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime

from backup.model.derived_manifest import BareFile, bare_file, derive
from backup.model.frozen import Frozen
from backup.model.manifest import DatabasePart, FileId, Manifest, Summary, Tier, file_name, parse_file_name, summarise
from backup.model.recovered import Missing
from backup.model.tiers import NO_BACKUPS

SetState = Literal["complete", "complete with changes", "damaged", "does not load", "unreadable", "old script"]
GOOD: Final[frozenset[SetState]] = frozenset({"complete", "complete with changes"})

# Clocks of two machines differ by seconds; more than this is a clock that was set.
SKEW: Final = timedelta(minutes=5)
# How the first difference of a drill begins that could not load the set.
NOT_LOADED: Final = "it does not load: "
# What a verdict says is unchecked when there was no key.
SEALED: Final = (
    "what the files hold: they are encrypted and no identity is here; it was judged while they were written, before"
    " encryption, and their stored bytes were read back"
)
# What it says is unchecked of files whose manifest is derived.
BARE: Final = "sizes, checksums and row counts: there is no manifest to compare with"
# Why a set was not tried that is to be there soon.
NOT_WAITED_FOR: Final = "it is a safety set, and the restore does not wait for it"


class Proof(Frozen):
    """What the newest drill found: the set was restored into a throw-away server and dumped again.

    No differences: proven. `seconds` maps each phase to its duration, `total` to the whole. `remedy` is what to do
    about a set that does not load.
    """

    tried: AwareDatetime
    server_version: str = ""
    differences: tuple[str, ...] = ()
    remedy: str = ""
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
    files: Missing | None = None

    @property
    def proven(self) -> bool:
        """Whether what was restored equals what was dumped."""
        return not self.differences

    @property
    def refusal(self) -> str:
        """What the server refused of a set that does not load; empty for one that does. Releases before wrote it so."""
        first = self.differences[0] if self.differences else ""
        return first.removeprefix(NOT_LOADED) if first.startswith(NOT_LOADED) else ""


class LoadTest(Frozen):
    """Whether the definitions of a set load into an empty server, as was found out when it was made.

    They do when there is neither a `refusal`, what the server said against them, nor `untried`, why it was not found
    out. `alike` is the set of the same definitions that was tried, empty where it was this one.
    """

    tried: AwareDatetime
    server_version: str = ""
    refusal: str = ""
    remedy: str = ""
    untried: str = ""
    alike: str = ""

    @property
    def loads(self) -> bool:
        """Whether they do."""
        return not (self.refusal or self.untried)


class Verdict(Frozen):
    """What the newest verification of a set found. No problems: good. `unchecked` names what could not be judged.

    `proof` is the newest drill's, `load_test` that of its making; later verifications keep both.
    """

    checked: AwareDatetime
    problems: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    proof: Proof | None = None
    load_test: LoadTest | None = None

    @property
    def refusal(self) -> str:
        """What a server refused of the set when it was last loaded; empty where it took it, or was not asked."""
        found = self.proof or self.load_test
        return found.refusal if found else ""

    @property
    def remedy(self) -> str:
        """What to do about the refusal."""
        found = self.proof or self.load_test
        return found.remedy if found else ""

    @property
    def loads(self) -> bool:
        """Whether a server took it: all of it in a drill, or its definitions when it was made."""
        if self.proof:
            return not self.proof.refusal
        return self.load_test is not None and self.load_test.loads


def merge_verdicts(new: Verdict, there: Verdict | None, begun: datetime | None) -> Verdict:
    """What is known when one look, begun then, ends and another has noted its verdict meanwhile. Damage stays told."""
    if there is None:
        return new
    if begun and there.checked > begun and there.problems and not new.problems:
        return there
    kept: dict[str, Proof | LoadTest | None] = {} if new.load_test else {"load_test": there.load_test}
    if not new.problems and there.proof and (new.proof is None or new.proof.tried < there.proof.tried):
        kept["proof"] = there.proof
    return new.model_copy(update=kept)


class Pin(Frozen):
    """A set that is kept whatever its age, and why."""

    since: AwareDatetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class Remembered:
    """A manifest of which the summary is known, to be read when all of it is wanted: BackupError if it cannot be."""

    summary: Summary
    read: Callable[[], Manifest]

    @cached_property
    def manifest(self) -> Manifest:
        """The whole of it."""
        return self.read()


class _ManifestField:
    """Where a set keeps its manifest: given whole, remembered, or derived from the names of its files."""

    def __get__(self, stored: StoredSet | None, _owner: type[StoredSet]) -> Manifest:
        # Without a set, it is the default that is asked for: none was written.
        held: Any = stored.__dict__["_manifest"] if stored is not None else None
        if stored is not None and held is None:
            held = stored.__dict__["_manifest"] = _by_names(stored)
        return held.manifest if isinstance(held, Remembered) else held

    def __set__(self, stored: StoredSet, held: Manifest | Remembered | None) -> None:
        stored.__dict__["_manifest"] = held


def _by_names(stored: StoredSet) -> Manifest:
    named = (bare_file(name, stored.tier, ZoneInfo("UTC")) for name in stored.files)
    return derive(stored.id, stored.tier, stored.time, filter(None, named))


@dataclass(frozen=True)
class StoredSet:
    """A set as it lies in `directory`. Where no `manifest` was written, or none that can be read, it is derived.

    `summary` is what rules over all sets ask of it: `manifest` itself may have to be read from the disk first.

    `paths` are those that name a set elsewhere, which no id finds: its folder, or files of it. `identity` names the
    file with the key that opens an encrypted one.
    """

    directory: Path
    id: str
    tier: Tier
    time: datetime
    state: SetState
    files: tuple[str, ...]
    size: int
    manifest: _ManifestField = _ManifestField()
    verdict: Verdict | None = None
    problem: str = ""
    pin: Pin | None = None
    paths: tuple[str, ...] = ()
    identity: Path | None = None

    @cached_property
    def summary(self) -> Summary:
        """What the manifest says in short."""
        held = self.__dict__["_manifest"]
        return held.summary if isinstance(held, Remembered) else summarise(self.manifest)

    @property
    def derived(self) -> bool:
        """Whether no manifest was written that can be read: nothing is known of its files but what they show."""
        return not self.remembered and self.manifest.derived

    @property
    def loose(self) -> tuple[BareFile, ...]:
        """The files of what is no set by its names, and was recognised by its bytes; none for any other."""
        bare = (each for each in self.manifest.artifacts if isinstance(each, BareFile)) if self.derived else ()
        return tuple(each for each in bare if each.content)

    @property
    def remembered(self) -> bool:
        """Whether its manifest was not read now."""
        return isinstance(self.__dict__["_manifest"], Remembered)

    @property
    def query(self) -> str:
        """What names it on a command line: its id, or the paths of one elsewhere, quoted for a shell."""
        return shlex.join(self.paths) or self.id

    @property
    def safety(self) -> bool:
        """A safety set. It holds what a restore was about to replace, and is no backup."""
        return self.tier is Tier.PRE_RESTORE

    @property
    def snapshot(self) -> bool:
        """A snapshot. It holds the media alone, as they were between two backups, and is no backup."""
        return self.tier is Tier.SNAPSHOT

    @property
    def backup(self) -> bool:
        """Neither a safety set nor a snapshot."""
        return self.tier not in NO_BACKUPS

    @property
    def good(self) -> bool:
        """Published, all its files there in their sizes, and not found damaged or refused by a server since."""
        return self.state in GOOD

    @property
    def verified(self) -> bool:
        """Good, and every stored byte read at least once since it was published.

        Of an encrypted set without its key that says that nothing has changed since its content was judged, while it
        was written, and not that anybody can open it: `unopened`.
        """
        return self.good and self.verdict is not None

    @property
    def loads(self) -> bool:
        """Good, and a server took all of it, or its definitions or the like of them."""
        return self.good and self.verdict is not None and self.verdict.loads

    @property
    def encrypted(self) -> bool:
        """Whether any of it is encrypted."""
        return any(artifact.encryption for artifact in self.summary.artifacts)

    @property
    def unopened(self) -> bool:
        """Encrypted, and its newest verification had no key: nobody has shown that it can be opened."""
        return self.encrypted and not self.proven and (self.verdict is None or SEALED in self.verdict.unchecked)

    @property
    def proven(self) -> bool:
        """Good, and restored by a drill to what was dumped."""
        return self.good and self.verdict is not None and self.verdict.proof is not None and self.verdict.proof.proven

    @property
    def shown(self) -> str:
        """What was shown of it, in a word; also of files of the old scripts, which no rule counts as good."""
        if self.state != "old script" or self.verdict is None:
            return "proven" if self.proven else "verified" if self.verified else ""
        if self.verdict.problems or self.verdict.refusal:
            return "damaged" if self.verdict.problems else "does not load"
        return "proven" if self.verdict.proof and self.verdict.proof.proven else "verified"


def judge(manifest: Summary, verdict: Verdict | None, problem: str) -> tuple[SetState, str]:
    """The state of a set and what is wrong with it. `problem` is what its files show."""
    problem = problem or "; ".join(verdict.problems if verdict else ())
    if problem:
        return "damaged", problem
    if verdict and verdict.refusal:
        return "does not load", verdict.refusal
    return "complete" if manifest.status == "complete" else "complete with changes", ""


def precedent(sets: Iterable[StoredSet], part: DatabasePart) -> StoredSet | None:
    """Of sets of the same definitions, the one that was drilled last; else that whose definitions were tried last."""
    alike = [s for s in sets if part.alike(s.summary.database)]
    drilled = {s.verdict.proof.tried: s for s in alike if s.verdict and s.verdict.proof}
    tests = [(s, s.verdict.load_test) for s in alike if s.verdict and s.verdict.load_test]
    tried = {test.tried: stored for stored, test in tests if not test.untried}
    found = drilled or tried
    return found[max(found)] if found else None


def by_time(stored: StoredSet) -> tuple[datetime, str]:
    """The key that sets are sorted by; of two of one time, the id decides."""
    return stored.time, stored.id


def newest_first(sets: Iterable[StoredSet]) -> list[StoredSet]:
    """The sets, in the order in which they are listed."""
    return sorted(sets, key=by_time, reverse=True)


def newest_good(sets: Iterable[StoredSet]) -> StoredSet | None:
    """The newest good set that is no snapshot, from sets in any order."""
    return max((s for s in sets if s.good and not s.snapshot), key=lambda s: s.time, default=None)


def is_ahead(stored: StoredSet, now: datetime) -> bool:
    """Whether a set is dated ahead of the clock: it is not the newest, counts for nothing and proves nothing."""
    return stored.time > now + SKEW


def present(sets: Iterable[StoredSet], now: datetime) -> list[StoredSet]:
    """The sets that are not dated ahead of the clock, in their order."""
    return [stored for stored in sets if not is_ahead(stored, now)]


def filled_volumes(sets: Iterable[StoredSet]) -> frozenset[str]:
    """The volumes of which any set holds a file, or may: an archive without a manifest counts."""
    return frozenset(name for stored in sets for name in volumes_of(stored) if name not in empty_volumes(stored))


def parsed_files(stored: StoredSet) -> dict[str, FileId]:
    """Its files by name, taken apart."""
    return {name: part for name in stored.files if (part := parse_file_name(name, stored.tier))}


def holds_database(stored: StoredSet) -> bool:
    """Whether a set holds a dump."""
    return stored.summary.holds_database


def volumes_of(stored: StoredSet) -> list[str]:
    """The names of the volumes that a set holds, as far as they are known."""
    return [name for name in stored.summary.volume_names if name]


def left_volumes(sets: Iterable[StoredSet]) -> dict[str, list[StoredSet]]:
    """The volumes that sets hold and the newest good set with volumes does not, each with its sets, newest first.

    A set without any was asked for the database alone, and says nothing of them. Of what is not good, as the old
    scripts' files, only what is older counts.
    """
    ordered = newest_first(sets)
    last = next((s for s in ordered if s.good and not s.safety and s.summary.volumes), None)
    left: dict[str, list[StoredSet]] = {}
    for stored in ordered if last else ():
        for name in volumes_of(stored):
            if last and name not in volumes_of(last) and (stored.good or stored.time < last.time):
                left.setdefault(name, []).append(stored)
    return left


def empty_volumes(stored: StoredSet) -> list[str]:
    """The volumes that a set has, but no file of."""
    return [each.name for each in stored.summary.volumes if not each.files]


def manifest_name(identifier: str) -> str:
    """`obcms_set_<id>.json`."""
    return file_name("set", identifier, "json")


def verdict_name(identifier: str) -> str:
    """`obcms_set_<id>.verdict`."""
    return file_name("set", identifier, "verdict")


def pin_name(identifier: str) -> str:
    """`obcms_set_<id>.pin`."""
    return file_name("set", identifier, "pin")


def missing_or_resized(manifest: Manifest | Summary, sizes: dict[str, int | None]) -> list[str]:
    """What the directory alone shows to be wrong with a set; `sizes` maps file names to bytes."""
    problems = []
    for artifact in manifest.artifacts:
        size = sizes.get(artifact.file)
        if size is None:
            problems.append(f"{artifact.file} is missing")
        elif size != artifact.stored_size:
            problems.append(f"{artifact.file} has {size:,} bytes instead of {artifact.stored_size:,}")
    return problems
