"""A server is killed while it commits: what it acknowledged is in the WAL that was received. KILLS=50 tries longer.

All but the last moment: WAL is sent when it is on the server's disk, and a kill may come before it is sent.
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
    """Commits one row after the other until the server is gone. `acknowledged` is the last that was committed."""

    def __init__(self, conninfo: dict[str, str], last: int) -> None:
        super().__init__(name="writer")
        self._conninfo = conninfo
        self.acknowledged = last
        self.times: list[float] = []
        self.ended = 0.0

    def run(self) -> None:
        with psycopg.connect(**self._conninfo, autocommit=True) as connection:
            try:
                while True:
                    connection.execute("INSERT INTO rows VALUES (%s)", (self.acknowledged + 1,))
                    self.acknowledged += 1
                    self.times.append(time.monotonic())
            except psycopg.OperationalError:
                self.ended = time.monotonic()


def recovered(sidecar: Sidecar) -> set[int]:
    """The rows of the newest moment."""
    done = sidecar.run("create", "--at", "latest")
    assert done.code == 0, done.output
    taken = sidecar.run("extract", sidecar.sets()[0].id, "--table", "public.rows", "--data-only")
    assert taken.code == 0, taken.output
    return {int(line) for line in taken.output.splitlines() if line.isdigit()}


@pytest.mark.timeout(120 + 60 * KILLS)
@pytest.mark.parametrize(
    ("major", "kills"), [(major, len(range(n, KILLS, 3))) for n, major in enumerate((15, 17, 18)) if n < KILLS]
)
def test_no_acknowledged_row_is_lost(major: int, kills: int) -> None:
    """Killed, recovered from what was received, started again, and killed again."""
    choices, last = seeded(), 0
    with short_folder() as folder, started(major) as server:
        sidecar = make(folder, server)
        server.execute("obcms_prod", "CREATE TABLE rows (n int)")
        with receiving(sidecar) as process:
            for number in range(kills):
                if number:
                    server.container.start()
                    server.wait()
                level(sidecar, server)
                if not number:
                    assert sidecar.run("base").code == 0
                last = killed(sidecar, server, choices, last)
            peak = Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        print(f"the process that receives took {peak} kB at most")
        assert int(peak) * 1024 < LARGEST


def killed(sidecar: Sidecar, server: Server, choices: random.Random, last: int) -> int:
    """Kill the server while it commits, and compare what was received; the last row that it acknowledged."""
    writer = Writer({"host": server.address, "user": USER, "password": PASSWORD, "dbname": "obcms_prod"}, last)
    writer.start()
    until = last + choices.randrange(10, 2000)
    eventually(lambda: writer.acknowledged > until and writer.times[0] < time.monotonic() - 2 * SENDING, 60)
    when = time.monotonic()
    server.container.kill("SIGKILL")
    writer.join()
    sent, found = last + sum(each < when - SENDING for each in writer.times), recovered(sidecar)
    lost = set(range(1, writer.acknowledged + 1)) - found
    ages = [f"{1000 * (writer.ended - writer.times[each - last - 1]):.2f} ms" for each in sorted(lost)]
    told = f"{writer.acknowledged} acknowledged, {sent} of them {SENDING} s before the kill, {len(lost)} lost"
    print(f"PostgreSQL {server.major}: {told}{' that were so old when it ended: ' if ages else ''}{', '.join(ages)}")
    assert last < sent and lost <= set(range(sent + 1, writer.acknowledged + 1))
    return writer.acknowledged
