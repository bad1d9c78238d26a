"""The files of volumes, changed by `helper_main` alone: in a helper that mounts the volume writable, or a child.

The sidecar itself mounts volumes read-only, so no fault of it can harm them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backup.docker.engine import LABEL, LABEL_ROLE, LABEL_RUN, Engine, SpoolMount
from backup.errors import BackupError, EngineError, IntegrityError, LockHeld, NotFound, RestoreFailed, RestoreUnfinished
from backup.formatting import printable
from backup.logging import logger

FILES_ROLE: Final = "files"
PYTHON: Final = "/app/venv/bin/python"
_MODULE: Final = ("-m", "backup.media.helper_main")
_ROOT: Final = Path(__file__).resolve().parents[2]
# To give files their owners and modes, and to read archives whatever their mode.
CAPABILITIES: Final = ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID"]

_ERRORS: Final[dict[str, type[BackupError]]] = {
    each.__name__: each for each in (IntegrityError, LockHeld, NotFound, RestoreUnfinished)
}

# Gives the output lines of a command, then its exit code.
Runner = Callable[[str, Sequence[str]], "Iterator[str | int]"]


@dataclass(frozen=True)
class FileTrees:
    """The files of the volumes, writable; `stamp` names one restore.

    `volumes` is where each volume's directory is mounted; `runner` runs a command with it writable.
    """

    volumes: Path
    runner: Runner
    progress: Callable[[int], None]

    def extract(
        self,
        volume: str,
        archive: Path,
        index: Path | None,
        stamp: str,
        *,
        root: str,
        limit: int,
        trusted: bool,
        packs: Path | None = None,
    ) -> list[str]:
        """Unpack an archive of the folder `root` beside the live files, each file checked against the index.

        With `packs` it is the tree of a set whose files lie in those. What the file system did not take as it was, in
        words: there it has the nearest.
        """
        options = [f"--limit={limit}", *(["--trusted"] if trusted else []), *([f"--packs={packs}"] if packs else [])]
        words = [str(archive), str(index) if index else "-", root, self._root(volume), stamp]
        return _notes(self._call(volume, "extract", *options, "--", *words).get("extracted"))

    def put(
        self,
        volume: str,
        archive: Path,
        index: Path | None,
        stamp: str,
        *,
        root: str,
        limit: int,
        trusted: bool,
        paths: Sequence[bytes],
        days: float,
        packs: Path | None = None,
    ) -> tuple[str, list[str]]:
        """Put single files or directories of an archive in the place of the live ones.

        Where those are kept, if any; and what the file system did not take as it was, in words.
        """
        options = [f"--limit={limit}", f"--days={days}", *(["--trusted"] if trusted else [])]
        options += [f"--packs={packs}"] if packs else []
        # In hexadecimal: what the engine is told must be UTF-8, and a path need not be.
        options += [f"--path={path.hex()}" for path in paths]
        words = [str(archive), str(index) if index else "-", root, self._root(volume), stamp]
        done = self._call(volume, "put", *options, "--", *words)
        return str(done["kept"]), _notes(done)

    def tidy(self, volume: str) -> list[str]:
        """Take back what a `put` that was killed left half done; what was done, in words."""
        return [str(line) for line in self._call(volume, "tidy", self._root(volume)).get("told", ())]

    def exchange(self, volume: str, stamp: str) -> None:
        """Let the unpacked files and the live ones change places; done already, it does nothing."""
        self._change(volume, "exchange", stamp)

    def exchange_back(self, volume: str, stamp: str) -> None:
        """Let the files that `exchange` replaced be live again; done already, it does nothing."""
        self._change(volume, "roll-back", stamp)

    def discard(self, volume: str, stamp: str) -> None:
        """Remove what is beside the live files."""
        self._change(volume, "discard", stamp)

    def exchanged(self, volume: str, stamp: str) -> bool:
        """Whether the unpacked files are live."""
        found = str(self._call(volume, "state", self._root(volume), stamp)["state"])
        if found not in ("ready", "exchanged"):
            raise RestoreFailed(
                f"what is kept of {volume} is no longer complete ({found}); nothing was changed",
                "`undo --discard` removes what is left of it.",
            )
        return found == "exchanged"

    def kept(self, volume: str, stamp: str) -> int:
        """Bytes of what is beside the live files."""
        found = self._call(volume, "kept", self._root(volume)).get("kept", ())
        return int(next((each["bytes"] for each in found if each["stamp"] == stamp), 0))

    def _change(self, volume: str, verb: str, stamp: str) -> None:
        for line in self._call(volume, verb, self._root(volume), stamp).get("told", ()):
            logger.warning("the files of {}: {}", volume, printable(str(line)))

    def _root(self, volume: str) -> str:
        return str(self.volumes / volume)

    def _call(self, volume: str, verb: str, *words: str) -> dict[str, Any]:
        """Run a verb; what it says last. Its own error is raised here as it was there."""
        answer: dict[str, Any] = {}
        code, told, said = -1, 0, ""
        for line in self.runner(volume, [verb, *words]):
            if isinstance(line, int):
                code = line
                continue
            found = _object(line)
            if found is None:
                said = line
                continue
            answer = found
            if set(answer) == {"bytes"}:
                self.progress(int(answer["bytes"]) - told)
                told = int(answer["bytes"])
        if code == 0:
            return answer
        if "error" not in answer:
            raise EngineError(
                f"the files of {volume}: `{verb}` ended with exit code {code}: {printable(said) or 'no message'}",
                "Was it killed? If memory was short, the kernel log says so. Run it again.",
            )
        message = str(answer.get("message"))
        kind = _ERRORS.get(str(answer.get("error")), RestoreFailed)
        raise kind(f"the files of {volume}: {printable(message)}", str(answer.get("hint", "")))


def _notes(done: Any) -> list[str]:
    return [printable(str(note)) for note in done.get("notes", ())] if isinstance(done, dict) else []


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def in_child(_volume: str, words: Sequence[str]) -> Iterator[str | int]:
    """Run it as a child of ours, which may write where we may."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *_MODULE, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=_ROOT,
        )
        try:
            if process.stdout:
                with process.stdout:
                    for line in process.stdout:
                        yield line.rstrip("\n")
            code = process.wait()
        finally:
            process.terminate()
            process.wait()
        errors.seek(0)
        yield from errors.read().splitlines()[-5:]
        yield code


@dataclass(frozen=True)
class InHelper:
    """Runs it in a container of our own image; `mount` gives a volume writable, `archives` a folder of archives.

    The words of `extract` and `put` end with the archive, its index, its root, the volume and the stamp.
    """

    engine: Engine
    image: str
    archives: Callable[[Path], SpoolMount]
    mount: Callable[[str], SpoolMount]
    instance: str
    run: str

    def __call__(self, volume: str, words: Sequence[str]) -> Iterator[str | int]:
        """See Runner."""
        labels = {LABEL: self.instance, LABEL_RUN: self.run, LABEL_ROLE: FILES_ROLE}
        command = [PYTHON, *_MODULE, *words]
        mounts = [self.mount(volume)]
        if words[0] in ("extract", "put"):
            mounts.append(self.archives(Path(words[-5]).parent))
        helper = self.engine.start_alone(self.image, command, labels, mounts, CAPABILITIES)
        try:
            yield from helper.lines()
            code = helper.wait()
            if code:
                yield from helper.errors().splitlines()[-5:]
            yield code
        finally:
            helper.close()
