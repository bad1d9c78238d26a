"""The checker of `make soak` reads databases by SQL of its own."""

from __future__ import annotations

from tests.soak.checker import Data
from tests.soak.writers import SCHEMA
from tests.support.database import Server

CHANGES = (
    "UPDATE odd SET b = 'x' WHERE id = 2",
    "DELETE FROM odd WHERE id = 2",
    "SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
    "DROP INDEX odd_body",
    "GRANT SELECT ON odd TO PUBLIC",
    "COMMENT ON TABLE odd IS NULL",
)


def test_each_change_is_seen_whatever_the_columns_are_called(server: Server) -> None:
    name = server.new_database()
    server.execute(name, SCHEMA)
    before = Data.read(server, name)
    assert before == Data.read(server, name) and list(before.inner()) == []
    for change in CHANGES:
        server.execute(name, change)
        after = Data.read(server, name)
        assert after != before, change
        before = after
