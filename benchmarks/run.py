"""Side by side with what users do today, in one run, as ratios. `make bench` prints the tables, and keeps the ratios.

Database: at least 1 GB with text, jsonb and indexes. Media: 1.5 GB in 3,000 files, mostly incompressible. Every
contender runs once per round, in turn; the table shows medians. The product runs as the shipped image, confined as
the overlay confines it, and is timed by its own run record: read-back from the disk included.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import docker

from benchmarks import results

IMAGE = os.environ.get("IMAGE", "obcms-backup:latest")
# Of PostgreSQL. From 18 on a dump brings the planner's statistics.
VERSION = os.environ.get("VERSION", "17")
# Further settings of the product.
ENVIRONMENT: dict[str, str] = {}
LABEL = "obcms.backup.tests"
# A process keeps one core busy meanwhile.
BUSY = bool(os.environ.get("BUSY"))
WORSE: list[str] = []
ROUNDS = int(os.environ.get("ROUNDS", "3"))
ROWS = int(os.environ.get("ROWS", "1700000"))
FILES, FILE_SIZE = 3000, 500_000
# Names, text, jsonb and numbers, with indexes: what a community-management system holds. gzip packs it 2.5 to 1.
SEED = """
    CREATE TABLE big (id bigserial PRIMARY KEY, name text, body text, doc jsonb, created timestamptz, n numeric);
    INSERT INTO big (name, body, doc, created, n)
    SELECT initcap(left(md5(i::text), 8)) || ' ' || initcap(left(md5((i * 3)::text), 6)),
           'Visited the community of ' || left(md5((i %% 5000)::text), 9) || ' about case ' || md5((i * 7)::text)
             || '. The assessment by ' || left(md5((i %% 300)::text), 7) || ' is ' || md5((i * 11)::text)
             || ', reviewed on ' || (i %% 28 + 1) || ' October, reference ' || md5((i * 13)::text) || '.',
           jsonb_build_object('id', i, 'tags', ARRAY[left(md5((i %% 997)::text), 6), md5((i * 17)::text)],
                              'zip', i %% 99999, 'household', jsonb_build_object('size', i %% 9, 'head', i * 3)),
           now() - (i || ' seconds')::interval, i * 1.37
      FROM generate_series(1, %d) i;
    CREATE INDEX ON big (name); CREATE INDEX ON big USING gin (doc jsonb_path_ops); CREATE INDEX ON big (created);
