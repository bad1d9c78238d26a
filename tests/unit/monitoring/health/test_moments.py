"""Each rule of the window from both sides: what health says of it, and where it keeps quiet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from backup.model.finding import Finding, warning
from backup.model.run import Outcome, Run
from backup.model.wal import WalSlot, WindowProof
from backup.monitoring.health.moments import window_findings
from backup.monitoring.window import OffsiteWindow, Window
from tests.support.facts import NOW, UTC_ZONE, a_run
from tests.support.windows import a_base, a_stream, a_window, broken_window

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SECOND = timedelta(seconds=1)


def judge(window: Window, runs: Sequence[Run] = (), proof_age: timedelta | None = None) -> list[Finding]:
    return list(window_findings(window, runs, NOW, UTC_ZONE, proof_age))


def told(window: Window, runs: Sequence[Run] = ()) -> tuple[str, str]:
    """The one finding that there is: its level and its text."""
    (found,) = judge(window, runs)
    return found.level, found.text


def streaming(
    lag: timedelta = SECOND, looked: timedelta = SECOND, base: timedelta = 2 * HOUR, **more: object
) -> Window:
    stream = a_stream(6, NOW - lag, NOW - looked, **more)  # type: ignore[arg-type]
    return a_window(NOW, [a_base(5, NOW - base)], {5: NOW - base}, stream=stream)


def bare(begun: timedelta, **more: object) -> Window:
    """A stream, and no base yet."""
    return a_window(NOW, stream=a_stream(6, NOW, NOW, **more), begun=NOW - begun)  # type: ignore[arg-type]


def a_base_run(hours: float, outcome: Outcome, message: str = "") -> Run:
    return a_run(hours, outcome, message, operation="base", hint="Do this.")


def test_all_is_well() -> None:
    assert judge(streaming()) == []


def test_no_stream_at_all() -> None:
    level, text = told(a_window(NOW))
    assert (level, "no WAL has ever been received" in text) == ("fail", True)


@pytest.mark.parametrize(("looked", "lag"), [(MINUTE, MINUTE), (4 * MINUTE, 5 * MINUTE)])
def test_a_stream_may_be_a_little_late(looked: timedelta, lag: timedelta) -> None:
    assert judge(streaming(lag, looked)) == []


def test_a_stream_that_nobody_has_looked_at() -> None:
    (found,) = judge(streaming(10 * MINUTE, 6 * MINUTE, state="down", message="no helper", hint="Pull it."))
    assert found.level == "fail" and "6 min 00 s ago: no helper" in found.text and found.hint.startswith("Pull it.")


def test_a_look_from_the_future_hides_nothing() -> None:
    level, text = told(streaming(looked=-2 * HOUR))
    assert (level, "2 h 00 min ahead" in text) == ("fail", True)


def test_a_stream_that_stands_still_says_since_when_and_why() -> None:
    down = streaming(20 * MINUTE, state="down", message="connection refused", hint="Start the database.")
    (found,) = judge(down)
    assert found.level == "fail" and found.hint.startswith("Start the database.")
    since = "nothing since 2025-10-20 11:40:00 UTC can be brought back: the stream of WAL is down, for 20 min 00 s"
    assert found.text == f"{since} (BACKUP_PITR_MAX_LAG is 300 s): connection refused"
    assert "is behind" in told(streaming(20 * MINUTE))[1]


def test_a_slot_that_is_refused_is_a_warning() -> None:
    refused = WalSlot(name="s", problem="there is no limit", hint="Set one.")
    (found,) = judge(streaming(slot=refused))
    assert (found.level, found.text, found.hint) == (
        "warn",
        "WAL is received without a slot: there is no limit",
        "Set one.",
    )
    assert judge(streaming(slot=WalSlot(name="s", held=5))) == []


def test_a_database_that_restarts_is_no_failure_yet() -> None:
    assert judge(streaming(MINUTE, state="down", message="connection refused")) == []
    assert judge(streaming(MINUTE, state="starting")) == []


def test_a_first_start_has_its_time() -> None:
    new = replace(bare(MINUTE), stream=a_stream(6, None, NOW, state="starting"))
    assert judge(new) == []
    level, text = told(replace(new, begun=NOW - 10 * MINUTE))
    assert (level, "is starting, for 10 min" in text) == ("fail", True)


def test_what_never_began_is_told_at_once() -> None:
    never = a_window(NOW, stream=a_stream(0, None, NOW, state="down", message="no engine"), begun=None)
    assert told(never) == ("fail", "WAL is not received: the stream is down: no engine")
    assert judge(a_window(NOW, stream=a_stream(0, None, NOW, state="starting"), begun=None)) == []


def test_the_first_base_has_its_time() -> None:
    assert judge(bare(10 * MINUTE)) == []
    assert told(bare(HOUR)) == ("fail", "no moment can be brought back: there is no base backup")


@pytest.mark.parametrize("operation", ["base", "create"])
def test_a_base_that_runs_or_waits_is_a_warning(operation: str) -> None:
    running = a_run(2, Outcome.RUNNING, operation=operation)
    level, text = told(bare(HOUR), [running])
    assert (level, f"; {operation} has been running for 2 h 00 min" in text) == ("warn", True)


def test_a_first_base_that_failed_is_told_at_once_and_while_the_next_one_runs() -> None:
    failed = a_base_run(0.1, Outcome.FAILED, "it has tablespaces")
    for runs in ([failed], [failed, a_base_run(0.01, Outcome.RUNNING)]):
        (found,) = judge(bare(10 * MINUTE), runs)
        assert (found.level, found.hint) == ("fail", "Do this.")
        assert found.text.endswith("there is no base backup; the last one: failed: it has tablespaces")


def test_a_base_without_its_wal_is_none() -> None:
    lone = a_window(NOW, [a_base(5, NOW - 2 * HOUR)], {6: NOW}, stream=a_stream(7, NOW, NOW))
    assert told(lone) == ("fail", "no moment can be brought back: the base backup that is here lacks WAL")


def test_after_a_gap_a_base_is_needed() -> None:
    gap = a_window(NOW, [a_base(5, NOW - 2 * HOUR)], {5: NOW - HOUR}, stream=a_stream(9, NOW, NOW))
    level, text = told(gap)
    assert (level, text) == (
        "fail",
        "a gap since 2025-10-20 11:00 UTC: nothing after it can be brought back without a new base",
    )
    assert told(gap, [a_base_run(0.2, Outcome.RUNNING)])[0] == "warn"
    fresh = a_window(NOW, [a_base(5, NOW - 2 * HOUR)], {5: NOW - MINUTE}, stream=a_stream(9, NOW, NOW))
    assert judge(fresh) == []


def test_a_stream_that_is_down_is_no_gap_yet() -> None:
    """What the server still has may yet come: that it stands still is told, and nothing else."""
    assert [each.text[:13] for each in judge(streaming(20 * MINUTE, state="down"))] == ["nothing since"]


def test_a_break_of_late_is_a_warning() -> None:
    level, text = told(broken_window(NOW))
    assert (level, "2025-10-19 20:00 to 20:02 (UTC)" in text) == ("warn", True)
    assert judge(replace(broken_window(NOW), keep=timedelta(hours=15))) == []


def test_an_old_base_is_a_warning_where_one_is_scheduled() -> None:
    old = streaming(base=37 * HOUR)
    level, text = told(old)
    assert (level, "is 37 h 00 min old; the limit is 36 h 00 min" in text) == ("warn", True)
    assert "; the last one: crashed: killed" in told(old, [a_base_run(1, Outcome.CRASHED, "killed")])[1]
    assert judge(streaming(base=35 * HOUR)) == [] == judge(replace(old, base_age=None))


def test_a_drill_that_failed_is_a_failure_until_one_succeeds() -> None:
    proof = WindowProof(tried=NOW - HOUR, base="b", moment=NOW - HOUR, problem="a page is damaged")
    (found,) = judge(replace(streaming(), proof=proof))
    assert found.level == "fail" and found.text.endswith("at 2025-10-20 11:00 UTC: a page is damaged")
    assert judge(replace(streaming(), proof=proof.model_copy(update={"problem": ""}))) == []


def test_a_drill_that_nobody_has_tried_is_not_done() -> None:
    week, day = timedelta(days=7), timedelta(days=1)
    never = replace(streaming(), since=NOW - 2 * week - day)
    (found,) = judge(never)
    assert found.text == "no moment has ever been recovered as a drill, in 15 d 00 h; BACKUP_DRILL is off"
    assert (found.level, "`drill --moments`" in found.hint) == ("warn", True)
    assert judge(never, proof_age=2 * week)[0].text.endswith("as a drill, in 15 d 00 h")
    assert judge(replace(never, since=NOW - week)) == [] == judge(never, proof_age=3 * week)
    proof = WindowProof(tried=NOW - 2 * week - day, base="b", moment=NOW - 2 * week - day)
    (found,) = judge(replace(streaming(), proof=proof), proof_age=2 * week)
    assert (found.level, found.text) == (
        "warn",
        "the newest drill of the window is 15 d 00 h old; the limit is 14 d 00 h",
    )
    assert judge(replace(streaming(), proof=proof)) == [] == judge(replace(streaming(), proof=proof), (), 3 * week)
    (found,) = judge(replace(streaming(), proof=proof.model_copy(update={"tried": NOW + day})), proof_age=2 * week)
    assert found.text == "the newest drill of the window is dated ahead of the clock; the limit is 14 d 00 h"


def test_a_drill_that_failed_for_want_of_something_is_told_until_one_goes_well() -> None:
    failed = a_run(2, Outcome.FAILED, "no room", operation="drill-moments", hint="Make room.")
    (found,) = judge(streaming(), [failed])
    assert (found.level, found.text, found.hint) == (
        "warn",
        "the last drill of the window failed: no room",
        "Make room.",
    )
    stopped = a_run(1, Outcome.INTERRUPTED, operation="drill-moments")
    assert len(judge(streaming(), [failed, stopped])) == 1, "it has shown nothing"
    assert judge(streaming(), [failed, a_run(1, operation="drill-moments")]) == []
    found_then = WindowProof(tried=failed.started, base="b", moment=NOW - 2 * HOUR, problem="a page is damaged")
    (told_once,) = judge(replace(streaming(), proof=found_then), [failed])
    assert told_once.level == "fail"
    (told_once,) = judge(
        replace(streaming(), proof=found_then), [failed, a_run(1, Outcome.FAILED, operation="drill-moments")]
    )
    assert told_once.level == "fail", "what is wrong stays wrong"
    before = found_then.model_copy(update={"problem": "", "tried": NOW - 3 * HOUR})
    assert judge(replace(streaming(), proof=before), [failed])[0].text.endswith("failed: no room")


def test_a_base_run_that_was_not_well_is_told_although_there_is_a_base() -> None:
    failed = a_base_run(1, Outcome.FAILED, "a segment cannot be read")
    assert told(streaming(), [failed]) == ("warn", "the last run of `base` failed: a segment cannot be read")
    assert judge(streaming(), [failed, a_base_run(0.5, Outcome.SUCCESS)]) == []


def test_what_cannot_be_read_is_told() -> None:
    problem = warning("the record of the base backup x cannot be read", "`base` takes a new one.")
    assert judge(replace(streaming(), problems=(problem,))) == [problem]


LIMIT = 7 * MINUTE


def sent(looked: timedelta = SECOND, lag: timedelta = SECOND, bases: int = 1, **more: object) -> Window:
    """All is well here, and a place has a window, too."""
    here = streaming()
    stream = a_stream(6, NOW - lag, NOW - looked)
    fields: dict[str, object] = {"every": MINUTE, "stream": stream, "begun": here.begun, **more}
    there = OffsiteWindow(
        here.keep,
        LIMIT,
        here.base_age,
        here.spans,
        here.bases[:bases],
        place="s3",
        name="s3://copies",
        **fields,  # type: ignore[arg-type]
    )
    return replace(here, offsite=(there,))


def test_a_place_that_has_all_is_no_finding() -> None:
    assert judge(sent()) == []
    assert judge(sent(looked=LIMIT)) == []


def test_a_place_that_has_not_had_all_for_long_is_a_warning_and_after_a_day_critical() -> None:
    stream = a_stream(6, NOW, NOW - LIMIT - SECOND, state="down", message="it does not answer", hint="Look there.")
    level, text = told(sent(stream=stream))
    assert level == "warn" and "does not reach s3://copies" in text and "it does not answer" in text
    assert judge(sent(stream=stream))[0].hint == "Look there."
    assert told(sent(looked=25 * HOUR))[0] == "fail"
    assert told(sent(looked=-HOUR))[0] == "warn"


def test_a_place_whose_newest_moment_stands_still_is_a_warning_unless_whole_segments_alone_are_sent() -> None:
    level, text = told(sent(lag=LIMIT + 2 * SECOND))
    assert level == "warn" and "behind the one here" in text
    assert judge(sent(lag=LIMIT)) == []
    assert judge(sent(lag=20 * HOUR, every=timedelta())) == []


def test_nothing_was_ever_sent() -> None:
    assert judge(sent(stream=None, begun=NOW - LIMIT)) == []
    level, text = told(sent(stream=None, begun=NOW - LIMIT - SECOND))
    assert level == "warn" and "does not reach" in text


def test_a_base_that_does_not_arrive() -> None:
    bases = a_stream(6, None, NOW - HOUR, state="down", message="it is full")
    assert judge(sent(bases=0, bases_stream=a_stream(6, None, NOW - 10 * MINUTE))) == []
    level, text = told(sent(bases=0, bases_stream=bases))
    assert level == "warn" and "no base backup has reached s3://copies" in text and "it is full" in text
    old = sent()
    there = replace(old.offsite[0], bases=(a_base(5, NOW - 40 * HOUR),))
    level, text = told(replace(old, offsite=(there,)))
    assert level == "warn" and "the newest base backup at s3://copies" in text


def test_a_break_that_is_there_alone() -> None:
    broken = broken_window(NOW).spans
    whole = sent()
    there = replace(whole.offsite[0], spans=broken)
    found = judge(replace(whole, offsite=(there,)))
    assert [each.level for each in found] == ["warn"] and "s3://copies alone cannot bring back" in found[0].text
