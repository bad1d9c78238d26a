"""The checker of `make soak` sees what it is there for, and borrows nothing from what it judges."""

from __future__ import annotations

import ast
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak import checker, writers
from tests.soak.checker import Data, Expectation
from tests.soak.writers import ACCOUNTS, KEPT_EVENTS, Files, amount, chain, tree

TOKENS = [f"{n * 97 % 65536:016x}"[::-1] for n in range(1, KEPT_EVENTS + 100)]


def database(tokens: list[str]) -> Data:
    """What a server holds after these."""
    mine = [[(n, token) for n, token in enumerate(tokens, 1) if n % ACCOUNTS == each] for each in range(ACCOUNTS)]
    accounts = [(len(rows), sum(amount(token) for _, token in rows)) for rows in mine]
    events = [(n, token[::-1]) for n, token in enumerate(tokens, 1)][-KEPT_EVENTS:]
    return Data(tokens, accounts, events, {"content odd": "2 77"})


def expectation(low: int, high: int) -> Expectation:
    return Expectation(low, chain(TOKENS)[low : high + 1], {"content odd": "2 77"}, {})


@pytest.mark.parametrize("count", [500, 505, 510])
def test_whatever_was_acknowledged_meanwhile_may_be_in_it(count: int) -> None:
    assert list(expectation(500, 510).database(database(TOKENS[:count]))) == []


WHOLE = database(TOKENS[:505])
LOSSES = {
    "an acknowledged row": database(TOKENS[:499]),
    "rows that were never acknowledged": database(TOKENS[:511]),
    "a row in the middle": database(TOKENS[:100] + TOKENS[101:506]),
    "two rows in another order": database([*TOKENS[:3], TOKENS[4], TOKENS[3], *TOKENS[5:505]]),
    "an event": replace(WHOLE, events=WHOLE.events[1:]),
    "half a transaction": replace(WHOLE, accounts=[(0, 0), *WHOLE.accounts[1:]]),
    "a value elsewhere": replace(WHOLE, rest={"content odd": "2 78"}),
    "a table": replace(WHOLE, rest={}),
    "an index too many": replace(WHOLE, rest={**WHOLE.rest, "index odd": ""}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_is_seen(loss: str) -> None:
    assert list(expectation(500, 510).database(LOSSES[loss]))


@pytest.mark.long
def test_files_are_what_they_were_at_some_moment(tmp_path: Path) -> None:
    files = Files(tmp_path, random.Random(1))
    with files.watched() as allowed:
        seen = [tree(tmp_path) for _ in range(300) if files.step() is None]
    expected = Expectation(0, [b""], {}, allowed)
    assert all(list(expected.tree(each)) == [] for each in seen)
    after = tree(tmp_path)
    assert after == files.state
    with files.watched() as allowed:
        pass
    expected, stays = Expectation(0, [b""], {}, allowed), next(iter(after))
    for wrong in ({**after, stays: "0644 other"}, {**after, "uploads/new": "0644 x"}, {**after, stays: "missing"}):
        assert len(list(expected.tree(wrong))) == 1
    del after[stays]
    assert len(list(expected.tree(after))) == 1
    assert list(replace(expected, changed=frozenset([stays])).tree(after)) == []


def test_a_file_that_was_there_all_the_time_is_missed_under_every_name(tmp_path: Path) -> None:
    """Both of its names may be absent, each by itself: it was renamed."""
    files = Files(tmp_path, random.Random(1))
    for _ in range(20):
        files.step()
    with files.watched() as allowed:
        before = tree(tmp_path)
        path = next(each for each, mark in before.items() if list(before.values()).count(mark) == 1)
        files.renamed(path)
        after = tree(tmp_path)
        for _ in range(50):
            files.step()
    expected = Expectation(0, [b""], {}, allowed, kept=frozenset(files.kept.values()))
    assert {*before} - {*after} == {path}
    for found in (before, after):
        assert list(expected.tree(found)) == []
    lost = {each: mark for each, mark in after.items() if mark != before[path]}
    kept = replace(expected, kept=frozenset([before[path]]))
    (words,) = kept.tree(lost)
    assert path in words and "under every name" in words
    assert list(replace(kept, changed=frozenset(["uploads"])).tree(lost)) == [], "the set says so"


@pytest.mark.parametrize("module", [checker, writers])
def test_nothing_of_the_product_is_in_it(module: object) -> None:
    source = Path(str(module.__file__)).read_text()  # type: ignore[attr-defined]
    imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("backup" in ast.unparse(node) for node in imported)


@pytest.mark.parametrize(("found", "well"), [("7", True), ("39", True), ("40", False), ("6", False), ("", False)])
def test_a_sequence_may_be_ahead_as_after_a_crash_but_never_behind(found: str, well: bool) -> None:
    name = "content odd_id_seq"
    rest = {name: found} if found else {}
    expected = replace(expectation(500, 510), rest={name: "7"})
    assert (list(expected.database(replace(WHOLE, rest=rest))) == []) is well
