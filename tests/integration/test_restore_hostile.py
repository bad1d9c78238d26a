"""A restore of hostile archives: whatever they try, nothing outside of the volume is written, and nothing in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.restoring import Target

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", **fields: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


TOP = entry("media", type=tarfile.DIRTYPE, mode=0o755)
HOSTILE: dict[str, list[Entry]] = {
    "dots": [TOP, entry("media/../../escaped", b"x")],
    "absolute": [TOP, entry("/escaped", b"x")],
    "through a link": [
        TOP,
        entry("media/link", type=tarfile.SYMTYPE, linkname="../.."),
        entry("media/link/escaped", b"x"),
    ],
    "link outside": [TOP, entry("media/link", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link outside": [TOP, entry("media/link", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "device outside": [TOP, entry("etc/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe that is linked": [
        TOP,
        entry("media/pipe", type=tarfile.FIFOTYPE),
        entry("media/link", type=tarfile.LNKTYPE, linkname="media/pipe"),
    ],
    "another tree": [entry("etc", type=tarfile.DIRTYPE), entry("etc/escaped", b"x")],
    "twice": [TOP, entry("media/a", b"x"), entry("media/a", b"y")],
}


def packed(entries: list[Entry]) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, data in entries:
                archive.addfile(info, io.BytesIO(data))
        return gzip.compress(file.getvalue())


def nothing_escaped(spoilt: Target) -> None:
    base = spoilt.sidecar.volumes
    assert not any((place / "escaped").exists() for place in (Path("/"), Path("/etc"), base, base.parent))


# Pipes of others are left out, and so are their second names.
@pytest.mark.parametrize("case", [name for name in HOSTILE if name != "pipe that is linked"])
def test_a_hostile_archive_without_a_manifest(spoilt: Target, case: str) -> None:
    path = spoilt.old_file("media", "tar.gz")
    path.write_bytes(packed(HOSTILE[case]))
    result = spoilt.sidecar.run("restore", path.name, "--force", "--no-safety")
    spoilt.refused(result, 40 if "damaged and was not" in result.output else 50)
    nothing_escaped(spoilt)


@pytest.mark.parametrize("case", [name for name in HOSTILE if name != "link outside"])
def test_a_hostile_archive_in_a_set_that_agrees_with_it(spoilt: Target, case: str) -> None:
    """Whoever can write manifests and checksums cannot write outside of the volume with them either."""
    sealed(spoilt, HOSTILE[case])
    # What only the unpacking sees is refused by it, beside the live files.
    spoilt.refused(spoilt.restore("--no-safety", "--only", "media"), 40 if spoilt.problems() else 50, "live")
    nothing_escaped(spoilt)


def sealed(spoilt: Target, entries: list[Entry], **counts: int) -> None:
    """Make the media of the daily set these, with index, counts and checksums that agree."""
    files = [(info.name, data) for info, data in entries if info.isreg()]
    links = [(info.name, b"") for info, _ in entries if info.islnk()]
    index = "".join(f"{hashlib.sha256(d).hexdigest()}  {len(d)}  {n}\n" for n, d in files + links).encode()
    plain = {"tar.gz": gzip.decompress(packed(entries)), "files.gz": index}
    for suffix, data in plain.items():
        spoilt.path("media", suffix).write_bytes(gzip.compress(data))

    def change(manifest: dict[str, Any]) -> None:
        for artifact in manifest["artifacts"]:
            if artifact["kind"] in ("volume", "index"):
                data = plain["tar.gz" if artifact["kind"] == "volume" else "files.gz"]
                digest = hashlib.sha256(data).hexdigest() if artifact["plain_sha256"] else ""
                artifact |= {"plain_size": len(data), "plain_sha256": digest}
        found = {"files": len(files), "bytes": sum(len(data) for _, data in files), "hard_links": len(links)}
        found["directories"] = sum(info.isdir() for info, _ in entries)
        found["links"] = sum(info.issym() for info, _ in entries)
        manifest["volumes"][0] |= {**found, **counts}

    spoilt.reseal(change)


def test_a_bomb(spoilt: Target) -> None:
    """It says that it is small; and where nothing says how large it is, it ends with the room that there is."""
    bomb = [TOP, entry("media/zeros", bytes(64 << 20))]
    sealed(spoilt, bomb)
    assert spoilt.problems() == []
    index = spoilt.path("media", "files.gz")
    index.write_bytes(gzip.compress(gzip.decompress(index.read_bytes()).replace(b"67108864", b"10")))
    spoilt.reseal(lambda manifest: manifest["volumes"][0].update(bytes=10))
    spoilt.refused(spoilt.restore(), 40, "media/zeros")
    path = spoilt.old_file("media", "tar.gz")
    path.write_bytes(packed(bomb))
    small = spoilt.sidecar.volumes.parent / "small" / "media"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        (small / "live").write_text("live")
        volumes = str(small.parent)
        result = spoilt.sidecar.run("restore", path.name, "--force", "--no-safety", BACKUP_VOLUMES_DIR=volumes)
        assert [item.name for item in small.iterdir()] == ["live"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    spoilt.refused(result, 50)
