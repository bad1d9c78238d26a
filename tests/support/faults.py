"""An independent judge of a backup volume, and the means to break things. Nothing here asks the product.

Only names, plain gzip, SHA-256 lists and the engine are looked at, as somebody would with no product at hand.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.support.database import Server
from tests.support.sidecar import Result, Sidecar

TIERS = ("daily", "weekly", "monthly", "manual", "pre-restore", "snapshot")
_INSTANCE = "obcms.backup.instance"
_T = TypeVar("_T")


def eventually(what: Callable[[], _T], seconds: float = 20, pause: float = 0.02) -> _T:
    """The first true answer of `what`."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(pause)
    return answer


def seeded() -> random.Random:
    """Random moments from a seed that is printed; SEED repeats them."""
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    print(f"SEED={seed}")
    return random.Random(seed)


# --- the judge ---------------------------------------------------------------------------------------------------


def judge(root: Path) -> list[str]:
    """Everything under a final name is whole; the ids of the sets (those with a manifest), sorted."""
    found = []
    for tier in TIERS:
        names = sorted(p.name for p in (root / tier).glob("obcms_*") if p.is_file())
        for name in names:
            _whole(root / tier / name)
        for name in names:
            if name.endswith(".json"):
                found.append(_complete(root / tier, name, names))
    return sorted(found)


def unfinished(root: Path) -> list[str]:
    """What work that did not end left: hidden files, and files of our names that no manifest lists."""
    hidden = [str(p.relative_to(root)) for p in root.rglob(".*")]
    listed = set()
    for path in root.glob("*/obcms_set_*.json"):
        listed |= {path.name, path.with_suffix(".sha256").name, path.with_suffix(".verdict").name}
        listed.add(path.with_suffix(".pin").name)
        listed |= {artifact["file"] for artifact in json.loads(path.read_bytes())["artifacts"]}
    orphans = [p.name for tier in TIERS for p in (root / tier).glob("obcms_*") if p.name not in listed]
    intent = ["publishing.json"] if (root / "state/publishing.json").exists() else []
    return sorted(hidden + orphans + intent)


def _complete(folder: Path, manifest: str, names: list[str]) -> str:
    identifier = manifest.removeprefix("obcms_set_").removesuffix(".json")
    artifacts = {a["file"]: a for a in json.loads((folder / manifest).read_bytes())["artifacts"]}
    sums = f"obcms_set_{identifier}.sha256"
    assert artifacts and {*artifacts, sums} <= set(names), f"{manifest} is there, but not all of its files"
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", sums], cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert {line.split("  ", 1)[1] for line in (folder / sums).read_text().splitlines()} == set(artifacts)
    for name, artifact in artifacts.items():
        if artifact["kind"] == "volume":
            _indexed(folder / name)
        elif artifact["plain_size"] < 1 << 26:
            plain = gzip.decompress((folder / name).read_bytes())
            assert hashlib.sha256(plain).hexdigest() == artifact["plain_sha256"]
    return identifier


def _indexed(path: Path) -> None:
    """Every file of the archive has the SHA-256 that the index beside it says."""
    index = gzip.decompress(path.with_name(path.name.replace(".tar.gz", ".files.gz")).read_bytes()).decode()
    with tarfile.open(path) as archive:
        found = [
            f"{hashlib.sha256(stream.read()).hexdigest()}  {member.size}  {member.name}"
            for member in archive
            if member.isreg() and (stream := archive.extractfile(member))
        ]
    assert found == index.splitlines()


