"""Removing everything in a directory: no link followed, two descriptors at any depth, and again after a kill."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable

from backup.media.branch import FOLDER


def remove_all(folder: int, *, but: Callable[[str], bool] = lambda name: False) -> None:
    """Remove what is in the open directory `folder`, but the names of which `but` says so. Raises OSError.

    A directory within a directory is first moved up into `folder`, so depth never matters.
    """
    token, number = os.fsencode(secrets.token_hex(8)), 0
    while names := [os.fsencode(name) for name in os.listdir(folder) if not but(name)]:
        for name in names:
            if not _is_directory(name, folder):
                os.unlink(name, dir_fd=folder)
                continue
            fd = os.open(name, FOLDER, dir_fd=folder)
            try:
                for inner in map(os.fsencode, os.listdir(fd)):
                    if _is_directory(inner, fd):
                        number += 1
                        os.rename(inner, b"%s-%d" % (token, number), src_dir_fd=fd, dst_dir_fd=folder)
                    else:
                        os.unlink(inner, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=folder)


def _is_directory(name: bytes, folder: int) -> bool:
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    if os.geteuid():  # whoever has no privileges must first allow himself to change what he owns
        os.chmod(name, 0o700, dir_fd=folder)
    return True
