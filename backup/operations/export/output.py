"""Where what is taken out goes: stdout, unless it is a terminal, or a file that is not there before it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from backup.errors import NoSpace, NotFound, StoreError
from backup.storage.errors import translated
from backup.storage.rename import rename_new


class Output:
    """For a `with` block: stdout for None, else a file of that name, which must not be there yet.

    What the block does not end well leaves no file. StoreError for what the disk says.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._partial: Path | None = None
        self._file: IO[bytes] = sys.stdout.buffer

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        if os.path.lexists(self._path):
            raise StoreError(f"{self._path} is there already and was not overwritten", "Name another file.")
        if not self._path.parent.is_dir():
            raise NotFound(f"there is no folder {self._path.parent}", "Mount one: `run --rm -v /its/folder:/out …`.")
        self._partial = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.partial")
        try:
            self._file = open(self._partial, "xb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise _out(error, self._path) from error
        return self

    def write(self, data: bytes) -> None:
        """Write all of it."""
        try:
            self._file.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _out(error, self._path) from error

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            self._file.flush()
            if self._partial and self._path and kind is None:
                os.fsync(self._file.fileno())
                self._file.close()
                rename_new(self._partial, self._path)
        except BrokenPipeError:
            raise
        except OSError as failed:
            if kind is None:
                raise _out(failed, self._path) from failed
        finally:
            if self._partial:
                with contextlib.suppress(OSError):
                    self._file.close()
                with contextlib.suppress(OSError):
                    self._partial.unlink()


def _out(error: OSError, path: Path | None) -> StoreError:
    found = translated(error, path or Path("stdout"))
    if isinstance(found, NoSpace):
        return NoSpace(f"there is no room for {path or 'the output'}; nothing whole was left", "Take a larger disk.")
    return found


def refuse_terminal() -> None:
    """NotFound where stdout is a terminal: bytes that are no text can do anything to it."""
    if sys.stdout.isatty():
        raise NotFound(
            "this would write a file's bytes to the terminal; nothing was written",
            "Send them on, without a terminal in between: `docker compose run --rm -T backup … > FILE`.",
        )
