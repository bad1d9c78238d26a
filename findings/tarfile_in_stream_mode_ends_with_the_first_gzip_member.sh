#!/usr/bin/env bash
# A gzip file may have several members; gunzip, zcat, Python's gzip.decompress and tar read all of them. Programs that pack with
# several threads, and those that append, write such files.
#
# Expected: tarfile reads them in mode "r|gz" (a pipe) as it does in mode "r:gz" (a file), or raises ReadError.
# Seen, Python 3.11: mode "r|gz" has a decompressor of its own, which ends with the first member. Where that member ends with
# a whole tar member, the rest of the archive is not there: no error, no warning. "r|*" is the same.
# tarfile.open(fileobj=gzip.GzipFile(fileobj=pipe), mode="r|") reads all of it from a pipe.
set -euo pipefail
python3 - <<'PY'
import gzip
import io
import sys
import tarfile

plain = io.BytesIO()
with tarfile.open(fileobj=plain, mode="w") as archive:
    for name in "one", "two", "three", "four":
        entry = tarfile.TarInfo(name)
        entry.size = 700
        archive.addfile(entry, io.BytesIO(bytes(700)))
half = 2 * (512 + 1024)  # a header and two blocks for each file
packed = gzip.compress(plain.getvalue()[:half]) + gzip.compress(plain.getvalue()[half:])
assert gzip.decompress(packed) == plain.getvalue()


def names(stream, mode):
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        return archive.getnames()


ways = {mode: names(io.BytesIO(packed), mode) for mode in ("r:gz", "r|gz", "r|*")}
ways["GzipFile and r|"] = names(gzip.GzipFile(fileobj=io.BytesIO(packed)), "r|")
print("Python", sys.version.split()[0])
for way, found in ways.items():
    print(f"{way:16} {' '.join(found)}")
if [len(found) for found in ways.values()] != [4, 2, 2, 4]:
    raise SystemExit("this has changed")
PY
