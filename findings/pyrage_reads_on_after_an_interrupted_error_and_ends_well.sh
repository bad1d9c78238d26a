#!/usr/bin/env bash
# pyrage.encrypt_io(reader, writer, recipients) takes any file-like object. A reader that fails raises, and so does the call.
#
# Expected: whatever the reader raises ends the call with an error, as an OSError of any other kind does.
# Seen, pyrage 1.4.0: an InterruptedError (what Python makes of any OSError with EINTR, which a network or FUSE file may
# raise) is taken by the Rust side for "try again". A generator that has raised is over, so the next read is an end of
# file: the call returns, and what was written is a whole age file with the first half of the content.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyrage==1.4.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import errno, io, sys
from collections.abc import Iterator

import pyrage

key = pyrage.x25519.Identity.generate()


class Reader(io.RawIOBase):
    def __init__(self, code: int) -> None:
        self.pieces = self.produced(code)

    def produced(self, code: int) -> Iterator[bytes]:
        yield b"first half, "
        raise OSError(code, "from below")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        piece = next(self.pieces, b"")
        buffer[: len(piece)] = piece
        return len(piece)


seen = {}
for code in (errno.EIO, errno.EINTR):
    out = io.BytesIO()
    try:
        pyrage.encrypt_io(Reader(code), out, [key.to_public()])
        seen[code] = f"returned, holds {pyrage.decrypt(out.getvalue(), [key])!r}"
    except Exception as error:
        seen[code] = "raised"
    print(errno.errorcode[code], seen[code])
if seen != {errno.EIO: "raised", errno.EINTR: "returned, holds b'first half, '"}:
    sys.exit("this has changed")
PYTHON
