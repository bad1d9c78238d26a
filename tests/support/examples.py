"""How many examples a property is tried with: few where it runs often, many in `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

# What the counts of properties are told by: with so many, each is tried as often as it says.
_USUAL: Final = 40
# Where they run often, and each push waits for them; and where somebody does, who runs them again and again.
_OFTEN: Final = 25
_QUICK: Final = 10
# `make fuzz` tries so many times as many.
_LONGER: Final = 10


def register() -> None:
    """Register the profiles: `here`, `quick`, `ci` (the same examples each time) and `fuzz` (many, at random)."""
    # A busy machine is no flaw of the code.
    usual = settings(
        deadline=None,
        stateful_step_count=25,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile("here", usual, max_examples=_OFTEN)
    settings.register_profile("quick", usual, max_examples=_QUICK)
    settings.register_profile("ci", usual, max_examples=_OFTEN, derandomize=True)
    settings.register_profile("fuzz", usual, max_examples=_USUAL * _LONGER, stateful_step_count=50)


def thinned(cases: Sequence[T], every: int) -> Sequence[T]:
    """All of the cases in `make fuzz`, else the first and the last and each of so many between them."""
    return cases if settings().max_examples > _USUAL else [*cases[:-1:every], cases[-1]]


def every(count: int) -> int:
    """The step by which a sweep goes: 1 in `make fuzz` and with FULL_SWEEP=1."""
    return 1 if os.environ.get("FULL_SWEEP") or settings().max_examples > _USUAL else count


def examples(count: int) -> settings:
    """Settings for a property that wants `count` examples: five of eight, or ten times as many in `make fuzz`."""
    return settings(max_examples=max(1, count * settings().max_examples // _USUAL))
