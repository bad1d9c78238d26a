"""Ten thousand sets: what `list`, `status`, the page and /healthz take then, in seconds and megabytes.

    .venv/bin/python -m benchmarks.many_sets [SETS] [DIRECTORY]

The sets are small ones of an application with 120 tables and one volume: seven files each, verified, every tenth
proven, ten a day. By hand: no test depends on how fast a machine is.
"""

from __future__ import annotations

import http.client
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.config.loader import load_settings
from backup.model.backup_set import LoadTest, Proof, Verdict, manifest_name, verdict_name
from backup.model.manifest import Artifact, DatabasePart, Manifest, Tier, VolumePart, file_name, set_id, to_json
from backup.operations.status import overview
from backup.service.web.app import create_app
from backup.service.web.server import HttpServer, bind

ROOT = Path(__file__).resolve().parents[1]
SHA = "ab" * 32
FILES = (
    ("database", "", "backup", "sql.gz"),
    ("roles", "", "roles", "sql.gz"),
    ("volume", "media", "media", "tar.gz"),
    ("index", "media", "media", "files.gz"),
)
ROWS = {f"public.app_{number:03}_of_a_module": number * 997 % 50_000 for number in range(120)}


def plant(root: Path, count: int, now: datetime) -> None:
    """So many sets, ten a day back from now; every tenth is a weekly one."""
    zone = load_settings().zone
    for number in range(count):
        time_ = now - timedelta(hours=1 + 2.4 * number)
        tier = Tier.WEEKLY if number % 10 == 9 else Tier.DAILY
        identifier = set_id(tier, time_, zone)
        write(root / tier, manifest(identifier, tier, time_), proven=number % 10 == 9)


def write(folder: Path, made: Manifest, *, proven: bool) -> None:
    """The files of one set, without the care that a run takes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for artifact in made.artifacts:
        (folder / artifact.file).write_bytes(bytes(artifact.stored_size))
    sums = "".join(f"{artifact.stored_sha256}  {artifact.file}\n" for artifact in made.artifacts)
    (folder / file_name("set", made.id, "sha256")).write_text(sums)
    (folder / manifest_name(made.id)).write_bytes(to_json(made))
    proof = Proof(tried=made.ended, server_version="17.2", seconds={"restore": 3.0, "total": 9.5}) if proven else None
    found = Verdict(checked=made.ended, proof=proof, load_test=LoadTest(tried=made.ended, server_version="17.2"))
    (folder / verdict_name(made.id)).write_text(found.model_dump_json(indent=2))


def manifest(identifier: str, tier: Tier, taken: datetime) -> Manifest:
    """As `create` writes it for a small application."""
    artifacts = tuple(
        Artifact(
            kind=kind,  # type: ignore[arg-type]
            name=name,
            file=file_name(what, identifier, suffix),
            stored_size=40 + len(what),
            stored_sha256=SHA,
            plain_size=400,
            plain_sha256="" if kind == "volume" else SHA,
        )
        for kind, name, what, suffix in FILES
    )
    database = DatabasePart(
        name="obcms_prod", oid=16384, system_identifier="7423423423423423423", server_version="17.2",
        image="postgres:17", image_id=f"sha256:{SHA}", size=120_000_000, client_version="17.2", command=("pg_dump",),
        rows=ROWS, definitions=SHA, environment=SHA,
    )  # fmt: skip
    volume = VolumePart(
        name="media", files=1200, directories=30, links=0, hard_links=0, bytes=9 * 10**8, excludes=("*.tmp",)
    )
    return Manifest(
        id=identifier, tier=tier, run="20251020T020000Z-3f9a1c", started=taken, ended=taken + timedelta(seconds=20),
        started_local=f"{taken}", ended_local=f"{taken}", zone="UTC", product_version="1", artifacts=artifacts,
        database=database, volumes=(volume,),
    )  # fmt: skip


def command(*words: str) -> None:
    """Run a command of the product and print what it took."""
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, str(ROOT / "entrypoint.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout
        told = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begun
    print(
        f"{' '.join(words):24} {seconds:6.2f} s {used.ru_maxrss / 1000:6.0f} MB"
        f"  CPU {used.ru_utime + used.ru_stime:.2f} s, exit {child.returncode}, {len(told):,} bytes"
    )


def service(root: Path) -> None:
    """Ask the HTTP application of the service, in this process."""
    settings = load_settings()
    catalog, records = Catalog(root, settings.zone), Records(root / "state" / "runs")
    app = create_app(
        scheduler=lambda: "alive",
        overview=lambda: overview(settings, catalog, records, datetime.now(UTC), scheduler="alive"),
        ready=lambda: None,
    )
    with ExitStack() as stack:
        listener = stack.enter_context(bind("127.0.0.1", 0))
        stack.enter_context(HttpServer(app, listener))
        for path in ("/healthz", "/healthz", "/healthz", "/healthz", "/", "/metrics", "/api/status"):
            begun = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=120)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            seconds = time.monotonic() - begun
            print(f"{path:24} {seconds:6.2f} s            HTTP {response.status}, {len(body):,} bytes")
            connection.close()
            time.sleep(3)
    print(f"{'the service':24} {'':8} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:6.0f} MB")


def main() -> None:
    """Plant unless they are there, then measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="obcms-many-") as made:
        root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(made)
        os.environ["BACKUP_DIR"] = str(root)
        (root / "state").mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (root / Tier.DAILY).exists():
            plant(root, count, datetime.now(UTC))
        for words in (("list",), ("list",), ("status",), ("status",), ("list", "--json"), ("status", "--json")):
            command(*words)
        service(root)


if __name__ == "__main__":
    main()
