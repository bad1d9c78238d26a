"""Words and numbers as people read them; hostile names made harmless."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import formatting
from backup.formatting import age, duration, essence, plural, printable, shortened, size


@given(st.text())
def test_nothing_printable_moves_the_cursor(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) <= 0xDFFF for c in shown)
    shown.encode()


def test_escapes_are_readable() -> None:
    assert printable("a\x1b[31mb\n\u202ec\udce9") == "a\\x1b[31mb\\n\\u202ec\\udce9"
    assert printable("Ñuñez 日本語 🐃") == "Ñuñez 日本語 🐃"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.4e9, "1.4 GB"), (2e15, "2000.0 TB")]
)
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4.2, "4.2 s"), (200, "3 min 20 s"), (18120, "5 h 02 min"), (273600, "3 d 04 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_ages_and_plurals() -> None:
    assert age(timedelta(seconds=0.2)) == "just now" and age(timedelta(seconds=-90)) == "1 min 30 s ahead"
    assert plural(1, "file") == "1 file" and plural(1200, "file") == "1,200 files"
    assert plural(1, "copy", "copies") == "1 copy" and plural(1200, "copy", "copies") == "1,200 copies"


def test_every_noun_that_takes_no_s_brings_its_plural() -> None:
    texts = [text for path in Path(formatting.__file__).parent.rglob("*.py") if "plural(" in (text := path.read_text())]
    calls = [
        node
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "plural" and len(node.args) == 2
    ]
    nouns = {node.args[1].value for node in calls if isinstance(node.args[1], ast.Constant)}
    assert len(nouns) > 20 and not [noun for noun in nouns if re.search(r"([^aeiou]y|s|x|z|ch|sh)$", noun)]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Applying a.0001... OK\nApplying a.0002... OK\n", "Applying a.0002... OK"),
        ("Traceback (most recent call last):\n  File a\n    f()\nValueError: no\n", "ValueError: no"),
        (
            "Traceback (most recent call last):\n  a\nKeyError\n\nDuring this:\n\nTraceback (most recent call last):\n"
            "  b\ndb.Error: first\nHINT:  of the server\nbye\n\n",
            "db.Error: first; bye",
        ),
        ("ERROR:  no such table\nLINE 1: SELECT x\n               ^\n", "ERROR:  no such table"),
        (
            "Traceback (most recent call last):\n  a\nWarn: cache down\n3 run\nCommandError: 3 failed\n",
            "Warn: cache down; CommandError: 3 failed",
        ),
        ("Traceback (most recent call last):\n  cut off\n", "  cut off"),
        ("", ""),
    ],
)
def test_the_line_that_says_how_a_program_ended(said: str, line: str) -> None:
    assert essence(said.splitlines()) == line


def test_a_line_is_as_long_as_can_be_read() -> None:
    assert shortened("a" * 400) == "a" * 400 and shortened("a" * 401) == "a" * 399 + "…"
