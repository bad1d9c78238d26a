"""A bucket, or a folder of it, as a place of copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from backup.storage.rate_limit import Pace
from backup.storage.remote import RemoteObject, Removal, require_key
from backup.storage.s3 import delete, download
from backup.storage.s3.client import Client
from backup.storage.s3.options import Options
from backup.storage.s3.parts import entry_of
from backup.storage.s3.upload import Upload


class Bucket:
    """Implements Remote. One object at a time; its parts go in parallel."""

    def __init__(self, options: Options, remember: Callable[[frozenset[str]], None] = lambda without: None) -> None:
        self.options = options
        self.client = Client(options, remember)
        self._pace = Pace(options.bandwidth)

    @property
    def name(self) -> str:
        """`s3://bucket/prefix`."""
        return self.options.name

    def entries(self, prefix: str = "") -> list[RemoteObject]:
        """Every object below a prefix, from a listing that is complete."""
        return download.list_objects(self.client, prefix)

    def stat(self, key: str) -> RemoteObject | None:
        """What the store says of an object now."""
        found = download.head_object(self.client, require_key(key))
        return entry_of(key, found) if found else None

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        size: int | None = None,
        advance: Callable[[int], None] = lambda count: None,
        sha256: str = "",
        *,
        bound: int | None = None,
        split: bool = False,
    ) -> RemoteObject:
        """Send, then prove by what the store says. One that is not there yet is never put over somebody else's.

        `split`: in parts, however small.
        """
        fresh = self.stat(key) is None
        upload = Upload(self.client, key, self._pace, fresh=fresh)
        return upload.run(chunks, size, advance, sha256, bound=bound, split=split)

    def get(self, key: str) -> Iterator[bytes]:
        """The bytes, resumed where a connection breaks."""
        return download.blocks(self.client, require_key(key))

    def remove(self, key: str) -> Removal:
        """Remove an object and its versions as far as the key may."""
        return delete.remove_object(self.client, require_key(key))

    def sweep(self) -> int:
        """Abort uploads of ours that have been unfinished for a day."""
        return delete.sweep_uploads(self.client)
