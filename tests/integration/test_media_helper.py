"""The command as it is run: its lines and exit codes, its rights, a full disk, and a kill at every system call.

A plain trace says which calls that change something a verb makes on the volume; then one run per call is killed there.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from backup.errors import IntegrityError, RestoreFailed
from backup.media import archive_tree, helper_main, swap
from backup.media.reserved_names import PREFIX
from tests.support.awkward_tree import fill, look
from tests.support.faults import eventually
from tests.unit.media.swap.test_swap import STAMP, Look, Volume, killed_at

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "backup.media.helper_main")
CALLS = (
    *("rename", "renameat", "renameat2", "fsync", "syncfs", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"),
    *("openat", "write", "fchown", "fchmod", "utimensat", "fsetxattr", "fremovexattr", "flock"),
)
_LINE = re.compile(r"^\d+ +(\w+)\((.*)")


def call(*words: object, prefix: Sequence[str] = ()) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, JSON lines, stderr) of one run."""
    command = [*prefix, *COMMAND, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_environment(), check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}


class Archived:
    """A volume `live`, and an archive of another tree with its index."""

    def __init__(self, base: Path, make: Callable[[Path], None] = fill) -> None:
        self.origin, self.live = base / "origin", base / "live"
        self.tar, self.index = base / "media.tar.gz", base / "media.files.gz"
        for root in (self.origin, self.live):
            root.mkdir()
        make(self.origin)
        with gzip.open(self.tar, "wb", 1) as tar, gzip.open(self.index, "wb") as index:
            archive_tree.archive(self.origin, "media", tar, index, excludes=())
        (self.live / "live").write_bytes(b"live")
        self.staging = self.live / (PREFIX + STAMP)

    def words(self, live: Path | None = None) -> list[object]:
        return ["extract", self.tar, self.index, "media", live or self.live, STAMP, "--limit=99999999", "--trusted"]


@pytest.fixture
def archived(tmp_path: Path) -> Archived:
    return Archived(tmp_path)


def _files(root: Path) -> None:
    for number in range(4):
        (root / f"file {number}").write_bytes(os.urandom(1 << 16))


def _large(root: Path) -> None:
    for number in range(24):
        (root / f"file {number:02}").write_bytes(os.urandom(1 << 20))


# --- its lines ------------------------------------------------------------------------------------------------------

# The rights that `backup.media.helper` gives to the helper.
_RIGHTS = "-all,+chown,+dac_override,+fowner,+fsetid"


@pytest.mark.parametrize("mask", [0, 0o077])
def test_all_of_it_with_the_rights_of_the_helper(archived: Archived, mask: int) -> None:
    before = look(archived.live, PREFIX.encode())
    rights = ("setpriv", "--bounding-set", _RIGHTS, "--inh-caps", _RIGHTS, "--no-new-privs")
    prefix = ("sh", "-c", f'umask {mask:o}; exec "$@"', "sh", *rights)
    os.chown(archived.live, 1234, 1234)
    archived.live.chmod(0o700)
    before = look(archived.live)
    code, lines, errors = call(*archived.words(), prefix=prefix)
    assert (code, errors) == (0, "")
    done = lines[-1]["extracted"]
    assert (done["hard_links"], done["notes"]) == (2, [])
    assert archived.staging.stat().st_mode & 0o777 == 0o700
    assert look(archived.live, PREFIX.encode()) == before
    assert call("state", archived.live, STAMP, prefix=prefix) == (0, [{"state": "ready"}], "")
    for verb, state in (
        ("exchange", "exchanged"),
        ("roll-back", "ready"),
        ("exchange", "exchanged"),
    ):
        assert call(verb, archived.live, STAMP, prefix=prefix) == (0, [{"state": state, "told": []}], "")
    assert look(archived.live, PREFIX.encode()) == look(archived.origin)
    kept = {"stamp": STAMP, "state": "exchanged", "bytes": 4}
    assert call("kept", archived.live, prefix=prefix) == (0, [{"kept": [kept]}], "")
    assert call("discard", archived.live, STAMP, prefix=prefix) == (0, [{"state": "absent", "told": []}], "")
    assert look(archived.live) == look(archived.origin)


