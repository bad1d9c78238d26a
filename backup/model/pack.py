"""A pack: an archive of the files that were new when it was written, which the sets after it name and do not repeat.

<root>/packs/obcms_media_<id>.tar.gz            named by the set that wrote it, needed by any
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from backup.model.frozen import Frozen

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class Pack(Frozen):
    """One pack that a set needs: sizes in bytes, SHA-256 of the stored bytes; `volume` is that of its files.

    `content` are the bytes of those, headers and padding aside; 0 where it was not noted.
    """

    volume: str
    file: FileName
    stored_size: Count
    stored_sha256: Sha256
    plain_size: Count
    content: Count = 0


def own_bytes(packs: Iterable[Pack], identifier: str) -> int:
    """Bytes of the packs that the set of this id wrote itself."""
    return sum(pack.stored_size for pack in packs if pack.file.endswith(f"_{identifier}.tar.gz"))


def why_unusable(error: ValidationError) -> str:
    """Why a file with a `format` cannot be read."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    # Said in the message itself: lists and plans show that alone.
    newer = "its format is not known here; a newer release of this product wrote it, use that release"
    return newer if where == "format" else f"{where}: {first['msg']}"
