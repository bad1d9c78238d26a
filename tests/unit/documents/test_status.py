"""The status as programs see it: its schema, all of the Overview, UTC, nothing secret."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import pytest

from backup.documents.status import STATUS
from backup.monitoring.overview import Overview
from tests.support import overviews
from tests.support.schemas import checked


def body(overview: Overview) -> Any:
    """As a client sees it."""
    return checked(STATUS.of(overview).encode())


@pytest.mark.parametrize("name", ["healthy", "recoverable", "warning", "critical", "starting", "empty", "hostile"])
def test_it_is_of_its_schema(name: str) -> None:
    assert body(getattr(overviews, name)())["kind"] == "status"


def test_no_field_of_the_overview_is_forgotten() -> None:
    shown = {"now": "time", "slots": "schedule", "alerting": "alerts"}
    for_people_alone = {"logged"}
    told = {shown.get(each.name, each.name) for each in fields(Overview)} - for_people_alone
    assert told <= set(body(overviews.healthy()))


def test_the_values_are_those_of_the_overview() -> None:
    seen = overviews.warning()
    got = body(seen)
    assert (got["format"], got["zone"], got["time"]) == (1, "Asia/Manila", "2025-11-24T19:12:00Z")
    assert (got["health"]["status"], len(got["health"]["reasons"])) == ("warn", 3)
    assert [each["id"] for each in got["sets"]] == [stored.id for stored in seen.sets]
    newest = got["sets"][0]
    assert (newest["good"], newest["proven"], newest["size_bytes"]) == (True, False, seen.sets[0].size)
    assert newest["database"]["name"] == "obcms_prod" and newest["database"]["rows"] == 1_240_012
    assert newest["volumes"][0]["files"] > 48_000
    assert got["clocks"][1]["age_seconds"] > got["clocks"][1]["limit_seconds"] == 15 * 86_400
    assert got["runs"][0]["outcome"] == "complete with changes" and got["runs"][0]["duration_seconds"] > 100
    assert got["restore_seconds"] == 512


def test_times_are_utc_and_unknown_is_null() -> None:
    got = body(overviews.empty())
    assert [clock["set"] for clock in got["clocks"]] == [None, None, None]
    assert (got["restore_seconds"], got["storage"]["growth_bytes_per_day"], got["alerts"]["last_heartbeat"]) == (
        None,
    ) * 3
    times = re.findall(r'"(\d{4}-\d\d-\d\dT[^"]*)"', json.dumps(body(overviews.warning())))
    assert len(times) > 100 and all(time.endswith("Z") for time in times)


def test_no_control_character_gets_through() -> None:
    text = json.dumps(body(overviews.hostile()), ensure_ascii=False)
    assert not re.search("[\x00-\x1f\u202a-\u202e\u2066-\u2069]", text)
    assert not re.search(r"(?<!\\)(?:\\\\)*\\(u00[01]|[nrt])", text)