"""

# What a Django application holds: tables that name each other by foreign keys, with indexes on those and on searched
# columns, all B-trees. ROWS are those of its largest table.
APPLICATION = """
    CREATE TABLE auth_user (id bigint PRIMARY KEY, username text NOT NULL UNIQUE, email text, joined timestamptz);
    CREATE TABLE community (id bigint PRIMARY KEY, name text NOT NULL, code varchar(20) NOT NULL UNIQUE,
      parent_id bigint);
    CREATE TABLE app_case (id bigint PRIMARY KEY, title text, body text, status varchar(20), opened timestamptz,
      community_id bigint NOT NULL, owner_id bigint NOT NULL);
    CREATE TABLE note (id bigint PRIMARY KEY, case_id bigint NOT NULL, author_id bigint NOT NULL, body text,
      created timestamptz);
    CREATE TABLE document (id bigint PRIMARY KEY, case_id bigint NOT NULL, uploader_id bigint, file varchar(200),
      sha256 char(64), created timestamptz);
    CREATE TABLE audit_log (id bigint PRIMARY KEY, actor_id bigint, verb text, object_id bigint, changes jsonb,
      at timestamptz);
    INSERT INTO auth_user SELECT i, 'user' || i, 'user' || i || '@example.org', now()
      FROM generate_series(1, %(tenth)d) i;
    INSERT INTO community SELECT i, 'Community ' || md5(i::text), 'C' || i, i / 10 + 1 FROM generate_series(1, 5000) i;
    INSERT INTO app_case SELECT i, 'Case ' || md5(i::text), repeat(md5((i * 7)::text) || ' ', 12),
      (ARRAY['open', 'closed', 'waiting'])[i %% 3 + 1], now() - (i || ' seconds')::interval, i %% 5000 + 1,
      (i * 7919::bigint) %% %(tenth)d + 1 FROM generate_series(1, %(half)d) i;
    INSERT INTO note SELECT i, (i * 7919::bigint) %% %(half)d + 1, (i * 31::bigint) %% %(tenth)d + 1,
      repeat(md5((i * 3)::text) || ' ', 6), now() - (i || ' seconds')::interval FROM generate_series(1, %(rows)d) i;
    INSERT INTO document SELECT i, (i * 104729::bigint) %% %(half)d + 1, i %% %(tenth)d + 1,
      'documents/2025/' || md5(i::text) || '.pdf', md5(i::text) || md5((i + 1)::text), now()
      FROM generate_series(1, %(half)d) i;
    INSERT INTO audit_log SELECT i, (i * 13::bigint) %% %(tenth)d + 1, 'changed', i,
      jsonb_build_object('status', i %% 9, 'by', md5(i::text)), now() - (i || ' seconds')::interval
      FROM generate_series(1, %(rows)d) i;
    CREATE INDEX ON app_case (community_id); CREATE INDEX ON app_case (owner_id); CREATE INDEX ON app_case (opened);
    CREATE INDEX ON app_case (title text_pattern_ops); CREATE INDEX ON community (parent_id);
    CREATE INDEX ON note (case_id); CREATE INDEX ON note (author_id); CREATE INDEX ON note (created);
    CREATE INDEX ON document (case_id); CREATE INDEX ON document (uploader_id); CREATE INDEX ON document (file);
    CREATE INDEX ON audit_log (actor_id); CREATE INDEX ON audit_log (at); CREATE INDEX ON audit_log (verb, object_id);
    ALTER TABLE community ADD FOREIGN KEY (parent_id) REFERENCES community DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE app_case ADD FOREIGN KEY (community_id) REFERENCES community DEFERRABLE INITIALLY DEFERRED,
      ADD FOREIGN KEY (owner_id) REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE note ADD FOREIGN KEY (case_id) REFERENCES app_case DEFERRABLE INITIALLY DEFERRED,
      ADD FOREIGN KEY (author_id) REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE document ADD FOREIGN KEY (case_id) REFERENCES app_case DEFERRABLE INITIALLY DEFERRED,
      ADD FOREIGN KEY (uploader_id) REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE audit_log ADD FOREIGN KEY (actor_id) REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED;
"""
# One table, and nothing beside it to be made meanwhile.
SINGLE = """
    CREATE TABLE big (id bigint PRIMARY KEY, name text, body text, created timestamptz);
    INSERT INTO big SELECT i, md5(i::text), repeat(md5((i * 7)::text) || ' ', 28), now() - (i || ' seconds')::interval
      FROM generate_series(1, %d) i;
    CREATE INDEX ON big (name); CREATE INDEX ON big (created);
