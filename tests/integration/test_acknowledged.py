"""A server is killed while it commits: what it acknowledged is in the WAL that was received. KILLS=50 tries longer.

All but the last moment: WAL is sent when it is on the server's disk, and a kill may come before it is sent.
"""

from __future__ import annotations

import os
import threading
import time

import psycopg
import pytest

from tests.integration.test_receive import level, make, receiving, started
from tests.support.database import PASSWORD, USER
from tests.support.faults import eventually, seeded
from tests.support.moments import short_folder
from tests.support.sidecar import Sidecar

KILLS = int(os.environ.get("KILLS", "1"))
# Seconds. On an idle machine milliseconds are enough.
SENDING = 0.5


class Writer(threading.Thread):
    """Commits one row after the other until the server is gone. `acknowledged` is the last that was committed."""

    def __init__(self, conninfo: dict[str, str]) -> None:
        super().__init__(name="writer")
        self._conninfo = conninfo
        self.acknowledged = 0
        self.times: list[float] = []

    def run(self) -> None:
        with psycopg.connect(**self._conninfo, autocommit=True) as connection:
            try:
                while True:
                    connection.execute("INSERT INTO rows VALUES (%s)", (self.acknowledged + 1,))
                    self.acknowledged += 1
                    self.times.append(time.monotonic())
            except psycopg.OperationalError:
                pass


def recovered(sidecar: Sidecar) -> int:
    """The newest row of the newest moment."""
    done = sidecar.run("create", "--at", "latest")
    assert done.code == 0, done.output
    taken = sidecar.run("extract", sidecar.sets()[0].id, "--table", "public.rows", "--data-only")
    assert taken.code == 0, taken.output
    return max(int(line) for line in taken.output.splitlines() if line.isdigit())


@pytest.mark.parametrize("number", range(KILLS))
def test_no_acknowledged_row_is_lost(number: int) -> None:
    random = seeded()
    with short_folder() as folder, started((15, 17, 18)[number % 3]) as server:
        sidecar = make(folder, server)
        server.execute("obcms_prod", "CREATE TABLE rows (n int)")
        with receiving(sidecar):
            level(sidecar, server)
            assert sidecar.run("base").code == 0
            login = {"user": USER, "password": PASSWORD, "dbname": "obcms_prod"}
            writer = Writer({"host": server.address, **login})
            writer.start()
            until = random.randrange(10, 2000)
            eventually(lambda: writer.acknowledged > until and writer.times[0] < time.monotonic() - 2 * SENDING, 60)
            killed = time.monotonic()
            server.container.kill("SIGKILL")
            writer.join()
        sent, found = sum(each < killed - SENDING for each in writer.times), recovered(sidecar)
        print(f"{writer.acknowledged} acknowledged, {sent} of them {SENDING} s before the kill, {found} recovered")
        assert 0 < sent <= found
