"""`verify` beside what people do today: `gunzip -t` and `sha256sum` of the same files. Ratios, in one run.

600 MB of SQL and 1 GB of media (nine of ten files incompressible), stored by the product's own writer. Every
contender runs once per round, in turn, from the disk; the table shows medians. `python -m benchmarks.verify`.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from backup.catalog.catalog import Catalog
from backup.media import archive_tree
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact, DatabasePart, Manifest, Tier, VolumePart
from backup.operations.verify.run import check_set
from backup.postgres.dump.dump_digest import Outline
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.staged_file import StagedFile

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SQL_BYTES = int(os.environ.get("SQL_MB", "600")) * 1_000_000
FILES, FILE_SIZE = int(os.environ.get("FILES", "2000")), 500_000
IDENTIFIER = "manual_2025-10-20_02-00-00"
HEAD = b"""--
-- PostgreSQL database dump
--

-- Dumped from database version 17.6
-- Dumped by pg_dump version 17.6

--
-- Data for Name: big; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.big (id, name, body, doc) FROM stdin;
"""
TAIL = b"\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
CLUSTER = b"--\n-- PostgreSQL database cluster dump\n--\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"


def main() -> None:
    """Build the sets, run the rounds, print the tables; remove everything."""
    with tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        for title, make in (("database", database), ("media", volume), ("both", everything)):
            stored = make(Path(base) / title)
            print(f"\n{title}: {stored.size / 1e6:,.0f} MB stored", flush=True)
            report(rounds(contenders(stored)))
    print(f"\npeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB")


def contenders(stored: StoredSet) -> dict[str, Callable[[], None]]:
    """What is compared: names and what runs them."""
    packed = [name for name in stored.files if name.endswith(".gz")]

    def shell(command: str) -> Callable[[], None]:
        return lambda: (forget(stored), subprocess.run(["bash", "-c", command], check=True, cwd=stored.directory))[0]

    def product(**options: object) -> Callable[[], None]:
        def run() -> None:
            forget(stored)
            assert check_set(stored, Silent(), **options).problems == []  # type: ignore[arg-type]

        return run

    return {
        "gunzip -t; sha256sum": shell(f"gunzip -t {' '.join(packed)} && sha256sum {' '.join(packed)} > /dev/null"),
        "sha256sum alone": shell(f"sha256sum {' '.join(packed)} > /dev/null"),
        "verify": product(),
        "verify with the outline of a drill": lambda: product(outline=Outline())(),
        "verify --quick": product(quick=True),
    }


def forget(stored: StoredSet) -> None:
    """Nothing is read from memory, by nobody."""
    os.sync()
    for name in stored.files:
        descriptor = os.open(stored.directory / name, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def rounds(all_of: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each contender, round by round."""
    taken: dict[str, list[float]] = {name: [] for name in all_of}
    for _ in range(ROUNDS):
        for name, run in all_of.items():
            start = time.monotonic()
            run()
            taken[name].append(time.monotonic() - start)
    return taken


def report(taken: dict[str, list[float]]) -> None:
    """The table: medians, ranges, and how many times faster than what people do today."""
    middle = {name: statistics.median(values) for name, values in taken.items()}
    print("\n| | median s | range s | times as fast as today |\n|---|---|---|---|")
    for name, value in middle.items():
        spread = f"{min(taken[name]):.2f}–{max(taken[name]):.2f}"
        print(f"| {name} | {value:.2f} | {spread} | {middle['gunzip -t; sha256sum'] / value:.1f} |", flush=True)


def database(root: Path) -> StoredSet:
    """A set of one dump and of no roles to speak of."""
    return published(root, with_database=True, with_volume=False)


def volume(root: Path) -> StoredSet:
    """A set of one volume."""
    return published(root, with_database=False, with_volume=True)


def everything(root: Path) -> StoredSet:
    """A set of both."""
    return published(root, with_database=True, with_volume=True)


def published(root: Path, *, with_database: bool, with_volume: bool) -> StoredSet:
    catalog, made = Catalog(root, ZoneInfo("UTC")), []
    moment = datetime(2025, 10, 20, 2, tzinfo=UTC)
    part, volumes = None, ()
    with ExitStack() as stack:
        if with_database:
            part = _dump(catalog, stack, made)
        if with_volume:
            volumes = (_archive(root, catalog, stack, made),)
        manifest = Manifest(
            id=IDENTIFIER, tier=Tier.MANUAL, run="b", started=moment, ended=moment, started_local="", ended_local="",
            zone="UTC", product_version="0", artifacts=tuple(a for a, _ in made), database=part, volumes=volumes,
        )  # fmt: skip
        catalog.publish(manifest, [staged for _, staged in made])
    return catalog.find(IDENTIFIER)


Made = list[tuple[Artifact, StagedFile]]


def _dump(catalog: Catalog, stack: ExitStack, made: Made) -> DatabasePart:
    roles = stack.enter_context(ArtifactWriter(catalog.store(Tier.MANUAL), f"obcms_roles_{IDENTIFIER}.sql.gz", "roles"))
    roles.write(CLUSTER)
    made.append((roles.finish(), roles.staged))
    file = f"obcms_backup_{IDENTIFIER}.sql.gz"
    writer = stack.enter_context(ArtifactWriter(catalog.store(Tier.MANUAL), file, "database"))
    writer.write(HEAD)
    count = 0
    for block in _rows():
        writer.write(block)
        count += block.count(b"\n")
    writer.write(TAIL)
    made.append((writer.finish(), writer.staged))
    return DatabasePart(
        name="bench", oid=1, system_identifier="1", server_version="17.6", client_version="17.6",
        command=("pg_dump",), rows={"public.big": count},
    )  # fmt: skip


def _rows() -> Iterator[bytes]:
    """Blocks of about a megabyte of text, numbers and jsonb, as an OBCMS database holds."""
    source, size = random.Random(1), 0
    while size < SQL_BYTES:
        words = [source.randbytes(8).hex() for _ in range(400)]
        block = "".join(
            f"{n}\t{words[n % 400]} {words[n % 7]}\tVisited the community of {words[n % 11]} about case"
            f" {words[n * 7 % 400]}{words[n * 3 % 397]}. The assessment by {words[n % 5]} is done."
            f'\t{{"id": {n}, "tags": ["{words[n % 13]}"], "zip": {n % 99999}, "head": {n * 3}}}\n'
            for n in range(5000)
        ).encode()
        size += len(block)
        yield block


def _archive(root: Path, catalog: Catalog, stack: ExitStack, made: Made) -> VolumePart:
    tree = root / "tree"
    _media_tree(tree)
    store = catalog.store(Tier.MANUAL)
    writer = stack.enter_context(ArtifactWriter(store, f"obcms_media_{IDENTIFIER}.tar.gz", "volume", "media"))
    listing = stack.enter_context(ArtifactWriter(store, f"obcms_media_{IDENTIFIER}.files.gz", "index", "media"))
    found = archive_tree.archive(tree, "media", writer, listing)
    made += [(each.finish(), each.staged) for each in (writer, listing)]
    return VolumePart(
        name="media", files=found.files, directories=found.directories, links=0, hard_links=0, bytes=found.bytes,
        excludes=(),
    )  # fmt: skip


def _media_tree(tree: Path) -> None:
    source = random.Random(1)
    for number in range(FILES):
        folder = tree / f"{number % 30:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        text = b"plain text that packs well " * (FILE_SIZE // 27)
        (folder / f"{number:05d}").write_bytes(text if number % 10 == 0 else source.randbytes(FILE_SIZE))


if __name__ == "__main__":
    main()