"""
SHAPE = os.environ.get("SHAPE", "document")


def seed(rows: int) -> str:
    """The SQL that fills the database: SHAPE=application, single, or document, whose GIN index is most of a load."""
    if SHAPE == "application":
        return APPLICATION % {"rows": rows, "half": rows // 2, "tenth": rows // 10}
    return (SINGLE if SHAPE == "single" else SEED) % rows


def main() -> None:
    """Build the data, run the rounds, print the table; remove everything."""
    client = docker.from_env()
    with judged(), tempfile.TemporaryDirectory(prefix="obcms-bench-", dir=os.environ.get("BENCH_DIR")) as base:
        directory = Path(base)
        with database(client, *LARGE) as source:
            report("database", database_rounds(client, source, directory), floor="pg_dump > /dev/null")
        media_tree(directory / "volumes" / "media")
        report("media", media_rounds(client, directory), floor="read alone (cat > /dev/null)")


# What the benchmark of backups runs on. Loads are measured on a server as it comes, without any of this.
LARGE = ("-c", "max_wal_size=4GB", "-c", "shared_buffers=512MB")


@contextmanager
def server(client: Any, *settings: str) -> Iterator[Any]:
    """A PostgreSQL server with these arguments, as Compose would have made it."""
    container = client.containers.run(
        f"obcms-test/postgres:{VERSION}",
        ["postgres", *settings],
        detach=True,
        labels={
            LABEL: "bench",
            "com.docker.compose.project": "obcms-bench",
            "com.docker.compose.service": "db",
            "com.docker.compose.oneoff": "False",
        },
        environment={"POSTGRES_USER": "obcms", "POSTGRES_PASSWORD": "bench", "POSTGRES_DB": "obcms"},
    )
    try:
        wait_for(container)
        yield container
    finally:
        container.remove(force=True, v=True)


@contextmanager
def database(client: Any, *settings: str, rows: int = ROWS) -> Iterator[Any]:
    """A PostgreSQL server with the benchmark's data."""
    with server(client, *settings) as container:
        psql = "psql -qAtX -h 127.0.0.1 -U obcms obcms -c"
        inside(container, f"{psql} \"{seed(rows)}\" && {psql} 'VACUUM ANALYZE' && {psql} CHECKPOINT")
        size = inside(container, f"{psql} 'SELECT pg_size_pretty(pg_database_size(current_database()))'")
        say(f"database: {size.strip()}, {rows:,} rows, PostgreSQL {VERSION}")
        yield container


def database_rounds(client: Any, source: Any, directory: Path) -> dict[str, list[float]]:
    """Seconds of each contender, round by round."""
    dump = "pg_dump -h 127.0.0.1 -U obcms --clean --if-exists obcms"
    contenders: dict[str, Callable[[], float]] = {
        "pg_dump > /dev/null": lambda: timed_inside(source, f"{dump} > /dev/null"),
        "backup create --only database": lambda: created(client, directory, "database"),
        "pg_dump, gzip > file": lambda: timed_inside(source, f"{dump} | gzip > /tmp/x.gz; rm -f /tmp/x.gz"),
        "pg_dump, gzip -1 > file": lambda: timed_inside(source, f"{dump} | gzip -1 > /tmp/x.gz; rm -f /tmp/x.gz"),
    }
    return rounds(contenders)


def media_rounds(client: Any, directory: Path) -> dict[str, list[float]]:
    """Seconds of each contender, round by round."""
    volumes, archive = directory / "volumes", directory / "x.tar.gz"
    contenders: dict[str, Callable[[], float]] = {
        "read alone (cat > /dev/null)": lambda: timed(f"cat {volumes}/media/*/* > /dev/null"),
        "backup create --only media": lambda: created(client, directory, "media"),
        "tar czf": lambda: timed(f"tar czf {archive} -C {volumes} media; rm -f {archive}"),
    }
    return rounds(contenders)


