"""A server is killed: what it acknowledged is in the WAL that was received. KILLS=50 tries longer.

Killed in a pause between two commits, it has sent all. Killed while commits follow each other, all but those of the
last moment: WAL is sent when it is on the server's disk, and a kill may come before it is sent.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_receive import level, make, receiving, started
from tests.support.database import PASSWORD, USER, Server
from tests.support.faults import eventually, seeded
from tests.support.moments import short_folder
from tests.support.sidecar import Sidecar

KILLS = int(os.environ.get("KILLS", "1"))
# Seconds. On an idle machine milliseconds are enough.
SENDING = 0.5
# Bytes that the process which receives may take.
LARGEST = 150_000_000


class Writer(threading.Thread):
    """Commits one row after the other up to `until`, or until the server is gone. `acknowledged` is the last one."""

    def __init__(self, conninfo: dict[str, str], last: int, until: int | None) -> None:
        super().__init__(name="writer")
        self._conninfo = conninfo
        self._until = until
        self.acknowledged = last
        self.times: list[float] = []
        self.ended = 0.0

    def run(self) -> None:
        with psycopg.connect(**self._conninfo, autocommit=True) as connection:
            try:
                while self.acknowledged != self._until:
                    connection.execute("INSERT INTO rows VALUES (%s)", (self.acknowledged + 1,))
                    self.acknowledged += 1
                    self.times.append(time.monotonic())
            except psycopg.OperationalError:
                pass
        self.ended = time.monotonic()


def recovered(sidecar: Sidecar) -> set[int]:
    """The rows of the newest moment."""
    done = sidecar.run("create", "--at", "latest")
    assert done.code == 0, done.output
    taken = sidecar.run("extract", sidecar.sets()[0].id, "--table", "public.rows", "--data-only")
    assert taken.code == 0, taken.output
    return {int(line) for line in taken.output.splitlines() if line.isdigit()}


@pytest.mark.timeout(120 + 60 * KILLS)
@pytest.mark.parametrize("pause", [True, False], ids=["between two commits", "while it commits"])
@pytest.mark.parametrize(
    ("major", "kills"), [(major, len(range(n, KILLS, 3))) for n, major in enumerate((15, 17, 18)) if n < KILLS]
)
def test_no_acknowledged_row_is_lost(major: int, kills: int, pause: bool) -> None:
    """Killed, recovered from what was received, started again, and killed again."""
    choices, last = seeded(), 0
    with short_folder() as folder, started(major) as server:
        sidecar = make(folder, server)
        server.execute("obcms_prod", "CREATE TABLE rows (n int)")
        for number in range(kills):
            if number:
                server.container.start()
                server.wait()
            # One for each: it would look for a server that is away once a minute only.
            with receiving(sidecar) as process:
                level(sidecar, server)
                if not number:
                    assert sidecar.run("base").code == 0
                writer, when = killed(server, choices, last, pause)
                peak = int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0])
            compared(writer, when, recovered(sidecar), last)
            last = writer.acknowledged
            assert peak * 1024 < LARGEST, f"the process that receives took {peak} kB"


def killed(server: Server, choices: random.Random, last: int, pause: bool) -> tuple[Writer, float]:
    """Kill the server behind the `last` row and others: in a `pause` behind a commit, or amid them.

    Returns:
        Who wrote, and up to when what was acknowledged has to be there.
    """
    until = last + choices.randrange(10, 2000)
    conninfo = {"host": server.address, "user": USER, "password": PASSWORD, "dbname": "obcms_prod"}
    writer = Writer(conninfo, last, until if pause else None)
    writer.start()
    if pause:
        writer.join(60)
        time.sleep(SENDING)
    else:
        eventually(lambda: writer.acknowledged > until and writer.times[0] < time.monotonic() - 2 * SENDING, 60)
    when = time.monotonic()
    server.container.kill("SIGKILL")
    writer.join()
    return writer, when if pause else when - SENDING


def compared(writer: Writer, when: float, found: set[int], last: int) -> None:
    """Nothing is missing of what was acknowledged before `when`."""
    sent = last + sum(each < when for each in writer.times)
    lost = sorted(set(range(1, writer.acknowledged + 1)) - found)
    ages = [f"{1000 * (writer.ended - writer.times[each - last - 1]):.1f}" for each in lost[:1]]
    told = f"{writer.acknowledged} acknowledged, {sent} of them have to be there, {len(lost)} lost"
    print(f"{told}{f', the first of them {ages[0]} ms before the end' if ages else ''}")
    assert last < sent and (not lost or lost[0] > sent)
