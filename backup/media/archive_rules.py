"""What a member of an archive may be beside the others: judged here for a restore and for a verification alike.

A restore finds on the disk what was there before; who only judges an archive has `Judged`, which keeps eight bytes for
each file and the number of each directory.
"""

from __future__ import annotations

import heapq
import itertools
import os
import tarfile
from array import array
from collections.abc import Iterator
from typing import Final, Protocol

from backup.errors import IntegrityError
from backup.media.tar_reader import Member, TarReader, refused_member, shown_path

# Not made by a restore: nobody's data, and what reads or writes them makes them anew.
LEFT_OUT: Final = {tarfile.FIFOTYPE: "FIFO", tarfile.CHRTYPE: "device"}
# What Linux takes, its end included.
_LONGEST_TARGET: Final = 4095
_SORTED: Final = 1 << 16
_NOWHERE: Final = frozenset((b"", b".", b".."))


def root_of(head: bytes) -> str:
    """The folder that an archive is of, by its first member; empty where it has none, as `tar -C FOLDER .` makes it.

    `head` is the beginning of the archive. IntegrityError where its files cannot be told from the folder.
    """
    first = next(TarReader([head]).members(), None)
    if first and first.path == b"toc.dat":
        raise IntegrityError(
            "it is a dump in the tar format of pg_dump, which is not read here",
            "Turn it into plain SQL: `pg_restore -f dump.sql FILE`.",
        )
    if first and first.kind == tarfile.DIRTYPE and first.path in (b".", b"./"):
        return ""
    root, _, below = first.path.removeprefix(b"./").partition(b"/") if first else (b"", b"", b"")
    if first is None or root in (b"", b".", b"..") or not (below or first.kind == tarfile.DIRTYPE):
        begins = f": it begins with {shown_path(first.path)!r}, which is not a directory" if first else ""
        raise IntegrityError(
            f"it is not the archive of one folder{begins}", "Make it again: `tar -czf FILE -C PARENT FOLDER`."
        )
    return os.fsdecode(root)


class Members(Protocol):
    """What TarReader gives: the members of an archive, or some of them."""

    def members(self) -> Iterator[Member]:
        """In their order; the content of one is read before the next is asked for, or passed over."""

    def content(self, count: int) -> Iterator[bytes]:
        """The next bytes of the present member's content."""

    def refused(self, what: str) -> IntegrityError:
        """The error about the present member."""


class Rules:
    """Those that are about one member after the other. `root` is the folder that the archive is of.

    Unless `trusted`, links must stay inside, and what our archiver does not store is left out.
    """

    def __init__(self, root: bytes, *, trusted: bool) -> None:
        self._root, self._trusted = root, trusted
        self._begun = False

    def place(self, found: Member) -> list[bytes]:
        """The components of a member below the root, none for the root itself. IntegrityError if it may not be."""
        names = self.names(found.path, folder=found.kind == tarfile.DIRTYPE)
        if not names and found.kind != tarfile.DIRTYPE:
            raise refused_member(found.path, "is not a directory, but has the name of the archive's own")
        if not names and self._begun:
            raise refused_member(found.path, "is in it twice")
        if names and not self._begun:
            raise refused_member(found.path, "comes before the directory that the archive is of")
        self._begun = True
        if found.kind == tarfile.SYMTYPE:
            self._check_link(found, len(names) - 1)
        elif found.kind in LEFT_OUT and self._trusted:
            raise refused_member(found.path, f"is a {LEFT_OUT[found.kind]}")
        return names

    def names(self, path: bytes, *, folder: bool = False) -> list[bytes]:
        """The components below the root. IntegrityError unless it is certain that the path stays there."""
        names = path.split(b"/")
        if folder and len(names) > 1 and not names[-1]:
            names.pop()
        if b"\0" in path or not _NOWHERE.isdisjoint(names):
            raise refused_member(path, "is not a safe name")
        if names[0] != self._root:
            raise refused_member(path, f"lies outside of {shown_path(self._root)}/")
        return names[1:]

    def finish(self) -> None:
        """All members have been. IntegrityError if there was none."""
        if not self._begun:
            raise refused_member(b".", "is all there is: the archive is empty")

    def _check_link(self, found: Member, depth: int) -> None:
        if not found.target or b"\0" in found.target:
            raise refused_member(found.path, "is a symbolic link to nothing")
        if len(found.target) > _LONGEST_TARGET:
            raise refused_member(found.path, "is a symbolic link to a name that is too long")
        if self._trusted:
            return
        names = [name for name in found.target.split(b"/") if name not in (b"", b".")]
        up = next((number for number, name in enumerate(names) if name != b".."), len(names))
        # A `..` after a name may step out of another link's target: only leading ones are certain to stay inside.
        if found.target.startswith(b"/") or up > depth or b".." in names[up:]:
            raise refused_member(
                found.path, f"is a symbolic link that may lead outside, to {shown_path(found.target)!r}"
            )


def judged(reader: Members, root: bytes, *, trusted: bool, indexed: bool) -> Iterator[Member]:
    """The members that a restore takes. IntegrityError where it would end.

    `indexed`: a file index goes with it, so that hard links are to files alone. Only whether a name is there twice,
    and what hard links lead to, is said at the end.
    """
    rules, known = Rules(root, trusted=trusted), _Known(links=not indexed)
    for found in reader.members():
        names = rules.place(found)
        if names and found.kind not in LEFT_OUT:
            known.add(found, names, rules.names(found.target) if found.kind == tarfile.LNKTYPE else [])
        yield found
    rules.finish()
    known.finish()


class _Known:
    """What was there before, by hashes of names: a set takes ten times the room of an array."""

    def __init__(self, *, links: bool) -> None:
        self._linkable = (tarfile.REGTYPE, tarfile.LNKTYPE, *((tarfile.SYMTYPE,) if links else ()))
        self._folders = {hash(())}
        self._names, self._may_be_linked = array("q"), bytearray()
        # By the name that is linked to: how many names there were before the link, and the link.
        self._links: dict[int, tuple[int, bytes]] = {}

    def add(self, found: Member, names: list[bytes], target: list[bytes]) -> None:
        """IntegrityError where a restore finds no directory to put it in."""
        own = hash(tuple(names))
        if hash(tuple(names[:-1])) not in self._folders:
            raise refused_member(found.path, "lies in a directory that is not in it")
        if found.kind == tarfile.DIRTYPE:
            self._folders.add(own)
        elif found.kind == tarfile.LNKTYPE:
            self._links.setdefault(hash(tuple(target)), (len(self._names), found.path))
        self._names.append(own)
        self._may_be_linked.append(found.kind in self._linkable)

    def finish(self) -> None:
        """IntegrityError where a name is there twice, or a hard link leads to what was no file before it."""
        for number, name in enumerate(self._names):
            if name in self._links and self._may_be_linked[number] and number < self._links[name][0]:
                del self._links[name]
        for _, path in self._links.values():
            raise refused_member(path, "is a hard link to something that is not a file of the archive")
        pieces = range(0, len(self._names), _SORTED)
        ordered = heapq.merge(*(array("q", sorted(self._names[at : at + _SORTED])) for at in pieces))
        if any(one == other for one, other in itertools.pairwise(ordered)):
            raise IntegrityError("a name is in the archive twice")
