"""The settings that sessions bring along: what fits server and login, written so that nothing is lost on the way."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.postgres.session_settings import ANYWHERE, PRIVILEGED, Standing, connection_options


def names(text: str) -> set[str]:
    return {word.partition("=")[0] for word in text.split() if word != "-c" and "=" in word}


def test_a_login_brings_what_its_server_knows_and_lets_it_set() -> None:
    """Anything else would end the login."""
    older, newer = Standing(15).options, Standing(17).options
    assert names(newer) - names(older) == {"transaction_timeout", "restrict_nonsystem_relation_kind"}
    assert names(Standing.superuser(15).options) - names(older) == PRIVILEGED - {"event_triggers"}
    assert names(Standing.superuser(17).options) - names(newer) == PRIVILEGED
    assert names(Standing(18, {"event_triggers"}).options) - names(newer) == {"event_triggers"}
    assert ANYWHERE.options == older


@given(
    st.dictionaries(
        st.sampled_from(["a", "b.c", "search_path"]), st.text(st.characters(codec="ascii", exclude_characters="\0"))
    )
)
def test_a_value_of_any_text_arrives_as_it_is(settings: dict[str, str]) -> None:
    """Taken apart as the server does it: at blanks, unless a backslash is before them."""
    words, word, escaped, within = [], "", False, False
    for letter in connection_options(settings):
        if letter in " \t\n\r\v\f\x1c\x1d\x1e\x1f" and not escaped and letter in " \t\n\r\v\f":
            words, word, within = [*words, word] if within else words, "", False
        elif letter == "\\" and not escaped:
            escaped, within = True, True
            continue
        else:
            word, within = word + letter, True
        escaped = False
    words = [*words, word] if within else words
    assert words[::2] == ["-c"] * len(settings)
    assert dict(each.split("=", 1) for each in words[1::2]) == settings


@pytest.mark.parametrize("standing", [ANYWHERE, Standing.superuser(18)])
def test_they_are_written_for_a_connection(standing: Standing) -> None:
    assert re.fullmatch(r"(?:-c [a-z_]+=(?:[^\s\\]|\\.)*(?: |$))+", standing.options)
