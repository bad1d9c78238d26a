"""What the demonstration claims is judged by its own comparison: that must see every kind of damage, and say so."""

from __future__ import annotations

import socket

import pytest

from demo.show import prepare, story
from demo.show.__main__ import main
from demo.show.screen import Claims, Failure
from demo.show.stack import Stack
from demo.show.state import State, compare
from demo.show.story import Story, damage_told

WHOLE = State({"app_case": (10, "aa"), "app_document": (5, "bb")}, {"./a": "11", "./b": "22"})


def test_equal_states_have_no_difference() -> None:
    left = compare(WHOLE, State(dict(WHOLE.tables), dict(WHOLE.files)))
    assert not left and damage_told(left) == "nothing differs"


@pytest.mark.parametrize(
    ("tables", "files", "told"),
    [
        ({"app_case": (9, "cc")}, {}, "1 row missing, 1 table changed"),
        ({"app_case": (10, "cc")}, {}, "1 table changed"),
        ({"app_case": None}, {}, "10 rows missing, 1 table changed, table app_case gone"),
        ({"new": (0, "")}, {}, "1 table changed"),
        ({}, {"./a": None}, "1 file missing"),
        ({}, {"./a": "33"}, "1 file changed"),
        ({}, {"./c": "33"}, "1 file new"),
    ],
)
def test_every_kind_of_damage_is_seen(
    tables: dict[str, tuple[int, str] | None], files: dict[str, str | None], told: str
) -> None:
    now = State(
        {name: value for name, value in (WHOLE.tables | tables).items() if value is not None},
        {name: value for name, value in (WHOLE.files | files).items() if value is not None},
    )
    left = compare(WHOLE, now)
    assert left and damage_told(left) == told


def test_a_claim_that_is_not_so_is_shown_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    claims = Claims()
    claims.check(True, "water is wet")
    claims.check(False, "pigs fly")
    assert claims.failed == ["pigs fly"] and claims.count == 2
    assert "FAILED  pigs fly" in capsys.readouterr().out


def test_a_restore_that_left_damage_is_not_called_a_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step is silent but the comparison, which sees a row and a file too few."""
    for quiet in ("_application", "_first_backup", "_proof", "_damage", "_restore", "_moment", "_watched"):
        monkeypatch.setattr(Story, quiet, lambda self: None)
    monkeypatch.setattr(Story, "_healthy", lambda self: True)
    ports = dict.fromkeys(prepare.PORTS, 1)
    monkeypatch.setattr(story, "look", lambda stack: WHOLE)
    assert Story(Stack("x", ports), whole=WHOLE).tell()
    assert "FAILED" not in capsys.readouterr().out
    monkeypatch.setattr(story, "look", lambda stack: State(WHOLE.tables | {"app_case": (9, "cc")}, {"./a": "11"}))
    assert not Story(Stack("x", ports), whole=WHOLE).tell()
    out = capsys.readouterr().out
    assert out.count("FAILED") == 4 and "1 row missing, 1 table changed, 1 file missing" in out


def test_a_port_in_use_is_passed_over_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(prepare, "PORTS", {"page": port, "app": port})
        found = prepare.ports()
        assert len({port, *found.values()}) == 3
        assert f"Port {port} is in use" in capsys.readouterr().out
        monkeypatch.setenv("PAGE_PORT", str(port))
        with pytest.raises(Failure, match=f"PAGE_PORT={port}"):
            prepare.ports()


def test_what_it_cannot_do_it_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["nonsense"], ["up", "--s4"]):  # no word does not tear down what is up
        assert main(words) == 2
    monkeypatch.setenv("DEMO_PROJECT", "../evil")
    assert main([]) == 1
    assert "DEMO_PROJECT='../evil'" in capsys.readouterr().err
