"""What is done to the files of one volume, as a command of its own: `backup.media.helper` starts it.

    python -m backup.media.helper_main extract ARCHIVE INDEX|- ROOT_NAME VOLUME STAMP --limit N [--trusted]
    python -m backup.media.helper_main put ARCHIVE INDEX|- ROOT_NAME VOLUME STAMP --limit N [--trusted]
        --days N --path HEX …
    python -m backup.media.helper_main exchange|roll-back|discard|state VOLUME STAMP
    python -m backup.media.helper_main kept|tidy VOLUME

With `--packs FOLDER`, ARCHIVE is the tree of a set, whose files lie in the packs of that folder.

It runs where the volume is writable, which the sidecar's own mount is not. Its output is one JSON object per line:
`{"bytes": n}` while it extracts, the result last, or `{"error", "message", "hint", "exit_code"}`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final

from backup.errors import BackupError, IntegrityError, Interrupted, StoreError
from backup.media import extraction, swap
from backup.media.pack_reader import PackFiles, TreeReader
from backup.media.selection import Chosen
from backup.media.swap import single_files
from backup.media.tar_writer import IndexEntry, parse_index
from backup.media.tree import parse_marks, parse_tree
from backup.pipeline import gzip
from backup.storage.directory import LocalStore

_PAUSE: Final = 0.5
# Moments long, and to be finished rather than stopped.
_SHORT: Final = ("exchange", "roll-back")


def run_arguments(arguments: Sequence[str], progress: Callable[[int], None]) -> dict[str, Any]:
    """Do what the command line `arguments` say; the result. `progress` gets bytes written since its last call.

    Raises BackupError; SystemExit for arguments that are none.
    """
    words = _parser().parse_args(arguments)
    volume = Path(words.volume)
    if words.verb == "extract":
        return _extract(words, volume, progress)
    if words.verb == "put":
        return _put(words, volume, progress)
    if words.verb == "tidy":
        return {"told": single_files.tidy(volume)}
    if words.verb == "kept":
        return {"kept": [asdict(each) for each in swap.kept(volume)]}
    if words.verb == "state":
        return {"state": swap.tree_state(volume, words.stamp)}
    act = {"exchange": swap.exchange_tree, "roll-back": swap.exchange_back, "discard": swap.discard_tree}[words.verb]
    told = act(volume, words.stamp)
    return {"state": swap.tree_state(volume, words.stamp), "told": told}


def main(arguments: Sequence[str]) -> int:
    """Print the lines; the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if arguments[:1] and arguments[0] in _SHORT else _interrupted)
    try:
        _say(run_arguments(arguments, _Reporter().add))
    except BackupError as error:
        return _failed(type(error).__name__, error.message, error.hint, error.exit_code)
    except Interrupted as error:
        message = f"stopped by signal {error.exit_code - 128}; the live files are as they were"
        return _failed("Interrupted", message, "", error.exit_code)
    return 0


class _Reporter:
    """Bytes so far, at most twice a second."""

    def __init__(self) -> None:
        self._bytes, self._next = 0, time.monotonic() + _PAUSE

    def add(self, count: int) -> None:
        self._bytes += count
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PAUSE
            _say({"bytes": self._bytes})


def _extract(words: argparse.Namespace, volume: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    swap.prepare_tree(volume, words.stamp)
    with swap.StagedTrees(volume, words.stamp) as staging:
        done = _unpack(words, staging.folder, progress, None)
        staging.note_extracted()
    return {"extracted": asdict(done)}


def _put(words: argparse.Namespace, volume: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    notes: tuple[str, ...] = ()

    def extract(folder: int, chosen: Chosen) -> None:
        nonlocal notes
        notes = _unpack(words, folder, progress, chosen).notes

    paths = [bytes.fromhex(path) for path in words.path]
    told = single_files.tidy(volume, days=words.days)
    kept = single_files.put_paths(
        volume, words.stamp, paths, os.fsencode(words.root_name), extract, whole=not words.trusted
    )
    return {"kept": kept, "notes": (*told, *notes)}


def _unpack(
    words: argparse.Namespace, folder: int, progress: Callable[[int], None], chosen: Chosen | None
) -> extraction.Extracted:
    """Extract the archive, or what is chosen of it, into `new` in the open directory `folder`."""
    with _archive(words) as archive, _index(words.index) as index:
        return extraction.extract_archive(
            archive,
            words.root_name,
            Path("new"),
            dir_fd=folder,
            index=chosen.entries(index) if chosen and index is not None else index,
            trusted=words.trusted,
            limit=words.limit,
            progress=progress,
            select=chosen,
        )


@contextlib.contextmanager
def _archive(words: argparse.Namespace) -> Iterator[Any]:
    path = Path(words.archive)
    if not words.packs:
        with _reading(path, plain=not words.trusted) as archive:
            yield archive
        return
    with _reading(path) as lines:
        marks = parse_marks(lines)
    with (
        contextlib.closing(PackFiles(LocalStore(Path(words.packs)), marks)) as packs,
        _reading(path) as lines,
        _reading(Path(words.index)) as index,
    ):
        yield TreeReader(parse_tree(lines, index), packs, words.limit)


@contextlib.contextmanager
def _reading(path: Path, *, plain: bool = False) -> Iterator[Any]:
    """The content of a file, gzip undone; `plain`: it may be without."""
    try:
        with open(path, "rb") as file:
            if plain and file.peek(2)[:2] != gzip.MAGIC:
                yield file
                return
            with gzip.reader(file) as unpacked:
                yield unpacked
    except gzip.DAMAGED as error:
        raise IntegrityError(f"{path.name} is damaged: {error}; no live file was touched") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}; no live file was touched") from error


@contextlib.contextmanager
def _index(path: str) -> Iterator[Iterator[IndexEntry] | None]:
    if path == "-":
        yield None
        return
    with _reading(Path(path)) as lines:
        yield parse_index(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backup.media.helper_main", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("extract", "put"):
        extract = verbs.add_parser(verb, allow_abbrev=False)
        for name in ("archive", "index", "root_name", "volume", "stamp"):
            extract.add_argument(name)
        extract.add_argument("--limit", type=int, required=True)
        extract.add_argument("--trusted", action="store_true")
        extract.add_argument("--packs")
    extract.add_argument("--days", type=float, required=True)
    extract.add_argument("--path", action="append", required=True)
    for verb in (*_SHORT, "discard", "state"):
        other = verbs.add_parser(verb, allow_abbrev=False)
        other.add_argument("volume")
        other.add_argument("stamp")
    for verb in ("kept", "tidy"):
        verbs.add_parser(verb, allow_abbrev=False).add_argument("volume")
    return parser


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _failed(name: str, message: str, hint: str, code: int) -> int:
    _say({"error": name, "message": message, "hint": hint, "exit_code": code})
    return code


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201  # read by who started this


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
