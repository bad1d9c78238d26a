"""A file system in memory that is like FAT or a share of Windows: names of another case are the same name, and it has
neither hard nor symbolic links, owners, modes or attributes. Mounted by FUSE, as root, for kernels that have no vfat.

    python -m tests.support.fatlike DIRECTORY      serves until it is unmounted
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_BLOCK = 4096
_ROOT = 1
_LIVES = 3600
_FORGETS = (2, 42)
_NO_REPLACE = 1


@dataclass
class _Node:
    number: int
    folder: bool
    data: bytearray = field(default_factory=bytearray)
    # By the folded name: the name as it was given, and the node.
    entries: dict[bytes, tuple[bytes, _Node]] = field(default_factory=dict)
    modified: int = 0


def _folded(name: bytes) -> bytes:
    return name.decode(errors="surrogateescape").casefold().encode(errors="surrogateescape")


class _Refused(OSError):
    pass


def _no(number: int) -> _Refused:
    return _Refused(number, os.strerror(number))


class _FileSystem:
    def __init__(self, mode: int) -> None:
        self._nodes = {_ROOT: _Node(_ROOT, folder=True)}
        self._mode = mode
        self._does: dict[int, Callable[[_Node, bytes], bytes]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._setattr,
            9: self._mkdir,
            10: lambda node, data: self._unlink(node, data, folder=False),
            11: lambda node, data: self._unlink(node, data, folder=True),
            12: lambda node, data: self._rename(node, struct.unpack_from("<Q", data)[0], 0, data[8:]),
            14: lambda node, data: struct.pack("<QII", 0, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda node, data: struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 0, 0, 4096, 255, 4096, 0),
            18: lambda node, data: b"",
            20: lambda node, data: b"",
            25: lambda node, data: b"",
            26: lambda node, data: struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 12, 10, 1 << 16, 1, 0, 0, 0),
            27: lambda node, data: struct.pack("<QII", 0, 0, 0),
            28: self._readdir,
            29: lambda node, data: b"",
            30: lambda node, data: b"",
            35: self._create,
            50: lambda node, data: b"",
        }
        # Both kinds of links are refused as FAT does it.
        self._refuses = {6: errno.EPERM, 8: errno.EPERM, 13: errno.EPERM, 45: errno.EINVAL}

    def answer(self, number: int, node: int, data: bytes) -> bytes:
        """What is answered to a request. OSError."""
        if number in self._refuses:
            raise _no(self._refuses[number])
        if number not in self._does:
            raise _no(errno.ENOSYS)
        return self._does[number](self._nodes.get(node) or self._nodes[_ROOT], data)

    def _attributes(self, node: _Node) -> bytes:
        kind = stat.S_IFDIR if node.folder else stat.S_IFREG
        seconds, rest = divmod(node.modified, 10**9)
        size = len(node.data)
        return _ATTRIBUTES.pack(
            *(node.number, size, (size + 511) // 512, seconds, seconds, seconds, rest, rest, rest),
            *(kind | self._mode, 2 if node.folder else 1, 0, 0, 0, _BLOCK, 0),
        )

    def _found(self, node: _Node) -> bytes:
        return _ENTRY.pack(node.number, 0, 0, 0, 0, 0) + self._attributes(node)

    def _lookup(self, node: _Node, data: bytes) -> bytes:
        found = node.entries.get(_folded(data[:-1]))
        if not found:
            raise _no(errno.ENOENT)
        return self._found(found[1])

    def _getattr(self, node: _Node, data: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _setattr(self, node: _Node, data: bytes) -> bytes:
        fields = (("<I", 0), ("<Q", 16), ("<Q", 40), ("<I", 60), ("<I", 76), ("<I", 80))
        valid, size, seconds, rest, *owners = (struct.unpack_from(kind, data, at)[0] for kind, at in fields)
        if any(valid & bit and owner for bit, owner in zip((2, 4), owners, strict=True)):
            raise _no(errno.EPERM)
        if valid & 0b1000:
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
        if valid & 0b100000:
            node.modified = time.time_ns() if valid & 0x100 else seconds * 10**9 + rest
        return self._getattr(node, data)

    def _new(self, node: _Node, name: bytes, *, folder: bool) -> _Node:
        if _folded(name) in node.entries:
            raise _no(errno.EEXIST)
        made = _Node(max(self._nodes) + 1, folder, modified=time.time_ns())
        self._nodes[made.number] = made
        node.entries[_folded(name)] = (name, made)
        node.modified = time.time_ns()
        return made

    def _mkdir(self, node: _Node, data: bytes) -> bytes:
        return self._found(self._new(node, data[8:-1], folder=True))

    def _create(self, node: _Node, data: bytes) -> bytes:
        return self._found(self._new(node, data[16:-1], folder=False)) + struct.pack("<QII", 0, 0, 0)

    def _unlink(self, node: _Node, data: bytes, *, folder: bool) -> bytes:
        name = _folded(data[:-1])
        if name not in node.entries:
            raise _no(errno.ENOENT)
        found = node.entries[name][1]
        if found.folder != folder:
            raise _no(errno.ENOTDIR if folder else errno.EISDIR)
        if found.entries:
            raise _no(errno.ENOTEMPTY)
        del node.entries[name]
        node.modified = time.time_ns()
        return b""

    def _rename(self, node: _Node, target: int, flags: int, names: bytes) -> bytes:
        old, new = names[:-1].split(b"\0")
        there, into = node.entries.get(_folded(old)), self._nodes[target]
        if not there:
            raise _no(errno.ENOENT)
        taken = into.entries.get(_folded(new))
        if taken and taken[1] is not there[1]:
            if taken[1].folder != there[1].folder:
                raise _no(errno.EISDIR if taken[1].folder else errno.ENOTDIR)
            if taken[1].entries:
                raise _no(errno.ENOTEMPTY)
        del node.entries[_folded(old)]
        into.entries[_folded(new)] = (new, there[1])
        node.modified = into.modified = time.time_ns()
        return b""

    def _read(self, node: _Node, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", data)
        return bytes(node.data[offset : offset + size])

    def _write(self, node: _Node, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", data)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + size] = data[40 : 40 + size]
        node.modified = time.time_ns()
        return struct.pack("<II", size, 0)

    def _readdir(self, node: _Node, data: bytes) -> bytes:
        _, offset, room = struct.unpack_from("<QQI", data)
        found = b""
        for number, (name, each) in enumerate(list(node.entries.values())[offset:], offset + 1):
            kind = (stat.S_IFDIR if each.folder else stat.S_IFREG) >> 12
            entry = struct.pack("<QQII", each.number, number, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(found) + len(entry) > room:
                break
            found += entry
        return found


def _serve(directory: str, mode: int) -> None:
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"fatlike", os.fsencode(directory), b"fuse.fatlike", 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    files = _FileSystem(mode)
    while True:
        try:
            request = os.read(fuse, 1 << 18)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                continue
            raise
        _, number, unique, node, *_ = _HEADER.unpack_from(request)
        if number in _FORGETS:
            continue
        code, answer = 0, b""
        try:
            answer = files.answer(number, node, request[_HEADER.size :])
        except OSError as error:
            code = -(error.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # the request was interrupted
            os.write(fuse, _ANSWER.pack(_ANSWER.size + len(answer), code, unique) + answer)


@contextlib.contextmanager
def mounted(directory: Path, mode: int = 0o700) -> Iterator[Path]:
    """An empty one at `directory`; everything in it has this mode."""
    directory.mkdir(parents=True, exist_ok=True)
    served = subprocess.Popen([sys.executable, "-m", "tests.support.fatlike", str(directory), oct(mode)])
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(directory):
            assert served.poll() is None and time.monotonic() < deadline, "it was not mounted"
            time.sleep(0.01)
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=False)
        served.terminate()
        served.wait()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2], 8))
