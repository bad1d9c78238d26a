"""The real scheduler wakes the service, and nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from backup.service.supervisor import WAKE, Family, Signals, Supercronic, scan
from tests.support.faults import eventually

# Every second instead of every minute.
FAST = """#!/bin/sh
for file; do :; done
sed -i 's|^|* * |' "$file"
exec {real} "$@"
"""


def test_the_scheduler_wakes_us(tmp_path: Path) -> None:
    family, place = Family(), tmp_path / "supercronic"
    real = shutil.which(os.environ.get("SUPERCRONIC") or Path(sys.executable).parent / "supercronic")
    assert real, "supercronic is not installed: run tools/supercronic, or set SUPERCRONIC to its path"
    env = os.environ | {"TZ": "America/New_York"}
    place.write_text(FAST.format(real=real))
    place.chmod(0o700)
    scheduler = Supercronic(family, tmp_path, str(place), env, as_json=False)
    with Signals(WAKE) as signals:
        scheduler.start(0.0)
        assert signals.wait(20) == {WAKE}
        # Nothing is left that could wake us later.
        os.kill(scheduler.pid, signal.SIGKILL)
        eventually(lambda: scheduler.tend(1.0))
        eventually(lambda: not family.members(scan()))
