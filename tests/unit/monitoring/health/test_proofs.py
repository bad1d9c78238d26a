"""A set that does not load is not good, whoever asks; and what is known of sets with the same definitions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from backup.catalog import retention
from backup.catalog.catalog import Catalog
from backup.catalog.retention import RetentionPolicy
from backup.cli.render.set_tables import set_page, shown_state
from backup.model.backup_set import LoadTest, Proof, StoredSet, Verdict, judge, merge_verdicts, precedent
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.monitoring.health import evaluate, newest_database
from tests.support.facts import NOW, UTC_ZONE, a_set, on_disk

REFUSAL = "psql ended with exit code 3: ERROR: function unaccent(text) does not exist"
# As releases before wrote it.
OLD = f'{{"checked": "2025-10-20T00:00:00Z", "proof": {{"tried": "2025-10-20T00:00:00Z", "differences": ["it does not load: {REFUSAL}"]}}}}'  # noqa: E501
HASHES = ("a" * 64, "b" * 64)


def defined(stored: StoredSet, definitions: str = HASHES[0], image: str = "") -> StoredSet:
    """The set, with a hash of its definitions."""
    assert stored.manifest and stored.manifest.database
    part = stored.manifest.database.model_copy(
        update={"definitions": definitions, "environment": HASHES[1], "image_id": image}
    )
    return replace(stored, manifest=stored.manifest.model_copy(update={"database": part}))


def found(stored: StoredSet, *, proof: str | None = None, test: LoadTest | None = None, ago: float = 0) -> StoredSet:
    """The set, with what a drill found (nothing: it is proven) and what the try of its definitions did."""
    assert stored.manifest
    tried = NOW - timedelta(hours=ago)
    shown = None if proof is None else Proof(tried=tried, differences=(proof,) if proof else (), remedy="Do that.")
    verdict = Verdict(checked=tried, proof=shown, load_test=test)
    state_, problem = judge(stored.manifest, verdict, "")
    return replace(stored, verdict=verdict, state=state_, problem=problem)


def a_test(ago: float = 0, **what: str) -> LoadTest:
    return LoadTest(tried=NOW - timedelta(hours=ago), **what)


REFUSED = f"it does not load: {REFUSAL}"


def health(*sets: StoredSet, runs: Sequence[Run] = ()) -> list[tuple[str, str]]:
    told = evaluate(sets, runs, NOW, max_age=timedelta(hours=26), scheduler=None)
    return [(reason.level, reason.text) for reason in told.reasons]


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict.model_validate_json(OLD),
        Verdict(checked=NOW, proof=Proof(tried=NOW, differences=(REFUSED,))),
        Verdict(checked=NOW, load_test=a_test(refusal=REFUSAL)),
    ],
)
def test_a_set_that_does_not_load_is_not_good(tmp_path: Path, verdict: Verdict) -> None:
    (older, newer) = on_disk(tmp_path, 30, 2)
    catalog = Catalog(tmp_path, UTC_ZONE)
    catalog.record_verdict(catalog.find(newer), verdict)
    stored = catalog.find(newer)
    assert (stored.state, stored.problem) == ("does not load", REFUSAL)
    assert not (stored.good or stored.verified or stored.proven or stored.loads)
    assert catalog.find("latest").id == older
    assert shown_state(stored) == "does not load"


def test_one_that_loads_and_differs_is_good_as_before() -> None:
    stored = found(a_set(1), proof="table x differs")
    assert stored.good and stored.verified and stored.loads and not stored.proven
    assert [severity for severity, _ in health(stored)] == ["warn"]


def test_a_later_drill_of_all_of_it_counts_more_than_its_definitions_alone() -> None:
    assert found(a_set(1), proof="", test=a_test(refusal=REFUSAL)).loads
    assert found(a_set(1), proof=REFUSED, test=a_test()).state == "does not load"


def test_a_verification_keeps_what_was_tried() -> None:
    there = Verdict(checked=NOW, load_test=a_test(refusal=REFUSAL))
    for problems in ((), ("a bit",)):
        kept = merge_verdicts(Verdict(checked=NOW, problems=problems), there, NOW)
        assert kept.load_test == there.load_test
    newer = a_test(server_version="18")
    assert merge_verdicts(Verdict(checked=NOW, load_test=newer), there, NOW).load_test == newer


def test_retention_does_not_count_it_and_does_not_keep_it_as_the_newest() -> None:
    policy = RetentionPolicy({Tier.DAILY: timedelta(days=7)}, minimum=2, share=100, fresh=timedelta(days=2))
    good = [replace(a_set(hours), files=("a.sql.gz",)) for hours in (24, 48, 24 * 20)]
    bad = replace(found(a_set(1), proof=REFUSED), files=("a.sql.gz",))
    decided = {d.stored.id: d for d in retention.decide([bad, *good], policy, NOW)}
    assert "the newest" in decided[good[0].id].reason and "verified" in decided[good[1].id].reason
    assert decided[bad.id].reason.startswith("1 h") and not decided[good[2].id].keep
    old = replace(bad, id="daily_2025-09-01_00-00-00", time=NOW - timedelta(days=49))
    assert old.manifest
    old = replace(old, manifest=old.manifest.model_copy(update={"id": old.id}))
    (told,) = [d for d in retention.decide([old, *good], policy, NOW) if d.stored is old]
    assert not told.keep and told.reason.startswith("does not load, 49 d")
    (told,) = [d for d in retention.decide([old, good[2]], policy, NOW) if d.stored is old]
    assert told.keep and told.reason.startswith("does not load, but 1 newer verified")
    assert retention.stale([bad], policy, NOW) == "there is no good set of the database"


def test_it_is_critical_until_a_newer_set_has_shown_to_load() -> None:
    rows, definitions = found(a_set(2), proof=REFUSED), found(a_set(2), test=a_test(refusal=REFUSAL))
    for bad in (rows, definitions):
        assert ("fail", f"the newest set, {bad.id}, does not load: {REFUSAL}") in health(bad, a_set(24))
    by_definitions, untried = found(a_set(1), test=a_test()), found(a_set(1), test=a_test(untried="no engine"))
    assert ("fail", f"{rows.id} does not load: {REFUSAL}") in health(rows, by_definitions)
    assert ("warn", f"{definitions.id} does not load: {REFUSAL}") in health(definitions, by_definitions)
    assert ("fail", f"{definitions.id} does not load: {REFUSAL}") in health(definitions, untried)
    assert ("warn", f"{rows.id} does not load: {REFUSAL}") in health(rows, found(a_set(1), proof=""))
    assert newest_database([rows, a_set(24)]) == a_set(24)


def test_that_nobody_tried_it_is_a_warning_of_sets_that_could_be_tried() -> None:
    assert health(a_set(1)) == []
    (told,) = health(defined(a_set(1)))
    assert told[0] == "warn" and "was not load-tested" in told[1]
    tried = found(defined(a_set(1)), test=a_test(untried="there is no engine"))
    (told,) = health(tried)
    assert told == ("warn", f"{tried.id} was not load-tested: there is no engine")
    assert health(found(defined(a_set(1)), test=a_test(alike="daily_x"))) == []
    assert health(found(defined(a_set(1)), test=a_test(untried="no engine"), proof="")) == []


@pytest.mark.parametrize(
    ("trigger", "minutes", "status"), [("first", 1, "starting"), ("first", 11, "warn"), ("", 1, "warn")]
)
def test_while_the_first_backup_tries_its_set_the_service_starts(trigger: str, minutes: float, status: str) -> None:
    """Else a command that is typed once it is healthy finds the volume in use."""
    made, ended = defined(a_set(1)), NOW - timedelta(minutes=minutes)
    first = Run(
        id="a",
        operation="create",
        tier="daily",
        trigger=trigger,
        set=made.id,
        started=ended,
        ended=ended,
        outcome=Outcome.SUCCESS,
    )
    (told,) = health(made, runs=[first])
    assert told[0] == status and made.id in told[1]
    assert [each for each, _ in health(found(made, test=a_test(untried="no engine")), runs=[first])] == ["warn"]


def test_what_is_known_of_sets_with_the_same_definitions() -> None:
    new = defined(a_set(0))
    part = new.manifest.database if new.manifest else None
    assert part is not None

    def known(*sets: StoredSet) -> str | None:
        stored = precedent([new, *sets], part)
        return stored.id if stored else None

    loads = found(defined(a_set(9)), test=a_test(9))
    assert known(loads) == loads.id
    for other in ("c" * 64, ""):
        assert known(found(defined(a_set(9), other), test=a_test())) is None
    assert known(found(defined(a_set(9), image="sha256:1"), test=a_test())) is None
    assert known(found(defined(a_set(9)), test=a_test(untried="no engine"))) is None
    # A drill, which has tried the rows, too, counts before all tries of definitions; the last one counts.
    rows, well = found(defined(a_set(5)), proof=REFUSED, ago=4), found(defined(a_set(8)), proof="", ago=2)
    assert known(loads, rows, found(defined(a_set(3)), test=a_test())) == rows.id
    assert known(loads, rows, well) == well.id


def test_one_set_shows_whether_it_loads() -> None:
    def shown(stored: StoredSet) -> str:
        file = io.StringIO()
        Console(file=file, width=200).print(set_page(stored, UTC_ZONE))
        return file.getvalue()

    assert f"does not load: {REFUSAL}" in shown(found(a_set(1), test=a_test(refusal=REFUSAL)))
    assert "does not load" in shown(found(a_set(1), proof=REFUSED)) and "Do that." in shown(
        found(a_set(1), proof=REFUSED)
    )
    assert "not tried: there is no engine" in shown(found(a_set(1), test=a_test(untried="there is no engine")))
    alike = shown(found(a_set(1), test=a_test(alike="daily_x", server_version="17.2")))
    assert "daily_x, with the same definitions" in alike and "PostgreSQL 17.2" in alike
