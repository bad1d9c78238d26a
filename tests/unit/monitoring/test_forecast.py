"""How large the next set will be, and when it is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import NoSpace
from backup.model.manifest import Artifact, DatabasePart, Manifest, Tier
from backup.monitoring import forecast

NOW = datetime(2025, 10, 20, tzinfo=UTC)
GB = 10**9


def last(database: int, dumped: int, stored: int) -> Manifest:
    artifact = Artifact(
        kind="database", file="x.sql.gz", stored_size=stored, stored_sha256="0" * 64, plain_size=dumped,
        plain_sha256="0" * 64,
    )  # fmt: skip
    part = DatabasePart(
        name="d", oid=1, system_identifier="1", server_version="17", client_version="17", command=(), rows={},
        size=database,
    )  # fmt: skip
    return Manifest(
        id="daily_x", tier=Tier.DAILY, run="r", started=NOW, ended=NOW, started_local="", ended_local="", zone="UTC",
        product_version="0", artifacts=(artifact,), database=part,
    )  # fmt: skip


def test_the_last_set_tells_the_next() -> None:
    assert forecast.next_set(last(10 * GB, 6 * GB, 2 * GB), 20 * GB, {}) == pytest.approx(4.7 * GB, rel=0.01)
    assert forecast.plain_dump(last(10 * GB, 6 * GB, 2 * GB), 20 * GB) == 12 * GB


def test_a_first_set_is_judged_by_what_is_there() -> None:
    assert forecast.next_set(None, 10 * GB, {"media": 5 * GB}) == pytest.approx(7.5 * GB, rel=0.01)
    assert forecast.plain_dump(None, 10 * GB) is None


def test_a_tiny_last_set_tells_little() -> None:
    assert forecast.next_set(last(GB, GB, 1000), 20 * GB, {}) == pytest.approx(4.75 * GB, rel=0.01)


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_more_data_never_needs_less_room(database: int, media: int) -> None:
    small = forecast.next_set(None, database, {"media": media})
    assert forecast.next_set(None, database + GB, {"media": media + GB}) >= small >= media


def test_what_does_not_fit_is_not_started() -> None:
    forecast.require_space(100, 100)
    with pytest.raises(NoSpace, match="nothing was started") as caught:
        forecast.require_space(2 * GB, GB)
    assert "2.0 GB" in caught.value.message and caught.value.hint
