"""benchmarks/RESULTS.md: the ratios of the last runs. Whoever is 15 % worse than what is committed there fails.

A ratio is the median of each round's own, to the first line of its benchmark: a slow minute of the machine hits both.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

PATH: Final = Path(__file__).with_name("RESULTS.md")
# How much worse than before is noise.
LIMIT: Final = 1.15
_HEAD: Final = """# Results

What the benchmarks found when they last ran: `make bench`, or one of them alone. Ratios are medians of each round's
own, to the first contender of the benchmark. A run ends with an error where a ratio of the product is 15 % worse than
the one that is committed here. [Where the seconds go](../docs/benchmarks.md)

| benchmark | contender | ratio | median s | when, on what |
|---|---|---|---|---|
"""
_ROW: Final = re.compile(r"\| (?P<title>[^|]+) \| (?P<name>[^|]+) \| (?P<ratio>[\d.]+) \| (?P<rest>.+) \|")


class Row(NamedTuple):
    """One contender: `ratio` to the first of its benchmark, `rest` for people."""

    ratio: float
    rest: str


Table = dict[tuple[str, str], Row]


def read(text: str) -> Table:
    """The rows of a file, by benchmark and contender (in which a bar is written as a slash)."""
    return {(each["title"], each["name"]): Row(float(each["ratio"]), each["rest"]) for each in _ROW.finditer(text)}


def write(table: Table) -> str:
    """The file that has these rows."""
    lines = (f"| {title} | {name} | {row.ratio:.2f} | {row.rest} |" for (title, name), row in table.items())
    return _HEAD + "\n".join(lines) + "\n"


def rows(title: str, taken: Mapping[str, Sequence[float]], floor: str, where: str) -> Table:
    """What one benchmark found: seconds of each contender, round by round."""
    found = {}
    for name, seconds in taken.items():
        ratio = statistics.median(each / least for each, least in zip(seconds, taken[floor], strict=True))
        found[_cell(title), _cell(name)] = Row(round(ratio, 2), f"{statistics.median(seconds):.2f} | {where}")
    return found


def worse(before: Table, now: Table) -> list[str]:
    """The rows of the product that are worse than before."""
    return [
        f"{title}: {name}: {row.ratio:.2f} times the first contender, {before[title, name].ratio:.2f} before"
        for (title, name), row in now.items()
        if name.startswith("backup") and (title, name) in before and row.ratio > LIMIT * before[title, name].ratio
    ]


def keep(title: str, taken: Mapping[str, Sequence[float]], floor: str) -> list[str]:
    """Write down what one benchmark found; what of it is worse than what is committed."""
    now = rows(title, taken, floor, _where())
    there = read(PATH.read_text()) if PATH.exists() else {}
    PATH.write_text(write(there | now))
    return worse(read(_output("git", "-C", str(PATH.parent), "show", f"HEAD:./{PATH.name}")), now)


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _where() -> str:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    machine = f"{cores} cores of {model[1] if model else platform.machine()}, Linux {platform.release().split('-')[0]}"
    engine = _output("docker", "version", "--format", "{{.Server.Version}}").strip()
    revision = _output("git", "-C", str(PATH.parent), "rev-parse", "--short", "HEAD").strip()
    return _cell(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, engine {engine}, {revision}")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
