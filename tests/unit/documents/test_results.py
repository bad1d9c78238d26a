"""Documents of what the commands' own test on a stack does not come by; that prints all others."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from backup.docker.container import Container
from backup.documents.results import DOCUMENTS
from backup.model.manifest import Tier
from backup.model.run import Run
from backup.monitoring.alerts.model import Attempts, Message, Receipt
from backup.operations.offsite.remote_state import Copy
from backup.operations.offsite.verify_copies import CopyRow
from backup.operations.setup import Media, Plan
from tests.support.schemas import checked

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
CONTAINER = Container(**{each.name: "db" for each in dataclasses.fields(Container)})  # type: ignore[arg-type]


def printed(kind: str, thing: object = None, **fields: object) -> Any:
    return checked(DOCUMENTS[kind].of(thing, **fields).encode())


def test_a_message_and_one_that_is_held_back() -> None:
    tries = {"json://***": Attempts(count=2, next=NOW, error="no\x1b route")}
    sent = Message(id="x", kind="failure", title="t", body="secret", created=NOW, delivered=("mail",), tries=tries)
    messages = printed("messages", messages=[sent, {"kind": "held", "title": "y", "created": NOW}])["messages"]
    assert messages[0]["tries"]["json://***"] == {"count": 2, "next": "2025-10-20T12:00:00Z", "error": "no\\x1b route"}
    assert (messages[0]["delivered"], messages[1]["tries"], "body" in messages[0]) == (["mail"], {}, False)


def test_a_receipt() -> None:
    (receipt,) = printed("receipts", receipts=[Receipt(target="mail", id="x", seconds=1.5)])["receipts"]
    assert receipt == {"target": "mail", "error": "", "duration_seconds": 1.5}


def test_no_span_is_more_than_json_can_say() -> None:
    seconds = {"database": float("nan"), "media": float("inf"), "total": 1.5}
    now = Run(id="r", operation="create", trigger="manual", started=NOW, seconds=seconds)
    assert printed("run", now)["phase_seconds"] == {"total": 1.5}


def test_a_project() -> None:
    media = (Media("media", "/srv", "", bind=True, writers=("web",)),)
    found = printed("setup", Plan("p", CONTAINER, "n", "", media, ("web",), "UTC", "backup", "i"), overlay="a:\n b\n")
    assert found["database"] == {"service": "db", "container": "db", "image": "db"} and found["overlay"] == "a:\n b\n"
    assert found["media"][0]["writers"] == ["web"]


@pytest.mark.parametrize(("folder", "told"), [(None, None), ("/out", "/out")])
def test_a_copy_that_came_back(folder: str | None, told: str | None) -> None:
    assert printed("pull", set="daily", place="s3", folder=folder)["folder"] == told


def test_a_copy_has_one_form_whoever_tells_of_it() -> None:
    row = CopyRow("x", "daily", NOW, 5, "gone", local=True, note="it was there")
    copy = Copy(
        id="x", tier=Tier.DAILY, run="r", time=NOW, database=True, state="gone", problem="it was there", confirmed=NOW
    )
    places = [{"place": "s3", "copies": [row]}, {"place": "s3", "copies": [copy], "read": 7}]
    listed, verified = printed("copies", places=places)["places"]
    assert verified["copies"][0] | {"here": True, "size_bytes": 5} == listed["copies"][0]
    assert (listed["read_bytes"], verified["read_bytes"]) == (None, 7)
