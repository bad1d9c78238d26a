"""Age key pairs for tests, made by the real age-keygen where there is one, else by the library."""

from __future__ import annotations

from pathlib import Path

import pyrage


def key_pair(path: Path) -> str:
    """Write an identity file as age-keygen does; the public key."""
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    path.write_text(f"# created: 2026-01-01T00:00:00Z\n# public key: {public}\n{identity}\n")
    path.chmod(0o600)
    return public
