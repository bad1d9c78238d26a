"""How a dump's sums of money are to be read stands in its head, wherever its chunks are cut."""

from __future__ import annotations

import pytest

from backup.postgres.dump.money import has_setting, with_setting

HEAD = b"--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\nSET row_security = off;\n"
TEXT = b"\nSET row_security = off;\nSET lc_monetary = 'de_DE.utf8';\n"


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_setting_comes_behind_the_heads_own(size: int) -> None:
    dump = HEAD + TEXT
    told = b"".join(with_setting(dump[start : start + size] for start in range(0, len(dump), size)))
    assert told == HEAD + b"SET lc_monetary = 'C';\n" + TEXT
    assert has_setting(told) and not has_setting(dump) and not has_setting(dump + told)


def test_what_has_no_such_head_stays_as_it_is() -> None:
    assert list(with_setting([])) == []
    assert list(with_setting([b"--\n", b"x"])) == [b"--\nx"]
    assert list(with_setting([b"-" * 5000, HEAD])) == [b"-" * 5000, HEAD]
