"""Sets made in a moment, for tests of what becomes of them: in memory, or as small files on disk."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backup.model.backup_set import Pin, Proof, SetState, StoredSet, Verdict, manifest_name, verdict_name
from backup.model.manifest import STAMP, Artifact, DatabasePart, Manifest, Tier, VolumePart, file_name, to_json

UTC_ZONE = ZoneInfo("UTC")
MEDIA = VolumePart(name="media", files=1, directories=1, links=0, hard_links=0, bytes=1, excludes=())
OCR = MEDIA.model_copy(update={"name": "ocr"})


def manifest(
    identifier: str, tier: Tier, time: datetime, *, halves: str = "dm", name: str = "app", server: str = "7"
) -> Manifest:
    """The manifest of a set of `halves` (d: database, m: media, o: the volume ocr), with an artifact of each."""
    database = DatabasePart(
        name=name, oid=1, system_identifier=server, server_version="17", client_version="17", command=(), rows={}
    )
    files = [("backup", "sql.gz")] * ("d" in halves) + [("media", "tar.gz")] * ("m" in halves)
    files += [("ocr", "tar.gz")] * ("o" in halves)
    artifacts = tuple(
        Artifact(
            kind="database" if what == "backup" else "volume",
            file=file_name(what, identifier, suffix),
            stored_size=len(identifier),
            stored_sha256=hashlib.sha256(identifier.encode()).hexdigest(),
            plain_size=0,
            plain_sha256="",
        )
        for what, suffix in files
    )
    return Manifest(
        id=identifier, tier=tier, run="r", started=time, ended=time, started_local="", ended_local="", zone="UTC",
        product_version="1", artifacts=artifacts, database=database if "d" in halves else None,
        volumes=(MEDIA,) * ("m" in halves) + (OCR,) * ("o" in halves),
    )  # fmt: skip


def verdict(time: datetime, kind: str) -> Verdict | None:
    """What was found: verified, proven, damaged; nothing for unverified."""
    if kind == "unverified":
        return None
    proof = Proof(tried=time) if kind == "proven" else None
    return Verdict(checked=time, problems=("a bit flipped",) if kind == "damaged" else (), proof=proof)


def in_memory(
    tier: Tier,
    time: datetime,
    kind: str = "verified",
    *,
    halves: str = "dm",
    name: str = "app",
    server: str = "7",
    pin: bool = False,
    zone: ZoneInfo = UTC_ZONE,
) -> StoredSet:
    """A set that is verified, proven, damaged, unverified, incomplete, unreadable, mixed up, or an old script's."""
    identifier = f"{tier}_{time.astimezone(zone):{STAMP}}"
    made: Manifest | None = manifest(identifier, tier, time, halves=halves, name=name, server=server)
    assert made
    files = tuple(artifact.file for artifact in made.artifacts)
    states: dict[str, SetState] = {
        "damaged": "damaged",
        "incomplete": "damaged",
        "mixed up": "damaged",
        "unreadable": "unreadable",
        "old script": "old script",
    }
    state = states.get(kind, "complete")
    problem = "" if state in ("complete", "old script") else "something is wrong"
    if kind == "incomplete":
        files = files[1:]
    if kind == "mixed up":
        made = made.model_copy(update={"id": f"{tier}_2001-01-01_00-00-00"})
    if kind in ("unreadable", "old script"):
        made = None
    found = verdict(time, kind) if kind in ("verified", "proven", "damaged") else None
    note = Pin(reason="because") if pin else None
    return StoredSet(Path("/backups") / tier, identifier, tier, time, state, files, 100, made, found, problem, note)


def on_disk(
    root: Path,
    tier: Tier,
    time: datetime,
    kind: str = "verified",
    *,
    halves: str = "dm",
    name: str = "app",
    server: str = "7",
    zone: ZoneInfo = UTC_ZONE,
) -> str:
    """The same as files, without the care that a run takes; the id. A second that is taken is left."""
    folder = root / tier
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while (folder / manifest_name(identifier := f"{tier}_{time.astimezone(zone):{STAMP}}")).exists():
        time += timedelta(seconds=1)
    made = manifest(identifier, tier, time, halves=halves, name=name, server=server)
    for artifact in made.artifacts:
        (folder / artifact.file).write_text(identifier)
    if kind == "old script":
        return identifier
    sums = "".join(f"{artifact.stored_sha256}  {artifact.file}\n" for artifact in made.artifacts)
    (folder / file_name("set", identifier, "sha256")).write_text(sums)
    (folder / manifest_name(identifier)).write_bytes(to_json(made))
    if found := verdict(time, kind):
        (folder / verdict_name(identifier)).write_text(found.model_dump_json())
    if kind == "unreadable":
        (folder / manifest_name(identifier)).write_text("{")
    if kind == "incomplete":
        (folder / made.artifacts[0].file).unlink()
    return identifier
