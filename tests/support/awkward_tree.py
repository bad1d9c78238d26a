"""A tree that holds what restores lose, and an independent look at everything a tree is."""

# Names are bytes here, which Path does not take.
# ruff: noqa: PTH102, PTH115, PTH118, PTH211

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path

ODD_NAMES = (
    *(b"new\nline", b"car\rriage", b"-rf", b" ", b"\\", b"back\\nslash", b"\xff\xfe\x80", b"\x01\x1b[31m", b"..."),
    *("\u202eltr".encode(), b"x" * 255, ("\u20ac" * 85).encode(), b"a=b", b"%s%n", b"A", b"a"),
)


def acl(user: int) -> bytes:
    """An access list with an entry for `user`, as the kernel stores it."""
    entries = [(1, 6, -1), (2, 4, user), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def look(root: Path, skip: bytes = b"\0") -> dict[bytes, tuple[object, ...]]:
    """Everything about every entry, by path; but what begins with `skip` in the root."""
    names: dict[tuple[int, int], bytes] = {}
    digests: dict[bytes, str] = {}
    found = {}
    top = os.fsencode(root)
    paths = [top]
    for at, folders, files in os.walk(top):
        if at == top:
            folders[:] = [name for name in folders if not name.startswith(skip)]
        paths += [os.path.join(at, name) for name in (*folders, *files)]
    for path in sorted(paths):
        at = os.lstat(path)
        digest = first = link = None
        if stat.S_ISREG(at.st_mode):
            first = names.setdefault((at.st_dev, at.st_ino), path[len(top) :])
            if first not in digests:
                with open(path, "rb") as file:
                    digests[first] = hashlib.file_digest(file, "sha256").hexdigest()
            digest = (digests[first], at.st_size, at.st_blocks // 16)
        if stat.S_ISLNK(at.st_mode):
            link = os.readlink(path)
        attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        owners = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns)
        found[path[len(top) :]] = (*owners, digest, link, first, tuple(sorted(attributes.items())))
    return found


def fill(root: Path, mib: int = 1 << 20) -> None:
    """Put every kind of thing that the archiver stores into `root`; less of each where a MiB is said to be less."""
    top = os.fsencode(root)
    for number, name in enumerate(ODD_NAMES):
        path = os.path.join(top, name)
        if number % 3:
            Path(os.fsdecode(path)).write_bytes(name * number)
        else:
            os.mkdir(path)
            os.symlink(name, os.path.join(path, name))
    folder = root / "folder"
    folder.mkdir()
    (folder / "empty folder").mkdir(mode=0o700)
    for name, size in (("large", 5 * mib), ("exact", 512), ("one", 1), ("empty", 0)):
        (folder / name).write_bytes(os.urandom(size))
    _holes(folder, mib)
    os.link(folder / "large", root / "another name")
    os.link(folder / "large", root / ("z" * 200))
    (root / "link to nothing").symlink_to("/nowhere/" + "long" * 60)
    (root / "link out").symlink_to("../../../etc/passwd")
    for path in (folder, folder / "large", folder / "empty"):
        os.setxattr(path, "user.note", b"\xff\0binary\n=")
    os.chown(folder / "empty", 2**31, 2**22)
    os.chown(folder / "one", 1000, 1001)
    os.setxattr(folder / "exact", "system.posix_acl_access", acl(1234))
    os.setxattr(folder, "system.posix_acl_default", acl(4321))
    (folder / "one").chmod(0o6755)
    (folder / "empty").chmod(0)
    folder.chmod(0o3777)
    os.chown(root / "link out", 1000, 1001, follow_symlinks=False)
    os.utime(root / "link out", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.utime(folder / "empty", ns=(1, -1_500_000_001))
    os.utime(folder, ns=(1, 1_000_000_000_000_000_001))
    os.chown(root, 1000, 1000)
    root.chmod(0o2750)
    os.utime(root, ns=(1, 1_100_000_000_000_000_007))


def _holes(folder: Path, mib: int) -> None:
    for name, offsets in (("hole", ()), ("holes", (0, mib, 4 * mib - 3)), ("hole at end", (4096,))):
        with open(folder / name, "wb") as file:
            for offset in offsets:
                os.pwrite(file.fileno(), b"abc", offset)
            file.truncate(4 * mib)
