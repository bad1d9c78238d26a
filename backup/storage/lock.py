"""One run at a time on one backup volume.

An flock in the volume itself, so that the service, one-off containers and a second sidecar share it. The kernel
frees it when its holder dies, however it dies: there is no stale lock to break. The text inside
only says who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup.errors import LockHeld
from backup.formatting import printable
from backup.storage.filesystem import store_error, storing

_POLL = 0.1
# Longer than anybody needs to name itself, or to look who holds the lock.
_UNNAMED = 1.0
NAMELESS = "an unknown run"


@contextlib.contextmanager
def hold(
    path: Path,
    operation: str,
    run: str,
    *,
    wait: float = 0.0,
    waiting: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Hold the lock for the body. Waits up to `wait` seconds, then LockHeld says who has it and since when.

    `waiting` is told of everybody who is waited for: who waits may be overtaken. It may raise instead.
    """
    with storing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(descriptor, path, wait, waiting, clock, sleep)
        _describe(descriptor, {"operation": operation, "run": run, "host": socket.gethostname(), "pid": os.getpid()})
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Who holds the lock, in words; None when it is free. StoreError when that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(error, path) from error
    try:
        return None if _is_shared(descriptor) else _who(descriptor) or NAMELESS
    except OSError as error:
        raise store_error(error, path) from error
    finally:
        os.close(descriptor)


def names(who: str, run: str) -> bool:
    """Whether `who`, as `holder` tells it, is this run, or may be: it has not said who it is."""
    return who == NAMELESS or f"(run {printable(run)} in " in who


def _acquire(
    descriptor: int,
    path: Path,
    wait: float,
    waiting: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> None:
    began, told = clock(), ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Beside one that only looks, what stands there is the name of a run that was killed.
            who = None if _is_shared(descriptor) else _who(descriptor)
            if clock() >= began + (wait if who else max(wait, _UNNAMED)):
                raise LockHeld(
                    f"another run is using the backup volume: {who or NAMELESS}; nothing was done",
                    "Wait for it to end, or pass --wait SECONDS to queue behind it.",
                ) from None
            if who and who != told:
                waiting(who)
                told = who
            sleep(_POLL)
        except OSError as error:
            raise LockHeld(f"{path} cannot be locked: {error.strerror}", "Use a volume that supports flock.") from error
        else:
            return


def _is_shared(descriptor: int) -> bool:
    """Whether nobody holds the lock, but those who look at it for an instant."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _describe(descriptor: int, facts: dict[str, Any]) -> None:
    facts["since"] = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps(facts).encode()
    with contextlib.suppress(OSError):  # a full disk must not stop a run that may be about to free it
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))


def _who(descriptor: int) -> str | None:
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        return printable(f"{facts['operation']} (run {facts['run']} in {facts['host']}, since {facts['since']})")
    except (OSError, ValueError, KeyError, TypeError):
        return None
