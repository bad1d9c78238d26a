"""How psql is kept to what a dump may say."""

from __future__ import annotations

import re

import pytest

from backup.postgres.psql import confined


@pytest.mark.parametrize("version", [130022, 140019, 150014, 160010, 170006, 180000, 190001])
def test_a_psql_that_can_be_is_confined_by_a_key_of_its_own(version: int) -> None:
    keys = [re.fullmatch(rb"\\restrict ([0-9a-f]{64})\n", confined(version)) for _ in range(2)]
    assert keys[0] and keys[1] and keys[0][1] != keys[1][1]


@pytest.mark.parametrize("version", [0, 120022, 130021, 150013, 170005])
def test_one_that_does_not_know_how_is_not_told_to(version: int) -> None:
    assert confined(version) == b""
