"""What is noted on disk of one restore's trees: which step, which tree is live, what the root has in each."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from backup.errors import IntegrityError
from backup.media.metadata import Metadata

Side = Literal["new", "old"]
State = Literal["absent", "extracting", "ready", "moving", "exchanged", "discarding"]
Step = Literal["extracting", "settled", "out", "in", "discarding"]
OTHER: Final[dict[Side, Side]] = {"new": "old", "old": "new"}
STATE: Final = "state"
# A name of its own, so that discarding needs no room on a full disk.
DISCARDING: Final = "state.discarding"
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Noted:
    """`live`: the tree that is live, or will be after this step; `roots`: what the volume's root has in each."""

    step: Step
    live: Side = "old"
    roots: dict[Side, Metadata] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """The same for those who only look."""
        if self.step == "settled":
            return "exchanged" if self.live == "new" else "ready"
        return "moving" if self.step in ("out", "in") else "extracting" if self.step == "extracting" else "discarding"


def read(folder: int) -> Noted:
    """What is noted in the open directory `folder`; without a note, it is extracting. IntegrityError if damaged."""
    for name in (STATE, DISCARDING):
        try:
            fd = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            continue
        with os.fdopen(fd, "rb") as file:
            noted = _unpacked(file.read())
        return Noted("discarding", noted.live) if name == DISCARDING else noted
    return Noted("extracting")


def write(folder: int, noted: Noted) -> Noted:
    """Note it durably, whole or not at all; the same again. Raises OSError."""
    fd = os.open(f"{STATE}.new", _WRITE, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(_packed(noted))
        file.flush()
        os.fsync(fd)
    os.rename(f"{STATE}.new", STATE, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
    return noted


def _packed(noted: Noted) -> bytes:
    roots = {side: asdict(root) | {"attributes": _hex(root)} for side, root in noted.roots.items()}
    return json.dumps({"version": 1, "step": noted.step, "live": noted.live, "roots": roots}).encode()


def _hex(root: Metadata) -> dict[str, str]:
    return {name.hex(): value.hex() for name, value in root.attributes.items()}


def _unpacked(data: bytes) -> Noted:
    try:
        found = json.loads(data)
        if found["version"] != 1 or found["step"] not in ("settled", "out", "in") or found["live"] not in OTHER:
            raise ValueError(found["step"])
        return Noted(found["step"], found["live"], {side: _root(root) for side, root in found["roots"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"the note of how far a restore of files has come is damaged: {error}; nothing was moved",
            "Its directories `new` and `old`, beside the note, hold the trees: look at them, and move one by hand.",
        ) from error


def _root(found: dict[str, Any]) -> Metadata:
    attributes = {bytes.fromhex(name): bytes.fromhex(value) for name, value in found["attributes"].items()}
    mode, uid, gid, mtime_ns = (int(found[name]) for name in ("mode", "uid", "gid", "mtime_ns"))
    return Metadata(mode, uid, gid, mtime_ns, attributes)
