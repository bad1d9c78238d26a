"""`make soak [MINUTES=120] [SEED=n]`: days of backups, faults and restores, in seconds each.

The seed decides what is done and what happens to it; when it happens depends on the machine, too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
import traceback
from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tests.soak import copies, events, restores, sets
from tests.soak.checker import digests, listed
from tests.soak.world import DATABASE, SETTINGS, World, looked_at, world

# Of what is done, how much happens with a fault.
SHARE = 0.6
_ZONE = ZoneInfo(SETTINGS["TZ"])


def main() -> int:
    # Also where a shell has started it in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = argparse.ArgumentParser(prog="make soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=120)
    options.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options.add_argument("--plant", choices=["row", "file", "byte"], default="", help="a loss that must be seen")
    chosen = options.parse_args()
    print(f"seed: {chosen.seed} · minutes: {chosen.minutes:g} · plant: {chosen.plant or 'nothing'}", flush=True)
    with world(chosen.seed, chosen.plant) as here:
        broken = False
        try:
            lived(here, chosen.minutes * 60)
        except KeyboardInterrupt:
            here.tell("interrupted: ending in good order")
        except Exception:  # noqa: BLE001
            broken = True
            traceback.print_exc()
    return told(here, chosen, broken)


def lived(here: World, seconds: float) -> None:
    """Day after day."""
    sets.created(here, "daily", 0)
    day = here.now.astimezone(_ZONE).date()
    while time.monotonic() - here.began < seconds:
        day += timedelta(days=1) + events.due(here, here.now)
        two = datetime(day.year, day.month, day.day, 2, tzinfo=_ZONE)
        here.ahead += two - here.now
        here.tell(f"{day:%A}: {len(here.rows.links) - 1} transactions, {len(here.files.state)} files")
        lived_day(here, day.weekday() == 6, day.day == 1)


def lived_day(here: World, sunday: bool, first: bool) -> None:
    """What the schedule has, and what people do."""
    chance = here.chance.random
    if chance() < 0.15:
        migrated(here)
    sets.created(here, "daily", SHARE)
    for tier, due in (("weekly", sunday), ("monthly", first), ("manual", chance() < 0.1)):
        if due:
            here.ahead += timedelta(hours=1)
            sets.created(here, tier, SHARE)
    if chance() < 0.05:
        pinned(here)
    here.ahead += timedelta(hours=1)
    copies.sent(here, SHARE)
    sets.removed(here, SHARE)
    if sunday:
        copies.removed(here)
    if sunday or chance() < 0.1:
        sets.drilled(here, SHARE)
    if chance() < 0.35:
        sets.harmed(here)
    here.ahead += timedelta(hours=3)
    if chance() < 0.5:
        restores.restored(here, SHARE)
    audited(here)


def migrated(here: World) -> None:
    """The application's next release."""
    here.migrations += 1
    n, table = here.migrations, f"extra_{here.migrations % 8}"
    here.server.execute(
        DATABASE,
        f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} AS SELECT i, md5((i * {n})::text) AS body"
        f" FROM generate_series(1, 200) i; ALTER TABLE {table} ADD PRIMARY KEY (i);"
        f" GRANT SELECT ON {table} TO PUBLIC; INSERT INTO odd (body) VALUES ('release {n}')",
    )
    here.tell(f"  release {n} of the application")


def pinned(here: World) -> None:
    """Somebody keeps a set."""
    each = here.chance.choice(sets.known(here))
    if len(here.pinned) < 3 and here.run("pin", each).code == 0:
        here.pinned.add(each)


def audited(here: World) -> None:
    """What was verified is as it was, byte for byte; what is not ours, too; everybody is at work."""
    there = listed(here.root)
    for each, known in here.intact.items():
        if each not in there and not superseded(here, each, there):
            here.found("lost", f"{each} is gone, and no cleanup took it")
        elif each in there and each not in here.damaged and digests(there[each]) != known:
            here.found("lost", f"{each} is not what it was")
            here.damaged.add(each)
    here.intact = {each: known for each, known in here.intact.items() if each in there}
    for path, known_as in here.foreign.items():
        if not os.path.lexists(path):
            here.found("lost", f"{path} was not ours, and is gone")
        elif looked_at(path) != known_as:
            here.found("lost", f"{path} was not ours, and is changed")
    for log in (*here.root.glob("logs/*"), *here.root.glob("state/**/*.json")):
        if log.is_file() and b"canary" in log.read_bytes():
            here.found("breaches", f"{log.name} has the password in it")
    assert here.rows.is_alive() and here.files.is_alive(), "a writer has died"


def superseded(here: World, identifier: str, there: Iterable[str]) -> bool:
    """Whether a restore may have removed this safety set: ten newer ones are there, and it is older than a week."""
    tier, _, stamp = identifier.partition("_")
    newer = [each for each in there if each.startswith(f"{tier}_") and each > identifier]
    made = datetime.strptime(stamp[:10], "%Y-%m-%d").replace(tzinfo=_ZONE)
    return tier == "pre-restore" and len(newer) >= 10 and here.now - made > timedelta(days=7)


def told(here: World, chosen: argparse.Namespace, broken: bool) -> int:
    """The end: what was found, and how to have it again."""
    found = here.findings
    for kind in ("false", "lost", "breaches"):
        for words in getattr(found, kind):
            print(f"{kind}: {words}")
    done = ", ".join(f"{count} {command}" for command, count in found.events.most_common())
    print("faults by kind: " + ", ".join(f"{count} {kind}" for kind, count in sorted(found.faults.items())))
    print(f"commands: {done} · breaches of other promises: {len(found.breaches)}")
    print(
        f"faults injected: {found.faults.total()} of {len(found.faults)} kinds · false successes: {len(found.false)} ·"
        f" verified losses: {len(found.lost)} · seed: {chosen.seed}"
    )
    if broken or not found.well:
        plant = f" PLANT={chosen.plant}" if chosen.plant else ""
        print(f"again: make soak MINUTES={chosen.minutes:g} SEED={chosen.seed}{plant}")
    return int(broken or not found.well)


if __name__ == "__main__":
    raise SystemExit(main())
