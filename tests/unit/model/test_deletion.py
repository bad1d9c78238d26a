"""Which commits deleted rows, by lines of pg_waldump as 15 and 18 write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backup.model.deletion import Deletion, DeletionReader, TableFile

HEAD = "rmgr: {:<11} len (rec/tot):     54/    54, tx: {:>10}, lsn: 0/0179{:04X}, prev 0/01795728, desc: "
OLD = "DELETE off 42 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/5/{} blk 58"
NEW = "DELETE xmax: 758, off: 23, infobits: [KEYS_UPDATED], flags: 0x00, blkref #0: rel 1663/5/{} blk 14"
AT = "2026-11-30 00:33:47.536080 UTC"
TIME = datetime(2026, 11, 30, 0, 33, 47, 536080, tzinfo=UTC)


def found(*told: str | tuple[int, str], least: int = 2) -> list[tuple[int, list[int]]]:
    """What is found in a transaction's number and what it did, line by line; plain text as it is."""
    return [(each.rows, [file.number for file in each.files]) for each in read(*told, least=least)]


def read(*told: str | tuple[int, str], least: int = 2) -> list[Deletion]:
    reader = DeletionReader(least)
    lines = [
        each if isinstance(each, str) else HEAD.format("Heap", each[0], number) + each[1]
        for number, each in enumerate(told)
    ]
    return [each for line in lines for each in reader.take(line)]


@pytest.mark.parametrize("form", [OLD, NEW])
def test_rows_are_counted_by_commit_and_table(form: str) -> None:
    one, two = form.format(16384), form.format(16999)
    assert found((7, one), (8, two), (7, one), (7, two), (7, f"COMMIT {AT}")) == [(2, [16384])]
    assert found((7, one), (7, f"COMMIT {AT}")) == []
    assert found((7, two), (7, one), (7, one), (7, two), (7, one), (7, f"COMMIT {AT}")) == [(3, [16384]), (2, [16999])]


def test_what_was_rolled_back_took_nothing() -> None:
    row = NEW.format(16384)
    assert found((7, row), (7, row), (7, f"ABORT {AT}"), (7, f"COMMIT {AT}")) == []


def test_subtransactions_count_for_the_whole_but_for_those_that_were_rolled_back() -> None:
    row = NEW.format(16384)
    told = [(7, row), (8, row), (8, row), (9, row), (9, f"ABORT {AT}"), (7, f"COMMIT {AT}; subxacts: 8 10")]
    assert found(*told) == [(3, [16384])]


def test_a_prepared_transaction_counts_when_it_is_committed() -> None:
    row = NEW.format(16384)
    assert found((7, row), (7, row), (0, f"COMMIT_PREPARED 7: {AT}; subxacts: 8")) == [(2, [16384])]
    assert found((7, row), (7, row), (0, f"ABORT_PREPARED 7: {AT}"), (7, f"COMMIT {AT}")) == []


def test_catalogs_and_temporary_tables_are_nobodys_loss() -> None:
    row = NEW.format(1259)
    assert found((7, row), (7, row), (7, f"COMMIT {AT}; rels: base/5/2619 base/5/t3_16390; inval msgs: x")) == []


def test_files_that_went_are_told_with_their_commit() -> None:
    (one,) = read((7, f"COMMIT {AT}; rels: base/5/16388 base/5/16384; dropped stats: 2/5/16384"))
    assert one.rows == 0 and one.files == (TableFile(5, 16388), TableFile(5, 16384)) and one.count == 2
    assert (one.time, one.before) == (TIME, TIME - timedelta(microseconds=1))
    assert one.before_lsn == "0/178FFFF"


def test_other_lines_are_none_of_its_business() -> None:
    assert (
        found("", "first record is after 0/1000000, at 0/1000028, skipping over 40 bytes", (7, "INSERT off: 1")) == []
    )
