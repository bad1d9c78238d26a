"""The members of a tar stream that nobody has checked, read strictly: what is not certain is refused.

tarfile takes a damaged header for the end of the archive, believes negative sizes, and lets one extended record
override another without bounds. Known here are the forms `tar_writer` and GNU tar write.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from backup.errors import IntegrityError, StoreError
from backup.formatting import printable, size
from backup.media.tar_header import attributes_of, field_text, is_sound, is_sound_again, member_name, parse_number
from backup.media.tar_writer import BLOCK, NO_ATTRIBUTES, DataRegion, with_holes
from backup.pipeline.gzip import DAMAGED

_PIECE: Final = 1 << 20
# Far above the longest path and the most attributes of one file that Linux can hold.
_LONGEST_NAME: Final = 1 << 20
_LONGEST_RECORDS: Final = 16 << 20
_MOST_REGIONS: Final = 1 << 18
_LONGEST_END: Final = 64 << 20
_ZERO: Final = bytes(BLOCK)
_NUMBER: Final = re.compile(rb"[0-9]{1,19}")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{1,30}))?")
_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,8}) ")
# More than any file system holds, less than what the call that sets it overflows at.
_MOST_SECONDS: Final = 2**62
_MOST_OWNERS: Final = 2**32 - 1
# Records that neither are attributes nor make a file sparse.
_PLAIN: Final = {b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"}
# Of one member each; what would override these for all that follow is refused.
_NEVER_GLOBAL: Final = (b"path", b"linkpath", b"size", b"GNU.sparse.", b"SCHILY.", b"uid", b"gid", b"mtime")
_EXTENDED: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NAMES: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BEFORE_A_MEMBER: Final = frozenset((*_EXTENDED, tarfile.XGLTYPE, *_LONG_NAMES))
_KINDS: Final = (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
# GNU tar's own: the name of the archive (`--label`), a directory with a list of what was in it (`--incremental`), and
# the rest of a file that begins in the volume before (`--multi-volume`).
_LABEL, _LISTING, _REST_OF_FILE = b"V", b"D", b"M"
_LIKE: Final = {
    tarfile.AREGTYPE: tarfile.REGTYPE,
    tarfile.CONTTYPE: tarfile.REGTYPE,
    tarfile.GNUTYPE_SPARSE: tarfile.REGTYPE,
    tarfile.BLKTYPE: tarfile.CHRTYPE,
    _LISTING: tarfile.DIRTYPE,
    _LABEL: tarfile.REGTYPE,
}
_AGAIN: Final = "and make one archive of the folder: `tar -czf FILE -C PARENT FOLDER`."
_JOIN: Final = f"Unpack the set with `tar -xM -f FIRST -f SECOND …`, {_AGAIN}"
_IN_ORDER: Final = f"Unpack the full archive and those after it with `tar -x --listed-incremental=/dev/null`, {_AGAIN}"


def shown_path(path: bytes) -> str:
    """A member's name for a message: printable, its end if it is long."""
    text = printable(os.fsdecode(path))
    return text if len(text) <= 200 else "…" + text[-200:]


def refused_member(path: bytes, what: str, hint: str = "") -> IntegrityError:
    """The error about one member."""
    return IntegrityError(f"{shown_path(path)!r} {what}", hint)


