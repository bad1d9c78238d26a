"""Single paths put back: all of them or none, whoever is killed, and whatever the application does until somebody
comes by."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.app import composition, restore
from backup.cli import serve
from backup.errors import EngineError, RestoreUnfinished
from backup.media.selection import Chosen
from backup.media.swap import single_files
from tests.support.examples import every
from tests.support.sidecar import Sidecar

PATHS = (b"a", b"folder", b"gone/c")
_CALLS = ("rename", "fsync", "unlink", "link", "mkdir", "open")
EVERY = every(3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A volume; `gone` is not there."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_text("old")
    (tmp_path / "folder/b").write_text("old")
    return tmp_path


def extract(folder: int, chosen: Chosen) -> None:
    """What an archive holds of the three."""
    new = Path(f"/proc/self/fd/{folder}/new")
    for number, unit in enumerate(chosen.units):
        if unit.place == b"a":
            (new / str(number)).write_text("new")
        else:
            (new / str(number)).mkdir()
            (new / str(number) / ("b" if unit.place == b"folder" else "c")).write_text("new")


def put(root: Path) -> str:
    return single_files.put_paths(root, "s", PATHS, b"media", extract, whole=False)


def live(root: Path) -> dict[str, str]:
    found = [path for path in root.rglob("*") if path.is_file() and not path.parts[len(root.parts)].startswith(".")]
    return {str(path.relative_to(root)): path.read_text() for path in found}


OLD = {"a": "old", "folder/b": "old"}
NEW = {"a": "new", "folder/b": "new", "gone/c": "new"}


def killed(root: Path, number: int, *, exchange: bool = True, links: bool = True) -> bool:
    """A child puts them back, and dies at its nth call that may change something; whether it did."""
    child = os.fork()
    if child == 0:
        left = iter(range(number))
        if not links:
            os.link = _no_links
        for name in _CALLS:
            real = getattr(os, name)

            def counted(*words: object, real: object = real, **options: object) -> object:
                if next(left, None) is None:
                    os._exit(9)
                return real(*words, **options)  # type: ignore[operator]

            setattr(os, name, counted)
        if not exchange:
            # As on FAT and some shares.
            single_files.renameat2 = lambda *_: False  # type: ignore[assignment]
        put(root)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def kills(first: int = 0, step: int = 1) -> Iterator[int]:
    yield from range(5 + first, 200, step)


@pytest.mark.long
@pytest.mark.search
@pytest.mark.parametrize(("exchange", "links"), [(True, True), (False, True), (False, False)])
def test_killed_anywhere_it_is_all_or_nothing_after_it(tmp_path: Path, exchange: bool, links: bool) -> None:
    states = []
    for number in kills(random.randrange(EVERY), EVERY):
        root = tmp_path / str(number)
        (root / "folder").mkdir(parents=True)
        (root / "a").write_text("old")
        (root / "folder/b").write_text("old")
        died = killed(root, number, exchange=exchange, links=links)
        states.append(live(root))
        single_files.tidy(root)
        assert live(root) in (OLD, NEW) and not single_files.has_begun(root)
        if not died:
            break
    assert states[-1] == NEW and any(state not in (OLD, NEW) for state in states)


_half: list[int] = []


def half(base: Path) -> Path:
    """A volume where one that was killed has put back some, but not all: at the same call each time."""
    for number in _half or kills():
        root = base / f"half{number}"
        (root / "folder").mkdir(parents=True)
        (root / "a").write_text("old")
        (root / "folder/b").write_text("old")
        killed(root, number)
        if (found := live(root)) != OLD and found["folder/b"] == "old":
            _half[:] = [number]
            return root
    raise AssertionError("there is no such moment")


def test_weeks_later_the_application_has_gone_on(tmp_path: Path) -> None:
    """With what was there of the one, and with what came of the other: neither is lost."""
    root = half(tmp_path)
    assert live(root) == {"a": "new", "folder/b": "old"} and single_files.has_begun(root)
    (root / "folder/b").write_text("since")
    (root / "folder/more").write_text("since")
    (root / "a").write_text("since")
    (told,) = single_files.tidy(root, days=7)
    assert live(root) == {"a": "old", "folder/b": "since", "folder/more": "since"}
    assert told.startswith("a is as it was") and ".obcms-restore-file-s" in told
    kept = [path.read_text() for path in (root / ".obcms-restore-file-s").rglob("*") if path.is_file()]
    assert "since" in kept, "what was live meanwhile"
    assert single_files.tidy(root, days=7) == [] and (root / ".obcms-restore-file-s").exists()
    os.utime(root / ".obcms-restore-file-s", (0, time.time() - 8 * 86400))
    assert single_files.tidy(root, days=7) == [] and not (root / ".obcms-restore-file-s").exists()


def test_the_service_takes_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it comes by, and only then is anything started that may write."""

    def no_engine() -> None:
        raise EngineError("there is none")

    monkeypatch.setattr(restore, "Engine", no_engine)
    monkeypatch.setattr(composition, "Engine", no_engine)
    sidecar = Sidecar.make(tmp_path, None, DB_HOST="127.0.0.1")
    root = half(sidecar.volumes)
    serve._recover(sidecar.app())
    assert live(root) == OLD and not single_files.has_begun(root)
    assert [run.operation for run in sidecar.runs()] == ["recover"]
    serve._recover(sidecar.app())
    assert len(sidecar.runs()) == 1


