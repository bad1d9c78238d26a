#!/usr/bin/env bash
# A range of one value, as a form that lets people choose "from" and "to" writes it.
#
# Expected: `0 3-3 * * *` is three o'clock once a day and `0 3 * * 5-5` each Friday, as cron and cronsim read them; or the
# line is refused.
# Seen, croniter 7.0.0: both ends equal is taken for a range that goes all the way around, so `3-3` is every hour, and
# `5-5` every weekday; in every field, for names, too. is_valid() says True. `3-3` as one of several parts does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check croniter==7.0.0 cronsim==2.8
"$folder/venv/bin/python" - <<'PY'
from datetime import datetime, timedelta

from cronsim import CronSim
from croniter import croniter

BEGIN = datetime(2026, 1, 1)
counted = []
for line in ("0 3-4 * * *", "0 3-3 * * *", "5-5 3 * * *", "0 3 7-7 * *", "0 3 1 4-4 *", "0 3 * * fri-fri", "0 1,3-3 * * *"):
    end, fires, other = BEGIN + timedelta(days=365), CronSim(line, BEGIN), croniter(line, BEGIN)
    row = tuple(sum(1 for _ in iter(lambda nxt=nxt: nxt() < end, False)) for nxt in (
        lambda: other.get_next(datetime), lambda: next(fires)))
    counted.append(row)
    print(f"{line:16} in a year, croniter: {row[0]:6}, cronsim: {row[1]:4}")
if counted != [(730, 730), (8759, 365), (21900, 365), (365, 12), (12, 1), (365, 52), (8759, 730)]:
    raise SystemExit("this has changed")
PY
