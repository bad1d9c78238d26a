"""A run that is given a dump with a large table writes its contents beside it, and none where it encrypts."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from backup.app.composition import App
from backup.config import loader
from backup.errors import EngineError
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.create.run import Request, create_set
from backup.operations.set_artifacts import contents_of, dump_of, read_part
from backup.postgres.clients import Clients
from backup.postgres.dump.contents import LEAST
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import DatabaseFacts
from backup.postgres.session import Login
from backup.progress import Silent
from tests.support.keys import key_pair
from tests.unit.operations.doctor.test_doctor import FACTS

HEAD = b"--\n-- PostgreSQL database %sdump\n--\n\n\\restrict k\n\n-- Dumped by pg_dump version 17.2\n\n"
FOOT = b"\n--\n-- PostgreSQL database %sdump complete\n--\n\n\\unrestrict k\n\n"
ROLES = HEAD % b"cluster " + FOOT % b"cluster "


def dump(rows: bytes) -> bytes:
    return HEAD % b"" + b"SET row_security = off;\n\nCOPY public.a (a) FROM stdin;\n" + rows + b"\\.\n\n" + FOOT % b""


class Recorded(Clients):
    """Clients that gave this output, in pieces of an odd size."""

    way = "records"
    outputs: dict[str, bytes]

    @contextmanager
    def run(self, program: str, *_: object, **__: object) -> Iterator[Any]:
        """What the program wrote."""
        data = self.outputs[program]

        class Output:
            def chunks(self, waiting: Callable[[], None] = lambda: None) -> Iterator[bytes]:
                waiting()
                return (data[start : start + 65_521] for start in range(0, len(data), 65_521))

        yield Output()


@dataclass(frozen=True)
class Source(PostgresSource):
    """A database that is not asked."""

    def inspect(self) -> DatabaseFacts:
        return FACTS

    def sweep(self) -> int:
        return 0


def made(tmp_path: Path, rows: bytes, recipients: Sequence[str] = ()) -> StoredSet:
    """The set of a run that is given a dump with these rows."""
    settings = {"BACKUP_DIR": str(tmp_path / "b"), "BACKUP_ENCRYPT": "all" if recipients else "off"}
    app = App(loader.load_settings({**settings, "BACKUP_AGE_RECIPIENTS": ",".join(recipients)}))
    login = Login(host="h", port=5, user="u", password="p", name="obcms")
    clients = Recorded(login, tmp_path, "i", 9)
    clients.outputs = {"pg_dump": dump(rows), "pg_dumpall": ROLES}

    def places(_: StoredSet) -> NoReturn:
        raise EngineError("nothing is tried here")

    context = app.create_context(Silent())
    context = replace(context, source=lambda: Source(login, clients, "i", 9, 9), places=places)
    run = create_set(Request(tier=Tier.DAILY, only="database"), context)
    return app.catalog.find(run.set)


@pytest.mark.parametrize("extra", [-1, 0])
def test_a_large_table_has_parts(tmp_path: Path, extra: int) -> None:
    rows = b"x" * 1023 + b"\n"
    rows *= LEAST // len(rows) + extra
    stored = made(tmp_path, rows)
    kinds = [each.kind for each in stored.manifest.artifacts]
    assert stored.verified and kinds == ["database", *(["contents"] if extra == 0 else []), "roles"]
    contents = contents_of(stored)
    assert (contents is None) == (extra < 0)
    if contents:
        assert [(part.table, part.rows) for part in contents.parts] == [("", 0), ("public.a", 1024), ("", 0)]
        plain = b"".join(piece for part in contents.parts for piece in read_part(stored, part))
        assert plain == gzip.decompress((stored.directory / dump_of(stored)).read_bytes())
        assert b"".join(read_part(stored, contents.parts[1])) == rows


def test_an_encrypted_dump_has_no_contents(tmp_path: Path) -> None:
    stored = made(tmp_path, (b"x" * 1023 + b"\n") * 2048, [key_pair(tmp_path / "key")])
    assert [each.kind for each in stored.manifest.artifacts] == ["database", "roles"]
    assert stored.encrypted and contents_of(stored) is None
