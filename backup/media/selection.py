"""Single files and directories of an archive, shown to an extraction as if the archive were of them alone."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from backup.errors import IntegrityError, NotFound
from backup.media.archive_rules import LEFT_OUT, Members
from backup.media.tar_reader import Member, shown_path
from backup.media.tar_writer import IndexEntry

# What the archive of the chosen ones is of.
ROOT: Final = b"chosen"


@dataclass(frozen=True)
class Unit:
    """What is put in one place: `place` below the volume, and the paths at or below it that are wanted of it.

    They are below it where directories above them are missing, which are then taken from the archive, too.
    """

    place: bytes
    wanted: tuple[bytes, ...]

    def has(self, path: bytes) -> bool:
        """Whether a path of the archive is wanted, or lies between the place and what is wanted."""
        if any(path == each or path.startswith(each + b"/") for each in self.wanted):
            return True
        inside = path == self.place or path.startswith(self.place + b"/")
        return inside and any(each.startswith(path + b"/") for each in self.wanted)


@dataclass
class Chosen:
    """The chosen ones of an archive of the folder `root`; unit N becomes `ROOT/N`.

    `outside` are files that a chosen hard link is a second name of, which are not chosen themselves: known only once
    the archive was read to there. Then it is read again, and they are shown as `ROOT/link-N`. `whole`: read to its end.
    """

    root: bytes
    units: Sequence[Unit]
    whole: bool = False
    outside: dict[bytes, bytes] = field(default_factory=dict)

    def name(self, path: bytes) -> bytes | None:
        """What a member is called among the chosen ones; None for the others."""
        bare = path.removesuffix(b"/")
        if not bare.startswith(self.root + b"/"):
            return None
        bare = bare[len(self.root) + 1 :]
        for number, unit in enumerate(self.units):
            if unit.has(bare):
                return b"%s/%d%s" % (ROOT, number, bare[len(unit.place) :])
        return self.outside.get(bare)

    def entries(self, index: Iterable[IndexEntry]) -> Iterator[IndexEntry]:
        """The lines of the file index that are of them."""
        for entry in index:
            if (name := self.name(entry.path)) is not None:
                yield entry._replace(path=name)

    def link(self, target: bytes) -> bytes | None:
        """What the target of a chosen hard link is called; None if that is known only when it is read again."""
        name = self.name(target)
        if name is None:
            bare = target.removeprefix(self.root + b"/")
            self.outside[bare] = b"%s/link-%d" % (ROOT, len(self.outside))
        return name


class ReadAgain(Exception):
    """Some of `Chosen.outside` were found: throw away what was extracted, and read the archive again."""


class Selection:
    """Only the chosen members; satisfies `Members`."""

    def __init__(self, reader: Members, chosen: Chosen) -> None:
        self._reader, self._chosen = reader, chosen
        self._waiting = {path for unit in chosen.units for path in unit.wanted}
        self._inside = b""
        self._again = False

    def members(self) -> Iterator[Member]:
        """The chosen ones, after a directory to be their root."""
        yield Member(ROOT, tarfile.DIRTYPE, 0o700, os.geteuid(), os.getegid(), 0, 0, b"", {}, ())
        for found in self._reader.members():
            name = self._chosen.name(found.path)
            self._note(found)
            member = self._renamed(found, name) if name is not None else None
            self._again = self._again or (name is not None and member is None)
            if member and not self._again:
                yield member
            if not (self._waiting or self._inside or self._chosen.whole):
                break
        if self._again:
            raise ReadAgain
        if self._waiting:
            missing = ", ".join(shown_path(path) for path in sorted(self._waiting))
            raise NotFound(
                f"the archive does not hold {missing}; no live file was touched",
                "`show ID --files NAME` searches for a name.",
            )

    def content(self, count: int) -> Iterator[bytes]:
        """See Members."""
        return self._reader.content(count)

    def refused(self, what: str) -> IntegrityError:
        """See Members."""
        return self._reader.refused(what)

    def _renamed(self, found: Member, name: bytes) -> Member | None:
        origin = found.path.removesuffix(b"/").removeprefix(self._chosen.root + b"/")
        if found.kind != tarfile.LNKTYPE:
            return found._replace(path=name, origin=origin)
        target = self._chosen.link(found.target)
        return found._replace(path=name, origin=origin, target=target) if target else None

    def _note(self, found: Member) -> None:
        """Directories are stored with all that is in them before what comes after them."""
        path = found.path.removesuffix(b"/").removeprefix(self._chosen.root + b"/")
        if self._inside and not path.startswith(self._inside + b"/"):
            self._inside = b""
        if path in self._waiting and found.kind not in LEFT_OUT:
            self._waiting.discard(path)
            self._inside = path if found.kind == tarfile.DIRTYPE else self._inside
