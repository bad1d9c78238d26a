"""A set, or one file of it, copied out: each byte compared with the manifest, nothing whole left of what is not.

What is taken out goes to stdout, unless it is a terminal, or to a file that is not there before it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, Final, Self

from backup.errors import BackupError, IntegrityError, NoSpace, NotFound, StoreError
from backup.formatting import listed
from backup.media.tar_writer import ending, padding
from backup.model.backup_set import StoredSet, manifest_name
from backup.model.manifest import file_name
from backup.operations.set_artifacts import HeldBack, open_file, require_as_written
from backup.operations.verify.run import check_set
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Progress
from backup.storage.directory import LocalStore
from backup.storage.filesystem import store_error
from backup.storage.rename import rename_new
from backup.storage.staged_file import StagedFile, staged_name

_STDOUT: Final = (
    "This container may only write to folders that belong to root. stdout always works: `docker compose run --rm -T"
    " backup export ID - > set.tar`."
)


def is_file_of(stored: StoredSet, query: str) -> bool:
    """Whether a person named one file of the set, and not all of it."""
    return PurePath(query).name in stored.files


def files_to_export(stored: StoredSet, query: str) -> list[str]:
    """List the files to copy: the one that is named, or all of the set with its manifest last."""
    if is_file_of(stored, query):
        return [PurePath(query).name]
    last = [each for each in (file_name("set", stored.id, "sha256"), manifest_name(stored.id)) if each in stored.files]
    return [*(each for each in stored.files if each not in last), *last]


def to_stream(
    stored: StoredSet, names: list[str], query: str, write: Callable[[bytes], object], progress: Progress
) -> None:
    """Write one file as it is, or all of them as a tar archive, whose end comes only when all was right."""
    _require_known(stored, names, progress)
    progress.phase(f"copying {stored.id}", stored.size)
    count, single = 0, names == [PurePath(query).name]
    for name in names:
        held = HeldBack(write)
        with open_file(stored, name, progress) as source:
            size = (stored.directory / name).lstat().st_size
            head = b"" if single else _header(name, size, stored)
            held.write(head)
            _copy(stored, source, held.write, size)
            held.write(b"" if single else padding(size))
            count += len(head) + size + len(padding(size))
        held.release()
    if not single:
        write(ending(count))


def to_folder(stored: StoredSet, names: list[str], folder: Path, progress: Progress) -> None:
    """Copy into a folder. No name appears before all files are right and on the disk; the manifest is the last."""
    if not folder.is_dir():
        raise NotFound(
            f"there is no folder {folder}", "Mount one of the host: `run --rm -v /its/folder:/out backup …`."
        )
    _require_known(stored, names, progress)
    store = LocalStore(folder)
    there = [name for name in names if os.path.lexists(folder / name)]
    if there:
        raise StoreError(f"{folder / there[0]} exists already and was not overwritten; nothing was copied")
    progress.phase(f"copying {stored.id}", stored.size)
    with _named(folder), contextlib.ExitStack() as stack:
        staged: list[StagedFile] = []
        for name in names:
            # What a copy that was killed left.
            store.remove(staged_name(name))
            file = stack.enter_context(store.stage(name))
            with open_file(stored, name, progress) as source:
                _copy(stored, source, file.write, (stored.directory / name).lstat().st_size)
            file.seal()
            staged.append(file)
        _publish(store, staged)


def _publish(store: LocalStore, staged: list[StagedFile]) -> None:
    done: list[str] = []
    try:
        for file in staged:
            store.publish([file])
            done.append(file.name)
    except BaseException:
        with contextlib.suppress(BackupError):
            store.remove_all(reversed(done))
        raise


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Say of the folder what the store says of the backup volume."""
    try:
        yield
    except NoSpace as error:
        raise NoSpace(f"there is no space in {folder}; nothing was left there", "Take a larger disk.") from error
    except StoreError as error:
        cause = error.__cause__
        denied = isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM)
        raise StoreError(error.message, _STDOUT if denied else error.hint) from error


def _copy(stored: StoredSet, source: Stored, write: Callable[[bytes], object], size: int) -> None:
    for piece in source.raw():
        write(piece)
    require_as_written(stored, source)
    if source.size != size:
        raise IntegrityError(f"the size of {source.name} changed while it was copied", "Run it again.")


def _require_known(stored: StoredSet, names: list[str], progress: Progress) -> None:
    """Raise IntegrityError for a set that is known to be damaged: it is not copied as one.

    Without a manifest there is nothing to compare with: the files have to unpack to their end at least.
    """
    whole = len(names) > 1 or len(stored.files) == 1
    problems = [stored.problem] if stored.problem and whole else []
    if stored.derived:
        problems = check_set(stored, progress).problems
    if problems:
        raise IntegrityError(
            f"{stored.id} is damaged and was not copied: {listed(problems, mark='; ')}",
            "`list` shows other sets; a single file of this one can be named.",
        )


def _header(name: str, size: int, stored: StoredSet) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(stored.time.timestamp())
    return info.tobuf(tarfile.GNU_FORMAT)


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
            raise StoreError(f"{self._path} exists already and was not overwritten", "Name another file.")
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
    found = store_error(error, path or Path("stdout"))
    if isinstance(found, NoSpace):
        return NoSpace(f"no space for {path or 'the output'}; nothing complete was left", "Take a larger disk.")
    return found


def refuse_terminal() -> None:
    """Raise NotFound where stdout is a terminal: bytes that are no text can do anything to it."""
    if sys.stdout.isatty():
        raise NotFound(
            "this would write a file's bytes to the terminal; nothing was written",
            "Redirect them, without a terminal: `docker compose run --rm -T backup … > FILE`.",
        )
