"""The cleanup as it is shipped: its command line, and a kill -9 at calls by which it changes a file.

A sample by default, every call with FULL_SWEEP=1; SEED repeats a sample.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.model.manifest import Tier
from tests.support.faults import ended, main_calls, seeded, strace, unfinished
from tests.support.set_factory import on_disk
from tests.support.sidecar import ROOT, Result, Sidecar

NOW = datetime.now(UTC).replace(microsecond=0)
OUTSIDE = ("pipe:", "/dev/null")


def volume(base: Path, days: list[int], **environment: str) -> tuple[Sidecar, list[str]]:
    """A sidecar without a database, and a verified set of each of these days ago."""
    sidecar = Sidecar.make(base, None, **environment)
    return sidecar, [on_disk(sidecar.root, Tier.DAILY, NOW - timedelta(days=n, hours=1)) for n in days]


def names(sidecar: Sidecar) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (sidecar.root / "daily").iterdir()}


def test_the_command_line(tmp_path: Path) -> None:
    sidecar, made = volume(tmp_path, [*range(4), *range(40, 50)])
    before = names(sidecar)
    pinned = sidecar.run("pin", made[-1], "--reason", "before the\x1b[31m migration")
    assert pinned.code == 0
    shown = sidecar.run("show", made[-1]).output
    assert "before the\\x1b[31m migration" in shown and "\x1b" not in shown

    dry = sidecar.run("prune", "--dry-run")
    fates = [line.split("\t")[:2] for line in dry.output.splitlines()]
    assert fates == [[i, "keep"] for i in made[:4]] + [[i, "later"] for i in made[4:9]] + [
        [i, "remove"] for i in made[9:13]
    ] + [[made[13], "keep"]]
    assert dry.code == 0 and set(names(sidecar)) - {f"obcms_set_{made[-1]}.pin"} == set(before)
    listed = sidecar.run("prune", "--dry-run", "--json").json
    assert (listed["waiting"], listed["later"]) == (0, 5) and [s["action"] for s in listed["decisions"]] == [
        fate for _, fate in fates
    ]

    done = sidecar.run("prune", "--scheduled")
    assert done.code == 0 and "removed 4 sets" in done.output and "5 more sets" in done.output
    assert sidecar.runs()[0].trigger == "schedule" and sidecar.runs()[0].exit_code == 0
    shrunk = sidecar.run("prune", BACKUP_RETENTION_DAILY="2")
    assert shrunk.code == 4 and "a setting was shortened" in shrunk.output and "[WARNING]" in shrunk.output
    assert "\n  `prune --dry-run` says" in shrunk.output and "`prune --force` removes them" in shrunk.output
    assert 4 in {run.exit_code for run in sidecar.runs()}
    assert sidecar.run("prune", "--forget-volume", "ocr").code == sidecar.run("prune", "--ahead", "none").code == 44
    forced = sidecar.run("prune", "--force")
    assert forced.code == 0 and [s.id for s in sidecar.sets()] == [*made[:4], made[13]]
    assert sidecar.run("unpin", made[-1]).code == 0 and sidecar.run("prune").code == 0
    assert [s.id for s in sidecar.sets()] == made[:4] and unfinished(sidecar.root) == []
    assert sidecar.run("pin", "nothing").code == 44


def test_a_terminal_is_shown_a_table(tmp_path: Path) -> None:
    sidecar, made = volume(tmp_path, [*range(4), 40])
    ours, theirs = pty.openpty()
    environment = os.environ | sidecar.environment | {"COLUMNS": "200", "TERM": "xterm"}
    command = [sys.executable, str(ROOT / "entrypoint.py"), "prune", "--dry-run"]
    subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert made[-1] in shown and "remove" in shown and "1 set of 5 would be removed" in shown


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Sidecar:
    """A volume with four young sets, two that are to go, and one old script's that is to go."""
    base = tmp_path_factory.mktemp("prune")
    sidecar, _ = volume(base, [*range(4), 40, 41], BACKUP_PRUNE_SHARE="100")
    on_disk(sidecar.root, Tier.DAILY, NOW - timedelta(days=50), "old script", halves="d")
    assert sidecar.run("prune", "--dry-run").code == 0
    return sidecar


def copy(origin: Sidecar, place: Path) -> Sidecar:
    shutil.copytree(origin.root, place / "backups")
    (place / "spool").mkdir()
    paths = {"BACKUP_DIR": str(place / "backups"), "BACKUP_SPOOL_DIR": str(place / "spool")}
    return Sidecar(place / "backups", place / "spool", origin.volumes, origin.environment | paths)


def run(sidecar: Sidecar, *prefix: str) -> Result:
    with sidecar.start("prune", prefix=prefix, PYTHONDONTWRITEBYTECODE="1") as process:
        return ended(process)


def test_killed_at_every_call(origin: Sidecar, tmp_path: Path) -> None:
    traced = copy(origin, tmp_path / "traced")
    before = names(traced)
    assert run(traced, *strace(tmp_path / "log")).code == 0
    after = names(traced)
    assert len(before) - len(after) == 11 and after.items() <= before.items()
    counted: Counter[str] = Counter()
    points = []
    for call, what in main_calls(tmp_path / "log"):
        counted[call] += 1
        if not any(outside in what for outside in OUTSIDE):
            points.append((call, counted[call]))
    assert {"rename", "unlink", "fsync", "pwrite64", "ftruncate"} <= {call for call, _ in points} and len(points) > 30
    if not os.environ.get("FULL_SWEEP"):
        points = sorted(seeded().sample(points, 12))

    def killed(point: tuple[str, int]) -> str:
        call, nth = point
        place = tmp_path / f"{call}-{nth}"
        sidecar = copy(origin, place)
        try:
            assert run(sidecar, *strace(place / "log", "-e", f"inject={call}:signal=KILL:when={nth}")).code == -9
            assert all(stored.good or stored.state == "old script" for stored in sidecar.sets()), "half a set is shown"
            assert after.items() <= names(sidecar).items()
            result = run(sidecar)
            assert result.code == 0, result.output
            assert names(sidecar) == after and unfinished(sidecar.root) == []
            assert [r.outcome for r in sidecar.runs()][:2] in (["success"], ["success", "crashed"], ["success"] * 2)
        except AssertionError as error:
            return f"{call} {nth}: {error}"
        shutil.rmtree(place)
        return ""

    with ThreadPoolExecutor(2) as pool:
        wrong = [found for found in pool.map(killed, points) if found]
    assert not wrong, f"{len(wrong)} of {len(points)} points:\n" + "\n".join(wrong)