def rounds(contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Every contender once per round, in turn, so that a slow minute of the machine hits all."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            taken[name].append(run())
            say(f"{name}: {taken[name][-1]:.2f} s")
    return taken


def created(client: Any, directory: Path, only: str) -> float:
    """One set by the shipped image: seconds by its run record. Its memory is watched meanwhile."""
    try:
        with product(client, directory, "create", "manual", "--only", only, "--json") as container:
            peak = watch_memory(container)
            output = said(container)
    finally:
        shutil.rmtree(directory / "backups" / "manual", ignore_errors=True)
    PEAKS.setdefault(only, []).append(peak)
    return float(json.loads(output)["phase_seconds"]["total"])


@contextmanager
def product(client: Any, directory: Path, *command: str, **other: Any) -> Iterator[Any]:
    """A container of the shipped image that runs a command, confined as the overlay confines it; `other` than that."""
    root, spool, volumes = (directory / name for name in ("backups", "spool", "volumes"))
    for path in (root, spool, volumes / "media"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    container = client.containers.run(
        IMAGE,
        list(command),
        detach=True,
        read_only=True,
        cap_drop=["ALL"],
        cap_add=["DAC_READ_SEARCH"],
        tmpfs={"/tmp": "", "/run": ""},
        environment={"BACKUP_PROJECT": "obcms-bench", "BACKUP_STALL_TIMEOUT": "300", **ENVIRONMENT},
        labels={LABEL: "bench"},
        volumes=[
            f"{root}:/backups",
            f"{spool}:/spool",
            f"{volumes}/media:/volumes/media:ro",
            f"{os.environ.get('DOCKER_SOCKET', '/var/run/docker.sock')}:/var/run/docker.sock",
        ],
        **other,
    )
    try:
        yield container
    finally:
        container.remove(force=True)


def said(container: Any) -> str:
    """Its stdout, when it has ended; a failure ends the benchmark."""
    if container.wait()["StatusCode"]:
        sys.exit(container.logs().decode())
    return str(container.logs(stdout=True, stderr=False).decode())


PEAKS: dict[str, list[float]] = {}


def watch_memory(container: Any) -> float:
    """Largest resident memory of the container's processes until it ends, in MB (page cache left out)."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            pid = container.client.api.inspect_container(container.id)["State"]["Pid"]
            if pid:
                peak = max(peak, resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    container.wait()
    done.set()
    watcher.join()
    return peak


def resident(pid: int) -> float:
    """VmRSS of a process, in MB; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS")), 0.0)


def media_tree(root: Path) -> None:
    """3,000 files of half a megabyte; nine of ten incompressible, as pictures and PDFs are."""
    source = random.Random(1)
    for number in range(FILES):
        folder = root / f"{number % 30:02d}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = b"plain text that packs well " * (FILE_SIZE // 27)
        (folder / f"file {number:04d}").write_bytes(text if number % 10 == 0 else source.randbytes(FILE_SIZE))
    say(f"media: {FILES:,} files, {FILES * FILE_SIZE / 1e9:.1f} GB")


def report(
    title: str,
    taken: dict[str, list[float]],
    floor: str,
    middle_of: Callable[[list[float]], float] = statistics.median,
    word: str = "median",
) -> None:
    """The table: median (or best) seconds, range, and the ratio to the product and to the floor. It is kept, too."""
    middle = {name: middle_of(values) for name, values in taken.items()}
    ours = next(name for name in middle if name.startswith("backup"))
    say(f"\n| {title} | {word} s | range s | times the floor | times the product |\n|---|---|---|---|---|")
    for name, value in middle.items():
        spread = f"{min(taken[name]):.2f}–{max(taken[name]):.2f}"
        say(f"| {name} | {value:.2f} | {spread} | {value / middle[floor]:.2f} | {value / middle[ours]:.2f} |")
    if peaks := PEAKS.get(ours.split()[-1]):
        say(f"\npeak memory of the product: {max(peaks):.0f} MB\n")
    WORSE.extend(results.keep(f"{title}, PostgreSQL {VERSION}{', a core busy' if BUSY else ''}", taken, floor))


@contextmanager
def judged() -> Iterator[None]:
    """In the body there are benchmarks; an error at its end where the product is worse than what is committed."""
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) if BUSY else nullcontext() as other:
        try:
            yield
        finally:
            if other:
                other.kill()
    if WORSE:
        sys.exit("worse than the committed benchmarks/RESULTS.md by 15 % or more:\n" + "\n".join(WORSE))


def timed(command: str) -> float:
    start = time.monotonic()
    subprocess.run(["bash", "-c", command], check=True)
    return time.monotonic() - start


def timed_inside(container: Any, command: str) -> float:
    """Seconds of a shell command by the container's own clock: no engine overhead is counted."""
    output = inside(container, f"TIMEFORMAT=%R; set -o pipefail; time {{ {command}; }}")
    return float(output.strip().splitlines()[-1])


def inside(container: Any, command: str) -> str:
    code, output = container.exec_run(["bash", "-c", command])
    if code:
        sys.exit(f"{command}\n{output.decode()}")
    return str(output.decode())


def wait_for(container: Any) -> None:
    deadline = time.monotonic() + 60
    while container.exec_run(["pg_isready", "-q", "-h", "127.0.0.1", "-U", "obcms"])[0]:
        if time.monotonic() > deadline:
            sys.exit(container.logs().decode())
        time.sleep(0.2)
    time.sleep(1)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
