"""The table of ratios keeps what other benchmarks found, and says what has become worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results

TAKEN = {"gunzip | psql": [10.0, 20.0, 10.0], "backup restore": [8.0, 10.0, 9.0], "pg_restore": [9.0, 9.0, 9.0]}


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    found = results.rows("restore", TAKEN, "gunzip | psql", "here")
    assert {name: row.ratio for (_, name), row in found.items()} == {
        "gunzip / psql": 1.0,
        "backup restore": 0.8,
        "pg_restore": 0.9,
    }


def test_what_is_written_is_read() -> None:
    found = results.rows("restore, 10 | 20", TAKEN, "gunzip | psql", "2026-11-30, 2 cores, here")
    assert results.read(results.write(found)) == found


@pytest.mark.parametrize(("seconds", "count"), [(8.0, 0), (9.1, 0), (9.3, 1)])
def test_fifteen_percent_worse_is_told(seconds: float, count: int) -> None:
    before = results.rows("restore", TAKEN, "gunzip | psql", "here")
    slower = TAKEN | {"backup restore": [seconds, seconds * 2, seconds], "pg_restore": [99.0] * 3}
    told = results.worse(before, results.rows("restore", slower, "gunzip | psql", "here"))
    assert len(told) == count and all("0.80 before" in each for each in told)


def test_others_rows_stay_and_nothing_committed_is_no_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PATH", tmp_path / "RESULTS.md")
    assert results.keep("one", TAKEN, "gunzip | psql") == []
    assert results.keep("two", TAKEN, "gunzip | psql") == []
    assert [title for title, _ in results.read(results.PATH.read_text())] == ["one"] * 3 + ["two"] * 3
