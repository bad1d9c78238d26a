"""Base backups that build on each other become one, wholly or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.errors import EngineError, IntegrityError
from backup.postgres import recovery
from backup.postgres.base_chain import CHAIN_FOLDER, COMBINE, uncombined
from backup.postgres.clients import HelperClients


@pytest.fixture
def combine(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run what combines bases, where pg_combinebackup does this."""
    data, programs = tmp_path / "data", tmp_path / "bin"
    programs.mkdir()
    (data / "pg_wal").mkdir(parents=True)
    folders = [f"{CHAIN_FOLDER}/{number}" for number in range(2)]
    for folder in folders:
        (data / folder).mkdir(parents=True)

    def run(made: str) -> subprocess.CompletedProcess[str]:
        for name, does in (("pg_combinebackup", made), ("pg_verifybackup", "true")):
            (programs / name).write_text(f"#!/bin/sh\n[ $1 = --help ] && exit\n{does}\n")
            (programs / name).chmod(0o755)
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        words = ["sh", "-c", COMBINE, os.devnull, str(data), *folders]
        return subprocess.run(words, env=path, capture_output=True, text=True, check=False)

    return run


def test_all_of_a_combined_base_is_moved_where_it_is_to_be(
    combine: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Also what begins with a dot, which the server sends as it sends all that lies in its folder."""
    whole = f"{CHAIN_FOLDER}/whole"
    done = combine(
        f"mkdir -p {whole}/pg_wal/summaries {whole}/links {whole}/base/5 {whole}/global; cd {whole};"
        " touch .psql_history PG_VERSION base/5/100 base/5/100_fsm base/5/100_vm base/5/100_vm.1 global/200_vm my_vm"
    )
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert found == [".psql_history", "PG_VERSION", "base", "global", "links", "my_vm", "pg_wal"]
    # What maps of visible rows say may be wrong.
    assert sorted(path.name for path in (tmp_path / "data" / "base" / "5").iterdir()) == ["100", "100_fsm"]
    assert not list((tmp_path / "data" / "global").iterdir())
    assert (tmp_path / "data" / "pg_wal" / "summaries").is_dir()


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("echo 'pg_combinebackup: error: manifest system identifier is 1, but control file has 2' >&2; exit 1", True),
        ("echo 'pg_combinebackup: error: could not write file: No space left on device' >&2; exit 1", False),
        ("echo 'pg_combinebackup: error: out of memory' >&2; exit 1", False),
        ("kill -9 $$", False),
    ],
)
def test_what_is_wanting_for_it_says_nothing_of_the_bases(
    combine: Callable[[str], subprocess.CompletedProcess[str]], does: str, kind: bool
) -> None:
    """A drill would hold it against the window."""
    done = combine(does)
    assert done.returncode
    error = uncombined(done.returncode, done.stderr)
    assert isinstance(error, IntegrityError) == kind and "Nothing was changed" in error.message
    assert ("`base --full`" if kind else "docker system df") in error.hint


class Process:
    """A helper that is a process of this machine."""

    def __init__(self, words: Sequence[str], programs: Path) -> None:
        path = f"{programs}:{os.environ['PATH']}"
        self.said = programs / "said"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(words, env={"PATH": path}, stderr=said, start_new_session=True)

    def wait(self) -> int:
        return self.process.wait()

    def running(self) -> bool:
        return self.process.poll() is None

    def errors(self) -> str:
        return self.said.read_text()

    def kill(self) -> None:
        if self.running():
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self.process.wait()


@pytest.fixture
def unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Combine two links where pg_combinebackup does this, with a limit of two seconds."""
    data, programs = tmp_path / "data", tmp_path / "bin"
    for folder in (programs, data / "pg_wal", *(data / CHAIN_FOLDER / str(number) for number in range(2))):
        folder.mkdir(parents=True)
    monkeypatch.setattr(HelperClients, "inside", tmp_path)
    monkeypatch.setattr(recovery, "DATA", str(data))
    places = SimpleNamespace(spool=tmp_path, instance="i", stall=2, mount=None)

    def run(script: str, words: Sequence[str], spool: object, caps: object) -> Process:
        return Process(["sh", "-c", script, *words], programs)

    made = recovery.Recovery(cast(Any, places), cast(Any, SimpleNamespace(run=run, shown="x")), "run")
    monkeypatch.setattr(made, "unpack", lambda tar, folder: None)

    def combine(does: str) -> None:
        whole = f"mkdir -p {CHAIN_FOLDER}/whole/pg_wal {CHAIN_FOLDER}/whole/base {CHAIN_FOLDER}/whole/global"
        for name, what in (("pg_combinebackup", f"{whole}; {does}"), ("pg_verifybackup", "true")):
            (programs / name).write_text(f"#!/bin/sh\n[ $1 = --help ] && exit\n{what}\n")
            (programs / name).chmod(0o755)
        made.unpack_base([[], []])

    return combine


def test_one_that_stands_still_is_ended_and_one_that_works_on_is_waited_for(unpack: Callable[[str], None]) -> None:
    """Neither of these programs says how far it is."""
    with pytest.raises(EngineError, match="pg_combinebackup made no progress for 2 s and was ended") as caught:
        unpack("exec sleep 600")
    assert "BACKUP_STALL_TIMEOUT" in caught.value.hint
    unpack("for _ in $(seq 30); do sleep 0.1; done")


def test_one_that_fails_is_told_by_what_it_said(unpack: Callable[[str], None]) -> None:
    with pytest.raises(IntegrityError, match="cannot be combined: it does not fit"):
        unpack("echo it does not fit >&2; exit 1")
