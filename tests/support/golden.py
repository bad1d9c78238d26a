"""Output that others rely on, kept as files. A difference is looked at; `GOLDEN=1` writes what is there now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "golden"


def unchanged(name: str, text: str) -> None:
    """AssertionError unless the golden file holds this very text."""
    path = FOLDER / name
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs: if that is meant, GOLDEN=1 writes it anew"
