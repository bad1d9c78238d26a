"""Sending a large file to an object store of this machine, beside what people use today. Ratios, in one run.

2 GB of bytes that do not pack, to Ceph's gateway in memory, of both releases that the tests have. Every contender is a
process of its own and runs once per round; in four rounds each comes once in each place and once behind each other.
`aws` and `rclone` take part if they are installed. `RELEASES=20 ROUNDS=8 python -m benchmarks.upload`.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backup.storage.s3 import Options, open_bucket

if TYPE_CHECKING:
    from tests.support.s3 import Service

ROUNDS = int(os.environ.get("ROUNDS", "4"))
RELEASES = os.environ.get("RELEASES", "18 20").split()
SIZE = int(os.environ.get("SIZE_MB", "2000")) * 1_000_000
BLOCK = 1 << 20
READ = 256 << 10  # as operations/offsite/send.py
PLAIN = "boto3, ten parts at once"
# A plain parallel client: what `aws s3 cp` and others of its kind do.
PARALLEL = """
import sys, boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
file, bucket, key, endpoint = sys.argv[1:]
config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)
s3.upload_file(file, bucket, key, Config=TransferConfig(max_concurrency=10))
"""
RCLONE = ("provider=Ceph", "env_auth=true", "endpoint={endpoint}", "region=us-east-1", "force_path_style=true")


def main() -> None:
    """Run the rounds, print the table; remove everything."""
    if sys.argv[1:2] == ["send"]:
        send(*sys.argv[2:])
        return
    # Here, because a contender's start counts: what sends has no use for it.
    from tests.support.s3 import ceph  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        file = Path(base) / "archive.tar.gz"
        with file.open("wb") as out:
            for _ in range(SIZE // BLOCK):
                out.write(os.urandom(BLOCK))
        with file.open("rb") as whole:
            file.with_suffix(".sha256").write_text(hashlib.file_digest(whole, "sha256").hexdigest())
        for release in RELEASES:
            with ceph(int(release), Path(base)) as service:
                taken = rounds(file, service)
            report(f"{file.stat().st_size / 1e6:,.0f} MB to Ceph {release}, {ROUNDS} rounds", taken)


def send(file: str, bucket: str, key: str, endpoint: str, digest: str) -> None:
    """The product's own way, with the digest that a manifest has; size and checksums are read back before it ends."""
    path = Path(file)
    options = Options(
        bucket=bucket, endpoint=endpoint, region="us-east-1", addressing="path", encryption="none",
        storage_class="STANDARD",
    )  # fmt: skip
    with path.open("rb") as source:
        open_bucket(options).put(key, iter(lambda: source.read(READ), b""), path.stat().st_size, sha256=digest)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)


def contenders(file: Path, bucket: str, endpoint: str) -> Iterator[tuple[str, list[str]]]:
    """Names and argv of those that are here."""
    ours = [sys.executable, "-m", "benchmarks.upload", "send", str(file), bucket, "ours", endpoint]
    yield "backup upload", [*ours, file.with_suffix(".sha256").read_text()]
    yield PLAIN, [sys.executable, "-c", PARALLEL, str(file), bucket, "boto3", endpoint]
    if aws := shutil.which("aws"):
        yield "aws s3 cp", [aws, "--endpoint-url", endpoint, "s3", "cp", "--quiet", str(file), f"s3://{bucket}/aws"]
    if rclone := shutil.which("rclone"):
        options = ",".join(RCLONE).format(endpoint=f"'{endpoint}'")
        yield "rclone copyto", [rclone, "copyto", str(file), f":s3,{options}:{bucket}/rclone"]


def rounds(file: Path, service: Service) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    taken: dict[str, list[float]] = {}
    from tests.support.s3 import OWNER  # noqa: PLC0415

    # rclone refuses to start with a bundle of certificates, and there is no TLS here.
    environment = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"} | {
        "AWS_ACCESS_KEY_ID": OWNER[0],
        "AWS_SECRET_ACCESS_KEY": OWNER[1],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    bucket = service.bucket()
    # The gateway's first upload takes some seconds more, whoever sends it: it makes what it keeps objects in.
    subprocess.run(dict(contenders(file, bucket, service.endpoint))[PLAIN], env=environment, check=True)
    empty(service, bucket)
    for number in range(ROUNDS):
        bucket = service.bucket()
        for name, argv in order(list(contenders(file, bucket, service.endpoint)), number):
            began = time.monotonic()
            done = subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            taken.setdefault(name, []).append(time.monotonic() - began)
            print(f"{name}: {taken[name][-1]:.2f} s {done.stdout.strip()}", file=sys.stderr, flush=True)
            empty(service, bucket)
    return taken


def order(entrants: list[tuple[str, list[str]]], number: int) -> list[tuple[str, list[str]]]:
    """Those of a round: 0 1 3 2, 1 2 0 3 and so on (Williams), because what one leaves behind burdens the next."""
    count = len(entrants)
    places = [(place + 1) // 2 if place % 2 else -place // 2 for place in range(count)]
    return [entrants[(place + number) % count] for place in places]


def empty(service: Service, bucket: str) -> None:
    """The store has little memory: what one contender sent goes before the next begins."""
    client = service.client()
    for entry in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=entry["Key"])
    # What is deleted is else kept in memory for hours.
    collect = ["docker", "exec", service.container, "radosgw-admin", "gc", "process", "--include-all"]
    subprocess.run(collect, check=True, capture_output=True)


def report(title: str, taken: dict[str, list[float]]) -> None:
    """The table: medians, ranges, and the speed beside the fastest of the others in the same round (the median)."""
    best = min((times for name, times in taken.items() if name != "backup upload"), key=statistics.median)
    print(f"\nuploads: {title}\n")
    print("| upload | median s | range s | speed beside the fastest other |\n|---|---|---|---|")
    for name, times in sorted(taken.items(), key=lambda item: statistics.median(item[1])):
        speed = statistics.median(fastest / time for fastest, time in zip(best, times, strict=True))
        print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f}–{max(times):.2f} | {speed:.2f} |")


if __name__ == "__main__":
    main()
