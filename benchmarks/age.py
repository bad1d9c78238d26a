"""What encryption costs: one artifact of 1 GB written to the disk, plain and encrypted, then read back and unpacked.

    python -m benchmarks.age [MB]

Half of the bytes are text, half do not pack; each way in a process of its own, so that the peak memory is its own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyrage

from backup.operations.verify.stored_bytes import Stored
from backup.pipeline import age
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.directory import LocalStore


def once(megabytes: int, encrypted: bool) -> None:
    """Write and read one artifact; print seconds and the peak memory."""
    identity = pyrage.x25519.Identity.generate()
    noise, text = (
        os.urandom(1 << 20),
        b"".join(b"%d\tname %d\n" % (n, n * 7919 % 1000) for n in range(80_000))[: 1 << 20],
    )
    with tempfile.TemporaryDirectory() as folder:
        key, store = Path(folder) / "key", LocalStore(Path(folder))
        key.write_text(f"{identity}\n")
        to = age.recipients([str(identity.to_public())]) if encrypted else ()
        start = time.monotonic()
        with ArtifactWriter(store, "sample.gz", "database", recipients=to) as writer:
            for number in range(megabytes):
                writer.write(text if number % 2 else noise)
            artifact = writer.finish()
        written = time.monotonic() - start
        store.publish([writer.staged])
        start = time.monotonic()
        size = sum(len(piece) for piece in Stored(store, artifact.file, Silent(), key).content())
        took = time.monotonic() - start
    if size != megabytes << 20:
        raise SystemExit(f"{size} bytes came back")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name = "encrypted" if encrypted else "plain"
    print(f"{name}: written {written:.2f} s, read back {took:.2f} s, peak memory {peak:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        once(int(sys.argv[1]), sys.argv[2] == "encrypted")
    else:
        for way in ("plain", "encrypted") * 2:
            subprocess.run([sys.executable, "-m", "benchmarks.age", *(sys.argv[1:] or ["1024"]), way], check=True)
