"""A second attempt where it may help, and what of a dump is given otherwise than it is."""

from __future__ import annotations

from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.load_attempt import LoadAttempt

FOREIGN = b"""SET default_tablespace = '';

ALTER TABLE ONLY public.child
    ADD CONSTRAINT has_parent FOREIGN KEY (p, "Q") REFERENCES s.parent(a, b) ON DELETE CASCADE DEFERRABLE;


"""


def test_a_second_attempt_is_made_where_it_may_help_and_once() -> None:
    first = LoadAttempt(("public", 'o"dd'))
    by_path = first.after("42883", calling=False, apart=False)
    assert (
        by_path
        and by_path.by_path
        and by_path.checks == "calling"
        and by_path.after("42883", calling=True, apart=False) is None
    )
    assert by_path.told == 'search_path = "public", "o""dd" and checks made after all rows'
    assert (
        first.after("23514", calling=False, apart=False) is None
        and first.after("42601", calling=True, apart=False) is None
    )
    late = first.after("23514", calling=True, apart=False)
    assert late and not late.by_path and late.checks == "calling"
    allowing = LoadAttempt(allow_invalid=True).after("23514", calling=False, apart=False)
    assert allowing and allowing.checks == "all"
    assert LoadAttempt().after("42P01", calling=True, apart=False) is None
    # Sessions that were in each other's way, and rows that missed what comes before them, are tried one by one.
    for code, apart in (("40P01", False), ("55P03", False), ("P0001", True)):
        alone = first.after(code, calling=False, apart=apart)
        assert (
            alone
            and alone.alone
            and alone.told == "one session"
            and alone.after(code, calling=True, apart=True) is None
        )


def test_only_what_may_fail_is_given_otherwise() -> None:
    view = Entry(
        b'SET x = y;\n\nREFRESH MATERIALIZED VIEW public."it\'s";\n\n\n',
        kind="MATERIALIZED VIEW DATA",
        name="public.it's",
    )
    key = Entry(FOREIGN, kind="FK CONSTRAINT", name="public.child has_parent")
    index = Entry(b"CREATE INDEX i ON t (a);\n", kind="INDEX", name="public.i")
    plain, allowing = LoadAttempt(), LoadAttempt(allow_invalid=True)
    assert plain.script(index) == index.script and plain.script(key) == key.script
    assert plain.script(view).startswith(b"SET x = y;\n\nDO E'")
    assert allowing.script(key).startswith(b"SET default_tablespace = '';\n\nDO E'")
    assert b"DEFERRABLE NOT VALID" in allowing.script(key) and allowing.script(index) == index.script
    assert plain.before_rows == plain.after_rows == b""
