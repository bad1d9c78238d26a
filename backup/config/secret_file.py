"""A secret in a file, as Docker and Kubernetes hand it over. Standard library only: the health probe reads it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from backup.formatting import printable

_LIMIT: Final = 4096


def read_secret(name: str, file: str, *, many: bool = False) -> str:
    """The whole content of `file` less one final newline; ValueError names the variable `name`_FILE, no content.

    `many`: it may have several lines.
    """
    shown = f"{name}_FILE={printable(file)}"
    try:
        with Path(file).open("rb") as handle:
            data = handle.read(_LIMIT + 1)
    except OSError as error:
        raise ValueError(f"{shown}: {error.strerror}") from None
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{shown}: the file is not UTF-8 text") from None
    if not text:
        raise ValueError(f"{shown}: the file is empty")
    if len(data) > _LIMIT or ("\n" in text and not many) or "\0" in text:
        raise ValueError(f"{shown}: the file must hold {'text' if many else 'one line'} of at most {_LIMIT} bytes")
    return text
