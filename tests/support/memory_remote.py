"""A place for copies in memory, for tests of what is done with it. Each mishap is a switch."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from backup.errors import IntegrityError, RemoteArchived, RemoteDamaged, RemoteDenied, RemoteFailed, RemoteMissing
from backup.storage.remote import RemoteObject, Removal

START = datetime(2025, 10, 1, tzinfo=UTC)


@dataclass
class MemoryPlace:
    """Objects in a dictionary. `requests` counts what was asked for by kind; the listing tells no checksums.

    `deny` are rights that the key lacks: `delete`, `overwrite`. `fail` is asked before each put of a key and may raise.
    """

    name: str = "s3://memory"
    objects: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, RemoteObject] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    deny: frozenset[str] = frozenset()
    removal: Removal = "removed"
    fail: Callable[[str], None] = lambda key: None
    twist: Callable[[bytes], bytes] = lambda data: data
    truncated: bool = False
    swept: int = 0
    thawed: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    def entries(self, prefix: str = "") -> list[RemoteObject]:
        self._count("list")
        if self.truncated:
            raise RemoteFailed("the listing of s3://memory was cut")
        return [replace(each, sha256="") for key, each in sorted(self.facts.items()) if key.startswith(prefix)]

    def stat(self, key: str) -> RemoteObject | None:
        self._count("stat")
        found = self.facts.get(key)
        return replace(found, archived=False) if found and key in self.thawed else found

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        size: int | None = None,
        advance: Callable[[int], None] = lambda count: None,
        sha256: str = "",
        *,
        bound: int | None = None,
    ) -> RemoteObject:
        self._count("put")
        self.fail(key)
        if key in self.objects and "overwrite" in self.deny:
            raise RemoteDenied(f"s3://memory denies to overwrite {key}")
        data = b"".join(chunks)
        # Whoever does not know how much it is says how much at most.
        assert len(data) <= (bound if size is None else size)
        if size not in (None, len(data)) or sha256 not in ("", hashlib.sha256(data).hexdigest()):
            raise IntegrityError(f"{key} is not what was stored")
        self.order.append(key)
        self.lay(key, self.twist(data))
        found = self.facts[key]
        if not sha256:
            # As of an object in several parts whose SHA-256 was not known before it was sent.
            self.facts[key] = replace(found, sha256="")
        return found

    def lay(self, key: str, data: bytes) -> None:
        """As if somebody had put it there."""
        self.objects[key] = data
        when = START + timedelta(seconds=len(self.order) + sum(self.requests.values()))
        self.facts[key] = RemoteObject(
            key, len(data), when, hashlib.sha256(data).hexdigest(), f"parts {zlib.crc32(data)}"
        )

    def flip(self, key: str) -> None:
        """A bit of an object flips, and the place does not notice."""
        data = bytearray(self.objects[key])
        data[len(data) // 2] ^= 1
        self.objects[key] = bytes(data)

    def lose(self, key: str) -> None:
        """An object is deleted behind our back."""
        del self.objects[key], self.facts[key]

    def archive(self, key: str) -> None:
        """An object is moved to where its bytes cannot be read at once."""
        self.facts[key] = replace(self.facts[key], archived=True, storage_class="GLACIER")

    def thaw(self, key: str) -> None:
        """Its bytes are there again for some days; listings go on calling it archived."""
        self.thawed.add(key)

    def get(self, key: str) -> Iterator[bytes]:
        self._count("get")
        if key not in self.objects:
            raise RemoteMissing(f"{key} is not at s3://memory")
        if self.facts[key].archived and key not in self.thawed:
            raise RemoteArchived(f"{key} is archived at s3://memory")
        data, known = self.objects[key], self.facts[key].sha256
        yield data[: len(data) // 2]
        if key in self.broken:
            raise RemoteFailed(f"{key} cannot be read at s3://memory")
        yield data[len(data) // 2 :]
        if known not in ("", hashlib.sha256(data).hexdigest()):
            raise RemoteDamaged(f"{key} does not match what was stored there")

    def remove(self, key: str) -> Removal:
        self._count("remove")
        if "delete" in self.deny:
            return "denied"
        if self.removal == "removed":
            self.objects.pop(key, None)
            self.facts.pop(key, None)
        return self.removal

    def sweep(self) -> int:
        return self.swept

    def _count(self, kind: str) -> None:
        self.requests[kind] = self.requests.get(kind, 0) + 1