def pieces_of(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """What a binary file holds, piece by piece, up to where reading it fails."""
    return iter(functools.partial(stream.read1, _PIECE), b"")


class Member(NamedTuple):
    """One member. `kind` is a regular file, a link of either kind, a directory, or a FIFO or device (CHRTYPE), of which
    a second name is one, too. `size` is logical, in bytes; `regions` where the content that follows belongs, ascending.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes
    attributes: Mapping[bytes, bytes]
    regions: tuple[DataRegion, ...]
    stored: int = 0  # bytes of content in the archive
    origin: bytes = b""  # what it is called below its root, where that is not seen in `path`


class TarReader:
    """Members in order. What was not read of one is skipped when the next is asked for.

    `pieces` are the archive's bytes, of any size. `limit` is the most bytes of content that all members together may
    have. `root` is given for archives of others: their paths are then given as below it, also where the archive has
    `./` before it, or is of `.` and has no root.
    """

    def __init__(self, pieces: Iterable[bytes], limit: int = sys.maxsize, root: bytes = b"") -> None:
        self._pieces, self._left, self._limit = iter(pieces), limit, limit
        # The piece at hand, and how much of it was read: most of an archive of small files is cut out of one.
        self._data, self._at = b"", 0
        self._root = root
        self._rootless: bool | None = None
        self._content = self._taken = 0
        # By the hash of each path that is a FIFO or device, which of them it is.
        self._special: dict[int, bytes] = {}
        self.path = b"."  # what an error is about

    def members(self) -> Iterator[Member]:
        """The members, to the end of the stream. IntegrityError for anything unusual; StoreError if reading fails."""
        records: dict[bytes, bytes] = {}
        seen: set[bytes] = set()
        while (block := self._read(BLOCK)) != _ZERO:
            kind = self._checked(block)
            if kind in _BEFORE_A_MEMBER:
                if kind in seen:
                    raise self.refused("is followed by one extended header after another")
                seen.add(kind)
                records |= self._extended(kind, block)
                continue
            found = self._member(block, kind, records)
            padding = -self._content % BLOCK
            if kind != _LABEL:
                yield self._placed(found)
            if listing := records.get(b"GNU.dumpdir"):
                self._require_all((listing,))
            if kind == _LISTING:
                self._require_all(self.content(self._content))
            if self._content:
                for _ in self.content(self._content):
                    pass
            if padding and self._read(padding).strip(b"\0"):
                raise self.refused("is followed by damaged padding")
            if seen:
                records, seen = {}, set()
        if seen:
            raise self.refused("is followed by an extended header that belongs to nothing")
        self._end()

    def content(self, count: int) -> Iterator[bytes]:
        """The next `count` bytes of this member's content in chunks."""
        while count:
            if self._at == len(self._data):
                self._data, self._at = self._next() or self._cut_off(), 0
            chunk = self._data[self._at : self._at + count]
            self._at += len(chunk)
            count -= len(chunk)
            self._content -= len(chunk)
            yield chunk

    def unpacked(self, found: Member, alive: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """All content of the present member, holes as zeros. `alive` is called within those."""
        return with_holes(found.regions, found.size, self.content, alive)

    @property
    def position(self) -> int:
        """How many bytes of the archive are read: where the content of a member begins that was just given."""
        return self._taken - len(self._data) + self._at

    def refused(self, what: str) -> IntegrityError:
        """The error about the present member."""
        return refused_member(self.path, what)

    def _read(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            self._gather(count)
            end = count
        data = self._data[self._at : end]
        self._at = end
        return data

    def _gather(self, count: int) -> None:
        """Have so many bytes in one piece."""
        pieces, missing = [self._data[self._at :]], count - len(self._data) + self._at
        while missing > 0:
            pieces.append(self._next() or self._cut_off())
            missing -= len(pieces[-1])
        self._data, self._at = b"".join(pieces), 0

    def _cut_off(self) -> bytes:
        raise self.refused("is the last readable entry: the archive is truncated")

    def _next(self) -> bytes:
        """The next piece, empty at the end."""
        try:
            piece = next(filter(None, self._pieces), b"")
            self._taken += len(piece)
            return piece
        except DAMAGED as error:
            raise self.refused(f"is the last readable entry: the compressed archive is damaged ({error})") from error
        except OSError as error:
            raise StoreError(f"the archive cannot be read: {error.strerror or error}") from error

    def _end(self) -> None:
        """The second zero block, then nothing but zeros."""
        if self._read(BLOCK) != _ZERO:
            raise self.refused("is followed by a damaged header")
        length, rest = 0, self._data[self._at :] or self._next()
        while rest:
            length += len(rest)
            if length > _LONGEST_END or rest.count(0) != len(rest):
                raise self.refused("is the last entry, but something follows the end of the archive")
            rest = self._next()
        if length % BLOCK:
            raise self.refused("is the last entry, and the archive is truncated after it")

    def _checked(self, block: bytes) -> bytes:
        kind = block[156:157]
        if not (is_sound_again(block) if kind == tarfile.XHDTYPE else is_sound(block)):
            raise self.refused("is followed by a damaged header")
        return kind

    def _number(self, text: bytes) -> int:
        value = parse_number(text)
        if value is None:
            raise self.refused("is followed by a header with a damaged number")
        return value

    def _decimal(self, text: bytes) -> int:
        if not _NUMBER.fullmatch(text):
            raise self.refused("has an invalid number")
        return int(text)

    def _extended(self, kind: bytes, block: bytes) -> dict[bytes, bytes]:
        length = self._number(block[124:136])
        name = kind in _LONG_NAMES
        if not 0 <= length <= (_LONGEST_NAME if name else _LONGEST_RECORDS):
            raise self.refused(f"is followed by an extended header of {length:,} bytes")
        data = self._read(length + -length % BLOCK)[:length]
        if name:
            key = b"path" if kind == tarfile.GNUTYPE_LONGNAME else b"linkpath"
            return {key: data[:-1] if data.endswith(b"\0") else data}
        records = self._records(data)
        if kind in _EXTENDED:
            return records
        if b"GNU.volume.offset" in records:
            raise self._rest_of_file(records.get(b"GNU.volume.filename", b"?"))
        if any(key.startswith(_NEVER_GLOBAL) for key in records):
            raise self.refused("is followed by a global header that renames or resizes what follows")
        return {}

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(data):
            match = _LENGTH.match(data, position)
            end = position + int(match[1]) if match else 0
            key, equals, value = data[match.end() : end - 1].partition(b"=") if match else (b"", b"", b"")
            if not key or not equals or end > len(data) or data[end - 1 : end] != b"\n":
                raise self.refused("is followed by a damaged extended header")
            records[key] = value
            position = end
        return records

    def _member(self, block: bytes, kind: bytes, records: dict[bytes, bytes]) -> Member:
        self.path = records.get(b"GNU.sparse.name") or records.get(b"path") or member_name(block)
        like = _LIKE.get(kind, kind)
        if kind == tarfile.AREGTYPE and self.path.endswith(b"/"):  # as before there was a kind for directories
            like = tarfile.DIRTYPE
        if kind == _REST_OF_FILE:
            raise self._rest_of_file(self.path)
        if like not in _KINDS:
            raise self.refused(f"is of an unknown kind ({printable(kind.decode('latin-1'))})")
        self._content = self._decimal(records[b"size"]) if b"size" in records else self._number(block[124:136])
        if self._content < 0 or (self._content and like != tarfile.REGTYPE and kind != _LISTING):
            raise self.refused(f"claims to have {self._content:,} bytes of content")
        if self._content > self._left:
            raise self.refused(f"makes the archive larger than the {size(self._limit)} that it may hold")
        self._left -= self._content
        sparse = kind == tarfile.GNUTYPE_SPARSE
        length, regions = self._layout(block, sparse, records) if like == tarfile.REGTYPE else (0, ())
        return Member(
            path=self.path,
            kind=like,
            mode=self._number(block[100:108]) & 0o7777,
            uid=self._owner(records.get(b"uid"), block[108:116]),
            gid=self._owner(records.get(b"gid"), block[116:124]),
            mtime_ns=self._time(records.get(b"mtime"), block[136:148]),
            size=length,
            target=records.get(b"linkpath") or (field_text(block[157:257]) if block[157] else b""),
            attributes=NO_ATTRIBUTES if records.keys() <= _PLAIN else attributes_of(records),
            regions=regions,
            stored=self._content if like == tarfile.REGTYPE else 0,
        )

    def _placed(self, found: Member) -> Member:
        """The member with its paths as below the root, and as what it is a second name of."""
        if self._root:
            if self._rootless is None:
                self._rootless = found.path in (b".", b"./")
            target = self._below(found.target) if found.kind == tarfile.LNKTYPE else found.target
            found = found._replace(path=self._below(found.path), target=target)
        if self._special and found.kind == tarfile.LNKTYPE:
            found = found._replace(kind=self._special.get(hash(found.target), found.kind))
        if found.kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE):
            self._special[hash(found.path)] = found.kind
        elif self._special:
            self._special.pop(hash(found.path), None)
        return found

    def _below(self, path: bytes) -> bytes:
        bare = path.removeprefix(b"./")
        if self._rootless:
            return self._root + b"/" + (b"" if path == b"." else bare)
        return bare or path

    def _rest_of_file(self, path: bytes) -> IntegrityError:
        what = "begins in another file: the archive is one part of a multi-volume set, and a restore needs all parts"
        return refused_member(path, what, _JOIN)

    def _require_all(self, listing: Iterable[bytes]) -> None:
        """IntegrityError if a directory's list names what was in it and is not in the archive."""
        rest = b""
        for chunk in listing:
            *lines, rest = (rest + chunk).split(b"\0")
            for name in (line[1:] for line in lines if line[:1] == b"N"):
                what = f"held {shown_path(name)!r}, which is not in this archive: it continues an earlier one"
                raise refused_member(self.path, what, _IN_ORDER)
            if len(rest) > _LONGEST_NAME:
                raise self.refused("has a damaged list of what it holds")

    def _owner(self, record: bytes | None, plain: bytes) -> int:
        number = self._number(plain) if record is None else self._decimal(record)
        if not 0 <= number < _MOST_OWNERS:
            raise self.refused("has an impossible owner")
        return number

    def _time(self, record: bytes | None, plain: bytes) -> int:
        if record is None:
            seconds, sign, rest = self._number(plain), 1, 0
        elif match := _TIME.fullmatch(record):
            seconds, sign = int(match[2]), -1 if match[1] else 1
            rest = int((match[3] or b"").ljust(9, b"0")[:9])
        else:
            raise self.refused("has an invalid time")
        if abs(seconds) > _MOST_SECONDS:
            raise self.refused("has an impossible time")
        return sign * (seconds * 10**9 + rest)

    def _layout(self, block: bytes, sparse: bool, records: dict[bytes, bytes]) -> tuple[int, tuple[DataRegion, ...]]:
        if sparse:
            length = self._number(block[483:495])
            return length, self._fitting(self._old_map(block), length)
        if records.keys() <= _PLAIN or not any(key.startswith(b"GNU.sparse.") for key in records):
            return self._content, ((0, self._content),)
        if (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise self.refused("is a sparse file of an unknown format")
        length = self._decimal(records.get(b"GNU.sparse.realsize", b""))
        return length, self._fitting(self._map(), length)

    def _fitting(self, regions: tuple[DataRegion, ...], length: int) -> tuple[DataRegion, ...]:
        end = 0
        for start, count in regions:
            if count < 0 or start < end:
                raise self.refused("has a damaged map of holes")
            end = start + count
        if end > length or sum(count for _, count in regions) != self._content:
            raise self.refused("has a damaged map of holes")
        return regions

    def _old_map(self, block: bytes) -> tuple[DataRegion, ...]:
        regions: list[DataRegion] = []
        entries, more = block[386:482], block[482]
        while True:
            for at in range(0, len(entries), 24):
                if entries[at : at + 24].strip(b"\0"):
                    regions.append((self._number(entries[at : at + 12]), self._number(entries[at + 12 : at + 24])))
            if not more:
                return tuple(regions)
            if len(regions) > _MOST_REGIONS:
                raise self.refused("has too many holes")
            block = self._read(BLOCK)
            entries, more = block[:504], block[504]

    def _map(self) -> tuple[DataRegion, ...]:
        text, lines, wanted = bytearray(), 0, 1
        while lines < wanted:
            if self._content < BLOCK:
                raise self.refused("has a damaged map of holes")
            block = b"".join(self.content(BLOCK))
            text += block
            lines += block.count(b"\n")
            if wanted == 1 and lines:
                wanted += 2 * self._decimal(bytes(text[: text.index(b"\n")]))
            if wanted > 2 * _MOST_REGIONS or len(text) > _LONGEST_RECORDS:
                raise self.refused("has too many holes")
        numbers = [self._decimal(line) for line in bytes(text).split(b"\n")[1:wanted]]
        return tuple(zip(numbers[::2], numbers[1::2], strict=True))