@pytest.mark.long
def test_what_somebody_has_put_there_since_stays(tmp_path: Path) -> None:
    root = half(tmp_path)
    (root / "coming").write_text("another")
    (root / "coming").rename(root / "a")
    (told,) = single_files.tidy(root)
    assert live(root) == {"a": "another", "folder/b": "old"} and "and stays" in told
    kept = [path.read_text() for path in (root / ".obcms-restore-file-s").rglob("*") if path.is_file()]
    assert "old" in kept and single_files.tidy(root) == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_somebody_puts_beside_it_stops_nothing_and_stays(tmp_path: Path, kind: str) -> None:
    """Of one that was killed all is taken back; when what is kept is removed, where the other lies is told."""
    root = half(tmp_path)
    folder = root / ".obcms-restore-file-s"
    if kind == "link":
        (folder / "stray").symlink_to("/etc")
    elif kind == "directory":
        (folder / "stray").mkdir()
    else:
        (folder / "stray").write_text("somebody's")
    before = (folder / "stray").lstat()
    assert single_files.has_begun(root)
    (told,) = single_files.tidy(root, days=7)
    assert told.startswith("a is as it was") and live(root) == OLD and not single_files.has_begun(root)
    os.utime(folder, (0, time.time() - 8 * 86400))
    (told,) = single_files.tidy(root, days=7)
    assert str(folder) in told and "'stray'" in told and list(folder.iterdir()) == [folder / "stray"]
    assert (folder / "stray").lstat().st_ino == before.st_ino
    assert single_files.tidy(root, days=0) == [] and live(root) == OLD


@pytest.mark.parametrize("fails", [True, False])
def test_nor_while_it_is_unpacked(tmp_path: Path, fails: bool) -> None:
    folder = tmp_path / ".obcms-restore-file-s"

    def unpacked(number: int, _: Chosen) -> None:
        Path(f"/proc/self/fd/{number}/new/0").write_text("new")
        (folder / "stray").write_text("somebody's")
        if fails:
            raise EngineError("it ends here")

    with pytest.raises(EngineError) if fails else contextlib.nullcontext():
        assert single_files.put_paths(tmp_path, "s", [b"a"], b"media", unpacked, whole=False) == ""
    (told,) = single_files.tidy(tmp_path)
    assert "'stray'" in told and (folder / "stray").read_text() == "somebody's"
    assert live(tmp_path) == ({} if fails else {"a": "new"})


def test_what_cannot_be_taken_back_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that all is as it was would be false."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        # One is exchanged, by a call that is not os.rename; what was there cannot be moved aside then.
        patch.setattr(single_files, "_keep", failing)
        patch.setattr(single_files, "take_back", failing)
        with pytest.raises(RestoreUnfinished, match="could not be taken back: .*a") as caught:
            put(root)
    assert "as they were" not in caught.value.message and caught.value.hint
    single_files.tidy(root)
    assert live(root) == OLD


def test_what_somebody_puts_there_in_that_moment_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was there before both is not removed."""
    real = single_files.put_in

    def cut(top: int, folder: int, number: int, place: bytes) -> None:
        if number:
            (root / "coming").write_text("another")
            (root / "coming").rename(root / "a")
            raise OSError(5, "Input/output error")
        real(top, folder, number, place)

    monkeypatch.setattr(single_files, "put_in", cut)
    with pytest.raises(RestoreUnfinished, match="could not be taken back: .*a"):
        put(root)
    for _ in range(2):
        assert live(root) == OLD | {"a": "another"}
        assert "old" in [path.read_text() for path in (root / ".obcms-restore-file-s").rglob("*") if path.is_file()]
        single_files.tidy(root)
