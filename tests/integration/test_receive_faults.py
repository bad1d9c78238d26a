"""Whatever happens while WAL is received, the window is exact or is said to be broken, and the database goes on.

ROUNDS=5 does everything to it more often, FULL_SWEEP=1 on all versions.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.test_receive import receivers
from tests.support.database import PROJECT, USER, Server, data_volume, start_server
from tests.support.faults import docker, ended, eventually, nothing_left, seeded
from tests.support.ledger import COMMAND, TABLE, Ledger, judged
from tests.support.moments import Story, short_folder
from tests.support.sidecar import Sidecar
from tests.support.versions import FULL_SWEEP, MAJORS

ROUNDS = int(os.environ.get("ROUNDS", "1"))
MOMENTS = 5 if ROUNDS > 1 else 1
WITHIN = 90
_LOAD = f"pgbench -i -q -U {USER} obcms_prod && exec pgbench -n -c 2 -R 100 -T 3600 -U {USER} obcms_prod"


class Case:
    """A server that pgbench and the ledger write to, and a sidecar that receives; what may happen to them."""

    def __init__(self, story: Story, ledger: Ledger, volume: str) -> None:
        self.story, self.ledger, self.volume = story, ledger, volume
        self.server, self.sidecar = story.server, story.sidecar
        self.process = self.sidecar.start("receive")

    def receiver_killed(self) -> None:
        # One that has ended by itself, with its server, is no longer there to be killed: the next one is.
        eventually(lambda: docker("kill", *receivers(self.sidecar), check=False), WITHIN)

    def sidecar_killed(self) -> None:
        self.process.kill()
        ended(self.process)
        self.process = self.sidecar.start("receive")

    def server_killed(self) -> None:
        self.server.container.kill("SIGKILL")
        self._up(self.server.container.start)

    def server_restarted(self) -> None:
        self._up(lambda: self.server.container.restart(timeout=10))

    def server_recreated(self) -> None:
        self.server.container.remove(force=True)
        self._up(lambda: setattr(self.server, "container", made(self.server.major, self.volume).container))

    def stop(self) -> None:
        self.process.terminate()
        ended(self.process, 60)

    def wal_recycled_while_it_is_down(self) -> None:
        """What the server wrote meanwhile is never received."""
        self.stop()
        for _ in range(12):
            self.server.execute("postgres", "SELECT pg_switch_wal()")
            self.ledger.goes_on()
            self.server.execute("postgres", "CHECKPOINT")
        self.process = self.sidecar.start("receive")

    def _up(self, start: Callable[[], object]) -> None:
        start()
        self.server.wait()
        load(self.server)

    def well(self) -> None:
        """All is written and received again. What the service does when a base backup is wanted is done here."""
        self.ledger.goes_on()
        begun = time.monotonic()
        while True:
            self.story.level()
            if not self.story.stream()["wants_base"]:
                return
            self.sidecar.run("base")
            assert time.monotonic() < begun + WITHIN, self.story.stream()


def made(major: int, volume: str) -> Server:
    mounted = {volume: {"bind": data_volume(major), "mode": "rw"}}
    return start_server(major, f"hit{major}", command=COMMAND, volumes=mounted)


def load(server: Server) -> None:
    """Pgbench writes beside the ledger, until the server is gone."""
    docker("exec", "-d", server.container.id, "sh", "-c", _LOAD)


@contextlib.contextmanager
def under_load(major: int, room: str = "") -> Iterator[Case]:
    """A case with its first base backup; `room`: of a backup volume that is in memory."""
    volume = f"{PROJECT}-hit{major}"
    with short_folder() as folder, contextlib.ExitStack() as stack:
        stack.callback(docker, "volume", "rm", "-f", volume)
        server = made(major, volume)
        stack.callback(lambda: server.remove())
        if room:
            (folder / "backups").mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={room},mode=700", "tmpfs", folder / "backups"], check=True
            )
            stack.callback(subprocess.run, ["umount", "-l", folder / "backups"], check=True)
        story = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
        server.execute(story.database, TABLE)
        load(server)
        ledger = Ledger(server, story.database, seeded())
        case = Case(story, ledger, volume)
        with ledger.writing():
            try:
                case.well()
                yield case
            finally:
                case.stop()


@pytest.mark.parametrize("major", MAJORS if FULL_SWEEP else (17,))
@pytest.mark.timeout(200 + 300 * ROUNDS)
def test_the_window_is_true_whatever_is_killed(major: int) -> None:
    choices = seeded()
    with under_load(major) as case:
        faults = ROUNDS * [
            case.receiver_killed,
            case.sidecar_killed,
            case.server_killed,
            case.server_restarted,
            case.server_recreated,
            case.wal_recycled_while_it_is_down,
        ]
        choices.shuffle(faults)
        for fault in faults:
            print(fault.__name__, case.story.stream()["received"])
            time.sleep(choices.random())
            fault()
            if choices.random() < 0.5:
                case.well()
        case.well()
        said = case.sidecar.run("moments", "--json").json
        # Of what was recycled a new one was taken; a part that is shorter than a second is not told.
        assert said["live"] and len(said["bases"]) >= 2, said["text"]
        judged(case.story, case.ledger, said, choices, MOMENTS)
        case.stop()
        nothing_left(case.sidecar, case.server)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_volume_ends_what_is_received_and_not_the_database() -> None:
    with under_load(17, room="200m") as case:
        before = case.sidecar.run("moments", "--json").json
        assert before["live"], before["text"]
        filler = case.sidecar.root / "somebody's video"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

        def told() -> dict[str, Any]:
            # Whatever the server writes meanwhile finds no room.
            case.server.execute("postgres", "SELECT pg_switch_wal()")
            case.ledger.goes_on()
            now: dict[str, Any] = case.sidecar.run("moments", "--json").json
            return now if not now["live"] else {}

        full = eventually(told, 120, 1)
        assert full["stream"]["state"] in ("stale", "down") and "and none since" in full["text"], full
        assert case.sidecar.run("base").code == 30
        filler.unlink()
        case.well()
        said = case.sidecar.run("moments", "--json").json
        assert said["live"], said["text"]
        judged(case.story, case.ledger, said, seeded(), MOMENTS)
        case.stop()
        nothing_left(case.sidecar, case.server)
