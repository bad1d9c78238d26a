"""Sets and runs as data, of any age and content, for the pure rules; and the same sets on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backup.catalog.catalog import Catalog
from backup.model.backup_set import Proof, SetState, StoredSet, Verdict
from backup.model.manifest import Artifact, DatabasePart, Manifest, Tier, VolumePart, set_id
from backup.model.run import Outcome, Run
from backup.storage.directory import LocalStore

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
MB = 10**6
ROWS = {"public.person": 900, "public.visit": 4100}


def a_set(
    hours: float,
    state: SetState = "complete",
    *,
    tier: Tier = Tier.DAILY,
    rows: Mapping[str, int] | None = ROWS,
    dump: int = 4 * MB,
    volumes: Mapping[str, tuple[int, int]] | None = None,
    size: int = 10 * MB,
    proof: str = "",
    verified: bool = True,
    server: str = "7",
    now: datetime = NOW,
) -> StoredSet:
    """A set of `hours` ago. `volumes` maps names to (files, bytes); `proof` is proven, different or nothing."""
    time = now - timedelta(hours=hours)
    identifier = set_id(tier, time, UTC_ZONE)
    manifest = a_manifest(
        identifier, tier, time, rows, dump, {"media": (50, 5 * MB)} if volumes is None else volumes, server
    )
    different = ("public.visit: other rows", "public.person: other rows")
    shown = (
        Proof(tried=time, differences=() if proof == "proven" else different, seconds={"total": 12.5})
        if proof
        else None
    )
    known = state not in ("old script", "unreadable")
    return StoredSet(
        directory=Path("/backups") / tier,
        id=identifier,
        tier=tier,
        time=time,
        state=state,
        files=(),
        size=size,
        manifest=manifest if known else None,
        verdict=Verdict(checked=time, proof=shown) if verified and known else None,
        problem="" if state.startswith("complete") else "the disk returned other bytes",
    )


def a_manifest(
    identifier: str,
    tier: Tier,
    time: datetime,
    rows: Mapping[str, int] | None,
    dump: int,
    volumes: Mapping[str, tuple[int, int]],
    server: str = "7",
    artifacts: tuple[Artifact, ...] | None = None,
) -> Manifest:
    dumped = Artifact(
        kind="database",
        file="a.sql.gz",
        stored_size=dump // 4,
        stored_sha256="0" * 64,
        plain_size=dump,
        plain_sha256="0" * 64,
    )
    database = DatabasePart(
        name="obcms", oid=1, system_identifier=server, server_version="17", client_version="17", command=(),
        rows=dict(rows or {}),
    )  # fmt: skip
    parts = tuple(
        VolumePart(name=name, files=files, directories=1, links=0, hard_links=0, bytes=count, excludes=())
        for name, (files, count) in volumes.items()
    )
    return Manifest(
        id=identifier,
        tier=tier,
        run="r",
        started=time,
        ended=time,
        started_local="",
        ended_local="",
        zone="UTC",
        product_version="0",
        artifacts=((dumped,) if rows is not None else ()) if artifacts is None else artifacts,
        database=database if rows is not None else None,
        volumes=parts,
    )


def a_run(
    hours: float,
    outcome: Outcome = Outcome.SUCCESS,
    message: str = "",
    *,
    hint: str = "",
    operation: str = "create",
    tier: str = "daily",
    only: str = "",
    set: str = "",
    now: datetime = NOW,
) -> Run:
    """A run that began `hours` ago."""
    started = now - timedelta(hours=hours)
    return Run(
        id=f"{started:%Y%m%dT%H%M%SZ}-abcdef", operation=operation, tier=tier, only=only, started=started,
        outcome=outcome, message=message, hint=hint, set=set, seconds={"total": 4.2},
    )  # fmt: skip


def on_disk(root: Path, *hours: float, proven: bool = False, volume: str = "media") -> list[str]:
    """Whole sets of the given ages, by the real clock, as the product leaves them; their ids."""
    catalog, ids = Catalog(root, UTC_ZONE), []
    for each in hours:
        time = datetime.now(UTC) - timedelta(hours=each)
        identifier = set_id(Tier.DAILY, time, UTC_ZONE)
        manifest = a_manifest(identifier, Tier.DAILY, time, ROWS, 4 * MB, {volume: (50, 5 * MB)}, artifacts=())
        catalog.publish(manifest, [])
        proof = Proof(tried=time, seconds={"total": 12.5}) if proven else None
        note = f"obcms_set_{identifier}.verdict"
        LocalStore(root / "daily").put(note, Verdict(checked=time, proof=proof).model_dump_json().encode())
        ids.append(identifier)
    return ids