def test_an_error_is_told_so_that_it_can_be_raised_again(archived: Archived) -> None:
    data = bytearray(archived.tar.read_bytes())
    data[len(data) // 2] ^= 1
    archived.tar.write_bytes(data)
    code, lines, errors = call(*archived.words())
    assert (code, errors) == (40, "")
    assert lines[-1].keys() == {"error", "message", "hint", "exit_code"}
    assert (lines[-1]["error"], lines[-1]["exit_code"]) == ("IntegrityError", 40)
    assert "no live file was touched" in lines[-1]["message"]
    with pytest.raises(IntegrityError) as caught:
        helper_main.run_arguments([*map(str, archived.words())], lambda _count: None)
    assert caught.value.message == lines[-1]["message"]
    assert call("discard", archived.live, STAMP) == (0, [{"state": "absent", "told": []}], "")
    assert sorted(os.listdir(archived.live)) == ["live"]


def test_a_damaged_index_and_missing_files(archived: Archived) -> None:
    whole = archived.index.read_bytes()
    for data in (whole[:-9], whole[: len(whole) // 2], b"", b"no gzip at all"):
        archived.index.write_bytes(data)
        code, lines, _ = call(*archived.words())
        assert code == 40, lines
        assert "no live file was touched" in lines[-1]["message"]
    archived.index.unlink()
    assert call(*archived.words())[0] == 30
    assert call("exchange", archived.live, STAMP)[0] == 50
    assert call("exchange", archived.live / "nowhere", STAMP)[0] == 50
    assert call("nonsense", archived.live)[0] == 2


def test_progress_at_most_twice_a_second(tmp_path: Path) -> None:
    made = Archived(tmp_path, _large)
    words = [str(word) for word in made.words() if "limit" not in str(word)] + [f"--limit={1 << 30}"]
    code, lines, _ = call(*words)
    told = [line["bytes"] for line in lines[:-1]]
    assert code == 0 and told == sorted(set(told)) and len(told) < 10
    counted: list[int] = []
    assert call("discard", made.live, STAMP)[0] == 0
    helper_main.run_arguments(words, counted.append)
    assert sum(counted) == 24 << 20


def test_a_signal_ends_an_extraction_in_good_order(tmp_path: Path) -> None:
    def many(root: Path) -> None:
        for number in range(20_000):
            (root / f"{number:05}").touch()

    made = Archived(tmp_path, many)
    before = look(made.live)
    words = [*COMMAND, *map(str, made.words())]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        eventually((made.staging / "new/00100").exists, pause=0.001)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (143, b"")
    answer = json.loads(output.splitlines()[-1])
    assert answer["exit_code"] == 143 and "the live files are as they were" in answer["message"]
    assert swap.tree_state(made.live, STAMP) == "extracting"
    assert call("roll-back", made.live, STAMP)[0] == call("discard", made.live, STAMP)[0] == 0
    assert look(made.live) == before


def test_a_full_disk_leaves_the_live_tree_and_can_be_cleared(archived: Archived) -> None:
    small = archived.live.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=200", "tmpfs", small], check=True)
    try:
        (small / "live").write_bytes(b"live")
        before = look(small)
        code, lines, _ = call(*archived.words(small))
        assert code == 50 and "the volume is full" in lines[-1]["message"], lines
        assert "Free space" in lines[-1]["hint"]
        assert look(small, PREFIX.encode()) == before
        with open(small / "rest", "wb") as rest, pytest.raises(OSError):
            while True:
                os.write(rest.fileno(), bytes(4096))
        assert call("roll-back", small, STAMP)[0] == 0
        assert call("discard", small, STAMP) == (0, [{"state": "absent", "told": []}], "")
        (small / "rest").unlink()
        assert {path: what[4:] for path, what in look(small).items()} == {p: w[4:] for p, w in before.items()}
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_is_kept_can_be_discarded_on_a_full_disk(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", tmp_path], check=True)
    try:
        volume = Volume(tmp_path)
        swap.exchange_tree(volume.root, STAMP)
        with open(volume.root / "rest", "wb") as rest, pytest.raises(OSError):
            while True:
                os.write(rest.fileno(), bytes(4096))
        with pytest.raises(RestoreFailed, match="as they were"):
            swap.exchange_back(volume.root, STAMP)
        assert swap.tree_state(volume.root, STAMP) == "exchanged"
        swap.discard_tree(volume.root, STAMP)
        assert swap.tree_state(volume.root, STAMP) == "absent"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# --- killed ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """The nth `call` of a run."""

    call: str
    nth: int
    what: str

    def __str__(self) -> str:
        return f"{self.call} {self.nth} ({self.what[:120]})"


def _strace(log: Path, *options: str) -> tuple[str, ...]:
    return ("strace", "-f", "-qq", "-y", "-s", "40", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *options)


def _copy(origin: Path, place: Path) -> Path:
    """The same volume elsewhere, to the last attribute."""
    place.mkdir(parents=True)
    subprocess.run(["cp", "-a", "--sparse=always", origin, place / "volume"], check=True)
    return place / "volume"


class Sweep:
    """Kills of one command line on copies of a volume."""

    def __init__(self, base: Path, volume: Volume, words: Callable[[Path], Sequence[object]]) -> None:
        self.base, self.volume, self.words = base, volume, words
        root = _copy(volume.root, base / "plain")
        code, _, errors = call(*words(root), prefix=_strace(base / "log"))
        assert code == 0, errors
        counted: Counter[str] = Counter()
        self.points = []
        for line in (base / "log").read_text(errors="replace").splitlines():
            if not (match := _LINE.match(line)):
                continue
            name, what = match.groups()
            counted[name] += 1
            reads = name == "openat" and "O_WRONLY" not in what and "O_RDWR" not in what
            if str(root) in what and not reads:
                self.points.append(Point(name, counted[name], what.replace(str(root), "")))
        assert {"fsync"} <= {point.call for point in self.points}

    def run(self, check: Callable[[Callable[[], Volume]], None]) -> None:
        """Kill at each point; `check` gets as many copies of what is left as it wants."""
        with ThreadPoolExecutor(2) as pool:
            wrong = [found for found in pool.map(lambda point: self._one(point, check), self.points) if found]
        assert not wrong, f"{len(wrong)} of {len(self.points)} points:\n" + "\n".join(wrong)

    def _one(self, point: Point, check: Callable[[Callable[[], Volume]], None]) -> str:
        place = self.base / f"{point.call}-{point.nth}"
        try:
            root = _copy(self.volume.root, place)
            options = ("-e", f"inject={point.call}:signal=KILL:when={point.nth}")
            code, lines, errors = call(*self.words(root), prefix=_strace(place / "log", *options))
            assert code in (-9, 137), f"{code} {lines} {errors}"
            numbers = count()
            check(lambda: self._like(_copy(root, place / str(next(numbers)))))
            shutil.rmtree(place)
        except Exception as error:  # noqa: BLE001 - collected, so that one point does not hide the others
            return f"{point}: {type(error).__name__} {error}"
        return ""

    def _like(self, root: Path) -> Volume:
        volume = Volume.__new__(Volume)
        volume.root, volume.staging = root, root / self.volume.staging.name
        volume.old, volume.new = self.volume.old, self.volume.new
        return volume


def _either_tree(copy: Callable[[], Volume]) -> None:
    on, back = copy(), copy()
    swap.exchange_tree(on.root, STAMP)
    on.is_new()
    swap.exchange_back(back.root, STAMP)
    back.is_old()
    swap.exchange_tree(back.root, STAMP)
    back.is_new()


def test_killed_while_exchanging(tmp_path: Path) -> None:
    Sweep(tmp_path, Volume(tmp_path / "v"), lambda root: ("exchange", root, STAMP)).run(_either_tree)


def test_killed_while_rolling_back(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "v")
    swap.exchange_tree(volume.root, STAMP)
    Sweep(tmp_path, volume, lambda root: ("roll-back", root, STAMP)).run(_either_tree)


@pytest.mark.parametrize("verb", ["roll-back", "exchange"])
@pytest.mark.parametrize("number", [14, 22])
def test_killed_while_ending_what_was_killed(tmp_path: Path, verb: str, number: int) -> None:
    volume = Volume(tmp_path / "v")
    with killed_at(number):
        swap.exchange_tree(volume.root, STAMP)
    assert swap.tree_state(volume.root, STAMP) == "moving"
    Sweep(tmp_path, volume, lambda root: (verb, root, STAMP)).run(_either_tree)


def _without_time(found: Look) -> Look:
    """The root's time moves when a kill comes between removing our directory and putting the time back."""
    return found | {b"": (*found[b""][:3], *found[b""][4:])}


@pytest.mark.parametrize("exchanged", [True, False])
def test_killed_while_discarding(tmp_path: Path, exchanged: bool) -> None:
    volume = Volume(tmp_path / "v")
    if exchanged:
        swap.exchange_tree(volume.root, STAMP)
    live = volume.new if exchanged else volume.old

    def check(copy: Callable[[], Volume]) -> None:
        left = copy()
        assert _without_time(left.live()) == _without_time(live)
        state = swap.tree_state(left.root, STAMP)
        if state == "discarding":  # what may have lost files never becomes live again
            with pytest.raises(RestoreFailed):
                (swap.exchange_back if exchanged else swap.exchange_tree)(left.root, STAMP)
        elif state == "extracting":  # without a note of what is live there is nothing that could be made live
            assert list(left.staging.iterdir()) == []
        elif state != "absent":  # noted as whole, it is whole
            _either_tree(copy)
        swap.discard_tree(left.root, STAMP)
        assert swap.tree_state(left.root, STAMP) == "absent" and not left.staging.exists()
        assert _without_time(left.live()) == _without_time(live)

    Sweep(tmp_path, volume, lambda root: ("discard", root, STAMP)).run(check)


def test_killed_while_extracting(tmp_path: Path) -> None:
    made = Archived(tmp_path, _files)
    volume = Volume.__new__(Volume)
    volume.root, volume.staging = made.live, made.staging
    volume.old, volume.new = volume.live(), look(made.origin)

    def check(copy: Callable[[], Volume]) -> None:
        left = copy()
        assert _without_time(left.live()) == _without_time(volume.old)
        if swap.tree_state(left.root, STAMP) != "ready":
            swap.exchange_back(left.root, STAMP)
            assert _without_time(left.live()) == _without_time(volume.old)
            helper_main.run_arguments([str(word) for word in made.words(left.root)], lambda _count: None)
        swap.exchange_tree(left.root, STAMP)
        assert left.live() == volume.new
        swap.exchange_back(left.root, STAMP)
        swap.discard_tree(left.root, STAMP)
        assert _without_time(left.live()) == _without_time(volume.old)

    Sweep(tmp_path, volume, made.words).run(check)