def _whole(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            assert archive.getnames()
    elif path.suffix == ".gz":
        tail = b""
        with gzip.open(path) as stream:
            while block := stream.read(1 << 20):
                tail = (tail + block)[-65536:]
        if path.name.endswith(".sql.gz"):
            assert b"-- PostgreSQL database" in tail and b" dump complete\n" in tail, f"{path.name} has no trailer"


# --- what must not be left ---------------------------------------------------------------------------------------


def helpers(sidecar: Sidecar) -> list[str]:
    """Containers of this sidecar's backup volume, running or not."""
    instance = sidecar.root / "state" / "instance"
    if not instance.exists():
        return []
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label={_INSTANCE}={instance.read_text()}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def sessions(server: Server, sidecar: Sidecar) -> list[str]:
    """Sessions that this sidecar's clients have on the server."""
    instance = sidecar.root / "state" / "instance"
    mark = instance.read_text() if instance.exists() else "none"
    return [name for name in server.sessions() if mark in name]


def nothing_left(sidecar: Sidecar, server: Server | None = None, seconds: float = 5) -> None:
    """No helper, pipe, password or unfinished file; no session on the server after at most `seconds`."""
    assert helpers(sidecar) == []
    assert sidecar.spooled() == []
    # Whoever receives WAL or sends it on writes what is known meanwhile, and renames it.
    eventually(lambda: unfinished(sidecar.root) == [], seconds)
    if server is not None:
        eventually(lambda: not sessions(server, sidecar), seconds)


def failed(sidecar: Sidecar, result: Result, code: int, *words: str, outcome: str = "failed") -> str:
    """The run failed with `code`, in one message that has these words, and its record says the same."""
    assert result.code == code, result.output
    assert result.output.count("[ERROR]") == 1 and "Traceback" not in result.output, result.output
    for word in words:
        assert word in result.output, f"{word!r} is not in: {result.output}"
    run = sidecar.runs()[0]
    assert (run.outcome, run.exit_code) == (outcome, code), run
    assert run.message and run.ended
    judge(sidecar.root)
    return result.output


# --- a run under way ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def under_way(sidecar: Sidecar, *command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A started command; never left behind."""
    with sidecar.start(*(command or ("create", "daily", "--only", "database")), **environment) as process:
        passed = False
        try:
            yield process
            passed = True
        finally:
            if not passed or process.poll() is None:
                process.kill()
                process.wait()
                for helper in helpers(sidecar):  # its session would block whoever uses the database next
                    docker("rm", "-f", helper, check=False)


def ended(process: subprocess.Popen[str], seconds: float = 30) -> Result:
    """How it ended, within `seconds`."""
    output, _ = process.communicate(timeout=seconds)
    return Result(process.returncode, output)


def dumping(sidecar: Sidecar, process: subprocess.Popen[str], server: Server, table: str = "big") -> None:
    """Wait until the rows of `table` are streaming."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'obcms-backup%' AND query LIKE"
        f" 'COPY public.{table} %'"
    )

    def streaming() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return bool(server.value("postgres", query)) and any(sidecar.root.glob("*/.obcms_backup_*.partial"))

    eventually(streaming)


def fill_big(server: Server, database: str, megabytes: int = 1500) -> None:
    """A table whose dump has this size while it takes little room: long rows that pack well, copied packed."""
    rows = megabytes // 25
    server.execute(
        database,
        "CREATE TABLE big (body text); INSERT INTO big SELECT repeat('0123456789', 2500000);"
        f"INSERT INTO big SELECT body FROM big, generate_series(2, {rows})",
    )


# --- system calls ------------------------------------------------------------------------------------------------

CALLS = ("write", "pwrite64", "fsync", "rename", "renameat2", "unlink", "mkdir", "ftruncate")
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)")


def strace(log: Path, *options: str) -> tuple[str, ...]:
    """A prefix that traces the calls that change files; `options` may inject faults."""
    trace = ("-e", f"trace={','.join(CALLS)}")
    return ("strace", "-f", "-qq", "-y", "-s", "0", "-o", str(log), *trace, *options)


def main_calls(log: Path) -> list[tuple[str, str]]:
    """(call, arguments) of the main thread, in order."""
    lines = [match.groups() for line in log.read_text(errors="replace").splitlines() if (match := _CALL.match(line))]
    return [(call, rest) for thread, call, rest in lines if thread == lines[0][0]]


def freezing(container: str) -> str:
    """Shell that freezes a container. The kernel of a busy machine may want to be asked more than once."""
    seen = f"docker inspect -f '{{{{.State.Paused}}}}' {container}"
    return f'for _ in $(seq 100); do [ "$({seen})" = true ] && break; docker pause {container} || sleep 0.2; done'


def freeze(container: str) -> None:
    subprocess.run(["sh", "-c", freezing(container)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def docker(*arguments: str, check: bool = True) -> str:
    """The engine's own command line."""
    done: Any = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return str(done.stdout).strip()
