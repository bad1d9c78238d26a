"""WAL, base backups and windows by hand: as values for the pure rules, and on a disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from backup.catalog.wal_archive import StreamFile, WalArchive
from backup.model.manifest import Artifact, ArtifactKind
from backup.model.wal import Base, Received, Segment, SegmentId, Stream, lsn_text, spans
from backup.monitoring.window import OffsiteWindow, Window

SIZE = 16 << 20
SYSTEM = "7400000000000000001"
SHA = "0" * 64


def an_artifact(kind: ArtifactKind, file: str, size: int) -> Artifact:
    return Artifact(kind=kind, file=file, stored_size=size, stored_sha256=SHA, plain_size=size, plain_sha256=SHA)


def a_base(
    number: int, ended: datetime, *, system: str = SYSTEM, timeline: int = 1, size: int = 20_000_000, name: str = ""
) -> Base:
    """A base that begins and ends in the segment of this number."""
    identifier = name or f"base_{ended:%Y-%m-%d_%H-%M-%S}"
    return Base(
        id=identifier,
        run="r",
        started=ended - timedelta(minutes=1),
        ended=ended,
        timeline=timeline,
        start=lsn_text(number * SIZE + 40),
        end=lsn_text(number * SIZE + 4000),
        system_identifier=system,
        server_version="17.12",
        user="obcms_user",
        databases=("obcms_prod",),
        size=SIZE,
        bytes=252_000_000,
        artifact=an_artifact("base", f"{identifier if not name else 'x'}.tar.gz", size),
    )


def a_stream(
    number: int,
    level: datetime | None,
    looked: datetime,
    *,
    system: str = SYSTEM,
    state: str = "streaming",
    **more: object,
) -> Stream:
    """A stream that is receiving the segment of this number, with 4 kB still to come."""
    at = number * SIZE + 8000
    known = {"received": lsn_text(at), "current": lsn_text(at + 4096), "system_identifier": system, "timeline": 1}
    return Stream.model_validate({"looked": looked, "state": state, "level": level, **known, **more})


def a_window(
    now: datetime, bases: Iterable[Base] = (), whole: dict[int, datetime] | None = None, **more: object
) -> Window:
    """What the rules see of these bases and whole segments; `more` are fields of Window."""
    held = {SegmentId(1, number): moment for number, moment in (whole or {}).items()}
    stream = more.get("stream")
    assert stream is None or isinstance(stream, Stream)
    ordered = sorted(bases, key=lambda base: base.ended)
    window = Window(
        keep=timedelta(days=7),
        max_lag=timedelta(seconds=300),
        base_age=timedelta(hours=36),
        spans=tuple(spans(ordered, Received(held, stream))),
        bases=tuple(ordered),
        segments=len(held),
        segment_bytes=3_000_000 * len(held),
        begun=now - timedelta(days=9),
    )
    return replace(window, **more)  # type: ignore[arg-type]


def broken_window(now: datetime) -> Window:
    """Nightly bases, a stream, and a gap of two minutes, sixteen hours ago."""
    gap = now - timedelta(hours=16)
    whole = {n: now - timedelta(days=6) + timedelta(hours=n) for n in range(10, 128)}
    whole |= {127: gap} | {n: gap + timedelta(hours=n - 130) for n in range(131, 145)}
    nights = [a_base(10 + 24 * n, now - timedelta(days=6 - n) + timedelta(hours=10)) for n in range(5)]
    bases = [*nights, a_base(130, gap + timedelta(minutes=2)), a_base(138, gap + timedelta(hours=8))]
    return a_window(
        now, bases, whole | {130: gap + timedelta(minutes=9)}, stream=a_stream(145, now - timedelta(seconds=0.4), now)
    )


def offsite_window(now: datetime, here: Window) -> OffsiteWindow:
    """What a bucket alone brings back of a window: all but the last 40 seconds."""
    last, stream = here.spans[-1], a_stream(145, now - timedelta(seconds=40), now)
    return OffsiteWindow(
        here.keep,
        here.max_lag + timedelta(minutes=2),
        here.base_age,
        (*here.spans[:-1], replace(last, end=now - timedelta(seconds=40))),
        here.bases,
        stream,
        here.segments,
        here.segment_bytes,
        place="s3",
        name="s3://obcms-backups",
        every=timedelta(minutes=1),
    )


def on_disk(root: Path, bases: Iterable[Base], whole: dict[int, datetime], stream: Stream | None = None) -> WalArchive:
    """The same in a backup volume: the last whole segment waits to be packed, the others are."""
    archive = WalArchive(root, SYSTEM)
    archive.prepare()
    for base in bases:
        (archive.bases.directory / base.artifact.file).write_bytes(b"b" * base.artifact.stored_size)
        (archive.bases.directory / f"{base.id}.json").write_text(base.model_dump_json())
    *packed, last = sorted(whole)
    for number in packed:
        name = SegmentId(1, number).name(SIZE)
        with archive.segments.stage(f"{name}.gz") as staged:
            staged.write(b"wal")
            staged.seal()
            artifact = an_artifact("segment", f"{name}.gz", 3)
            archive.keep(Segment(name=name, artifact=artifact, received=whole[number]), staged)
    raw = archive.stream.directory / SegmentId(1, last).name(SIZE)
    with raw.open("wb") as file:
        file.truncate(SIZE)
    if stream:
        (root / "state").mkdir(exist_ok=True)
        StreamFile(root).write(stream)
    return archive
