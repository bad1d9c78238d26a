"""What is known of the copies at each place, in state/offsite-<place>.json of the backup volume.

It is what the place itself said when it was last asked: written by uploads and looks, read by health without any
request. A book that is lost costs one look at everything.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from pydantic import AwareDatetime, ValidationError

from backup.errors import LockHeld, StoreError
from backup.model.frozen import Frozen
from backup.model.manifest import Tier
from backup.storage import atomic_file, lock
from backup.storage.directory import LocalStore

PlaceName = Literal["s3", "copy"]
# `offsite`: the manifest is there and every object was read back as it should be. `archived`: the same, but its bytes
# cannot be read without a request that takes hours. The others say what was found instead.
CopyState = Literal["offsite", "archived", "incomplete", "differs", "gone"]
HELD: Final[frozenset[CopyState]] = frozenset({"offsite", "archived"})


class StoredObject(Frozen):
    """One object as the place described it when it was read back.

    `source` is the SHA-256 of the local file that it was made of: another one when it was encrypted on its way.
    `checksum` is the place's own word for it, by which its SHA-256 is known again where the place does not tell that.
    """

    size: int
    sha256: str
    modified: AwareDatetime
    source: str = ""
    checksum: str = ""


class Copy(Frozen):
    """A set at a place. `run` is the run that made the set: with the id it says which set this is a copy of.

    `confirmed`: when every object was last found with its size and checksum; `read`: when its bytes were last read;
    `proven`: when they were last restored into a throw-away server. `bad` are objects whose bytes were read and are not
    those that were sent, whatever the place says of them.
    """

    id: str
    tier: Tier
    run: str
    time: AwareDatetime
    database: bool
    state: CopyState
    problem: str = ""
    confirmed: AwareDatetime
    read: AwareDatetime | None = None
    proven: AwareDatetime | None = None
    items: dict[str, StoredObject] = {}
    bad: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all its objects."""
        return sum(item.size for item in self.items.values())

    @property
    def how(self) -> str:
        """Its state in a sentence: `differs`, `is gone`."""
        return "differs" if self.state == "differs" else f"is {self.state}"

    @property
    def held(self) -> bool:
        """Whether it is there, as it should be."""
        return self.state in HELD


class Book(Frozen):
    """All that is known of one place, by set. `parts` are objects of uploads that have not reached their manifest.

    `leaving` are objects of sets whose removal has begun, `looked` is when the place was last listed whole.
    """

    version: Literal[1] = 1
    copies: dict[str, Copy] = {}
    parts: dict[str, dict[str, StoredObject]] = {}
    leaving: dict[str, tuple[str, ...]] = {}
    looked: AwareDatetime | None = None

    def with_copy(self, copy: Copy) -> Book:
        """With this copy, whose upload needs no notes any more."""
        parts = {name: items for name, items in self.parts.items() if name != copy.id}
        return self.model_copy(update={"copies": {**self.copies, copy.id: copy}, "parts": parts})

    def with_part(self, identifier: str, key: str, item: StoredObject) -> Book:
        """With one object of an upload that is under way."""
        return self.model_copy(
            update={"parts": {**self.parts, identifier: {**self.parts.get(identifier, {}), key: item}}}
        )

    def healed(self, key: str) -> Book:
        """With no copy that has that object, which several share, for bad: it was sent again."""
        copies = {
            name: copy.model_copy(update={"bad": tuple(each for each in copy.bad if each != key)})
            for name, copy in self.copies.items()
        }
        return self.model_copy(update={"copies": copies})

    def without(self, identifier: str) -> Book:
        """Without the copy of that set."""
        kept = {name: copy for name, copy in self.copies.items() if name != identifier}
        return self.model_copy(update={"copies": kept})


class _Shared(Frozen):
    """A book in which what several copies have in common, which packs are, is written once; `needs` are its keys, by
    set. Releases before take it for none."""

    version: Literal[2] = 2
    book: Book
    shared: dict[str, StoredObject]
    needs: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, book: Book) -> _Shared:
        """A book, as it is written."""
        named = Counter(name for copy in book.copies.values() for name in copy.items)
        shared: dict[str, StoredObject] = {}
        own, needs = dict(book.copies), {}
        for identifier, copy in book.copies.items():
            # One that a copy knows otherwise stays its own.
            items = copy.items.items()
            same = {key: item for key, item in items if named[key] > 1 and shared.setdefault(key, item) == item}
            if same:
                needs[identifier] = tuple(same)
                left = {key: item for key, item in items if key not in same}
                own[identifier] = copy.model_copy(update={"items": left})
        return cls(book=book.model_copy(update={"copies": own}), shared=shared, needs=needs)

    def whole(self) -> Book:
        """The book. KeyError where something is missing in it."""
        copies = dict(self.book.copies)
        for identifier, keys in self.needs.items():
            items = {key: self.shared[key] for key in keys} | copies[identifier].items
            copies[identifier] = copies[identifier].model_copy(update={"items": items})
        return self.book.model_copy(update={"copies": copies})


# Longer than any holder needs it.
_WAIT: Final = 10.0


class BookFile:
    """The book of one place."""

    def __init__(self, root: Path, place: PlaceName) -> None:
        self._store = LocalStore(root / "state")
        self._name = f"offsite-{place}.json"
        self.path = self._store.directory / self._name

    def read(self) -> Book:
        """What is known; nothing where there is no book, or one that cannot be understood."""
        if self._name not in self._store.names():
            return Book()
        data = self._store.read(self._name)
        with contextlib.suppress(ValidationError, KeyError):
            return _Shared.model_validate_json(data).whole()
        with contextlib.suppress(ValidationError):
            return Book.model_validate_json(data)
        return Book()

    def change(self, changed: Callable[[Book], Book]) -> Book:
        """Write what `changed` makes of it. Others that write at the same time come before or after."""
        try:
            with lock.hold(self.path.with_suffix(".book.lock"), "note", "-", wait=_WAIT):
                before = self.read()
                book = changed(before)
                if book != before:
                    written = _Shared.of(book)
                    data = (written if written.needs else book).model_dump_json(indent=1).encode()
                    atomic_file.replace(self._store, self._name, data, locked=True)
                return book
        except LockHeld as held:
            raise StoreError(f"{self.path} stays locked: {held.message}") from held
