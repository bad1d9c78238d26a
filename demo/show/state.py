"""The application's data in numbers, seen past the backup: by the database's own psql, by find and sha256sum."""

from __future__ import annotations

from dataclasses import dataclass

from demo.show.stack import Stack

_TABLES = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
_ROWS = "SELECT '{0}', count(*), md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '')) FROM public.{0} t"
# What a restore replaced is kept beside the files for `undo`; the application itself may not look into it.
_FILES = "cd /app/src/media && find . -path './.obcms-restore-*' -prune -o -type f -exec sha256sum {} +"


@dataclass(frozen=True)
class State:
    """Rows and a hash of the content of each table, and the hash of each file."""

    tables: dict[str, tuple[int, str]]
    files: dict[str, str]

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(count for count, _ in self.tables.values())


@dataclass(frozen=True)
class Difference:
    """What another state lacks, has changed or has too much."""

    rows: int
    dropped: tuple[str, ...]
    changed_tables: tuple[str, ...]
    removed: int
    changed: int
    added: int

    def __bool__(self) -> bool:
        return any((self.rows, self.dropped, self.changed_tables, self.removed, self.changed, self.added))


def compare(whole: State, now: State) -> Difference:
    """How `now` differs from `whole`."""
    both = whole.files.keys() & now.files.keys()
    tables = [
        name for name in whole.tables.keys() | now.tables.keys() if whole.tables.get(name) != now.tables.get(name)
    ]
    return Difference(
        rows=whole.rows - now.rows,
        dropped=tuple(sorted(whole.tables.keys() - now.tables.keys())),
        changed_tables=tuple(sorted(tables)),
        removed=len(whole.files.keys() - now.files.keys()),
        changed=sum(whole.files[name] != now.files[name] for name in both),
        added=len(now.files.keys() - whole.files.keys()),
    )


def look(stack: Stack) -> State:
    """The state at this moment."""
    names = psql(stack, _TABLES).split()
    lines = psql(stack, " UNION ALL ".join(_ROWS.format(name) for name in names)).splitlines()
    tables = {name: (int(count), content) for name, count, content in (line.split("|") for line in lines)}
    listed = stack.compose("exec", "-T", "web1", "sh", "-c", _FILES).splitlines()
    return State(tables, {line[66:]: line[:64] for line in listed})


def psql(stack: Stack, statements: str) -> str:
    """What the database's own psql says to statements on its standard input."""
    login = ("-U", "obcms_user", "-d", "obcms_prod")
    return stack.compose("exec", "-T", "db", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *login, stdin=statements)
