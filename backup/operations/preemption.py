"""What touches nothing live ends when something else wants to begin: whoever restores has an emergency.

A drill and the try of a new set give way to a restore; a drill that the service begins of its own accord, and a
snapshot of the media, give way to every run. Asked by a file in the state, since the two may be in different
containers, and neither sees the other's processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from backup.errors import Interrupted, StoreError
from backup.logging import logger
from backup.storage import atomic_file, lock
from backup.storage.directory import LocalStore

# What the holder of the lock says of itself when it gives way to everybody.
TO_ALL: Final = "that gives way"
_NAME: Final = "restore-first"
_LOOK: Final = 1.0
_UNJUDGED: Final = "The set was not judged; `drill` proves it later."
# Seconds that one who gives way is given for it.
_PATIENCE: Final = 60.0


class GaveWay(Interrupted):
    """Ended for something else; the message says for what."""


def ask(root: Path, who: str) -> None:
    """Ask the run at work to end, for `who`, if it is one that gives way. One that cannot be asked is waited for."""
    try:
        atomic_file.replace(LocalStore(root / "state"), _NAME, f"{who}\n{os.urandom(8).hex()}\n".encode())
    except StoreError as error:
        logger.warning("the running job could not be asked to stop: {}", error.message)


def patience(path: Path, wait: float) -> float:
    """How long to wait for the lock at `path`: a moment at least, where its holder gives way to everybody."""
    return max(wait, _PATIENCE) if TO_ALL in (lock.holder(path) or "") else wait


def ask_holder(root: Path, what: str, waiting: Callable[[str], None]) -> Callable[[str], None]:
    """`waiting`, told who holds the lock, after a holder that gives way to everybody was asked to end."""

    def told(who: str) -> None:
        if TO_ALL in who:
            logger.info("what gives way is asked to end, because this goes first")
            ask(root, what)
        waiting(who)

    return told


@contextlib.contextmanager
def giving_way(root: Path, limit: float = math.inf, *, look: float = _LOOK, hint: str = _UNJUDGED) -> Iterator[None]:
    """The body is ended by SIGTERM, with GaveWay, when somebody asks, or has asked since the lock was taken.

    After `limit` seconds it is ended, too. It is looked for both every `look` seconds. `hint`: what becomes of its
    work. Only under the lock.
    """
    store, over, why, deadline = LocalStore(root / "state"), threading.Event(), list[str](), time.monotonic() + limit
    before = b"" if _since_locked(root / "state") else _read(store)

    def watch() -> None:
        while not over.wait(look):
            asked = _read(store)
            if asked not in (before, b""):
                why.append(f"{asked.decode(errors='replace').partition(chr(10))[0]} was to go first")
            elif time.monotonic() > deadline:
                why.append(f"it took more than {limit:.0f} s")
            if why:
                logger.warning("this ends now: {}", why[0])
                os.kill(os.getpid(), signal.SIGTERM)
                return

    try:
        # It may end this before the body has begun.
        threading.Thread(target=watch, name="giving way", daemon=True).start()
        yield
    except Interrupted as error:
        if why:
            ended = GaveWay(signal.SIGTERM)
            ended.message, ended.hint = why[0], hint
            raise ended from error
        raise
    finally:
        over.set()


def _since_locked(state: Path) -> bool:
    """Whether the last question came when the lock had been taken, and so is not an earlier drill's.

    Nor is one that is dated ahead: the clock was.
    """
    with contextlib.suppress(OSError):
        taken, asked = ((state / name).stat().st_mtime for name in ("lock", _NAME))
        return taken <= asked <= time.time() + _PATIENCE
    return False


def _read(store: LocalStore) -> bytes:
    with contextlib.suppress(StoreError):
        return store.read(_NAME)
    return b""
