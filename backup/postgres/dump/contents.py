"""The contents of a dump: which stretches of its file can be read by themselves, and what is in each.

Rows of large tables begin at entry points of the gzip stream (see GzipWriter.mark), so several sessions can load one
dump side by side. The list is a file of its own: the dump stays one that gunzip and psql read as ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from backup.errors import IntegrityError
from backup.model.manifest import Count, Sha256

# In bytes; no file is that large.
_MOST: Final = 1 << 50
_Bytes = Annotated[int, Field(gt=0, le=_MOST)]


@dataclass(frozen=True)
class Part:
    """A stretch of a dump that can be read by itself.

    `table` is as the dump writes it where all of the stretch are rows of it, none of them cut: `rows` of them. It is
    empty for anything else: SQL, and the rows of small tables. `offset` and `stored`: where in the file the stretch
    begins, and how many bytes it has there, up to the next one or the file's end. `size` and `sha256`: of its content.
    """

    table: str
    rows: Count
    offset: _Bytes
    stored: _Bytes
    size: _Bytes
    sha256: Sha256


@dataclass(frozen=True)
class Contents:
    """The parts of a whole dump, in its order and without a gap."""

    __pydantic_config__ = ConfigDict(strict=True)

    parts: tuple[Part, ...]
    format: Literal[1] = field(default=1, kw_only=True)

    def encode(self) -> bytes:
        """The contents as JSON."""
        return _JSON.dump_json(self, indent=1) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Contents:
        """Read them back; IntegrityError for anything that cannot be the contents of a dump."""
        try:
            contents = _JSON.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise IntegrityError(f"the contents of the dump cannot be used: {where}: {first['msg']}") from None
        if not contents.parts:
            raise IntegrityError("the contents of the dump cannot be used: they list nothing")
        if any(before.offset + before.stored != after.offset for before, after in pairwise(contents.parts)):
            raise IntegrityError("the contents of the dump cannot be used: their parts do not follow one another")
        if any(part.rows and not part.table for part in contents.parts):
            raise IntegrityError("the contents of the dump cannot be used: they count rows of no table")
        return contents


_JSON: Final = TypeAdapter(Contents)
