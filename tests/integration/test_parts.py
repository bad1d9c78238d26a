"""Tables with parts: partitions, and tables that inherit from others."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.database import Server
from tests.support.restoring import Target
from tests.support.sidecar import Result, Sidecar

SCRIPT: Final = """
    CREATE TABLE log (id bigserial, at date NOT NULL, what text, PRIMARY KEY (id, at, what)) PARTITION BY RANGE (at);
    CREATE INDEX log_what ON log (what);
    CREATE TABLE log_2024 PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE log_2025 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (what);
    CREATE TABLE "Log 2025" PARTITION OF log_2025 DEFAULT;
    INSERT INTO log (at, what) SELECT date '2024-01-01' + i, 'w' || i FROM generate_series(0, 599) i;
    CREATE TABLE base (a int); CREATE TABLE derived (b int) INHERITS (base);
    INSERT INTO base VALUES (1); INSERT INTO derived VALUES (2, 3), (4, 5);
    CREATE TABLE alone (a int); INSERT INTO alone VALUES (7);
"""


def done(result: Result, code: int = 0) -> str:
    assert result.code == code, result.output
    return result.output


def test_a_table_that_lost_its_rows_is_told_beside_a_log_that_grows(tmp_path: Path, server: Server) -> None:
    """By the run, by status, and by the plan of whoever would put that set back."""
    database = server.new_database()
    server.execute(
        database, "CREATE TABLE person AS SELECT i FROM generate_series(1, 900) i; CREATE TABLE log (t text)"
    )
    sidecar = Sidecar.make(tmp_path, server, database, BACKUP_MIN_SIZE_KB="0", BACKUP_MIN_FREE_GB="0")
    words = ("create", "daily", "--only", "database")
    assert "far less" not in done(sidecar.run(*words))
    before = sidecar.catalog.sets()[0].id
    server.execute(database, "DELETE FROM person WHERE i > 9; INSERT INTO log SELECT 'w' FROM generate_series(1, 9999)")
    told = f"holds far less than {before} in 1 table: 9 rows of public.person instead of 900"
    assert told in done(sidecar.run(*words))
    assert told in done(sidecar.run("status"))
    assert told in done(sidecar.run("restore", "latest", "--only", "database", "--dry-run"))
    assert "far less" not in done(sidecar.run("restore", before, "--only", "database", "--dry-run"))


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "of an earlier release"])
def test_parts_come_along_and_are_summed_up(tmp_path: Path, server: Server, noted: bool) -> None:
    database = server.new_database()
    server.execute(database, SCRIPT)
    target = Target(Sidecar.make(tmp_path, server, database), server, database)
    done(target.sidecar.run("create", "daily"))
    if not noted:
        target.reseal(lambda manifest: manifest["database"].pop("children"))
    lines = done(target.sidecar.run("show", "latest", "--tables")).splitlines()
    if noted:
        assert "public.log\t600\tin 3 parts" in lines and "public.base\t3\tin 1 part" in lines
    assert "public.log_2024\t366" in lines and "public.derived\t2" in lines and "public.alone\t1" in lines
    script = tmp_path / "log.sql"
    said = done(target.sidecar.run("extract", "latest", "--table", "log", "-o", str(script)))
    assert "4 tables" in said
    empty = server.new_database()
    server.load(empty, script.read_bytes())
    assert server.value(empty, "SELECT count(*) FROM log") == 600
    assert server.value(empty, "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'log'::regclass")
    assert server.value(empty, "SELECT count(*) FROM pg_class WHERE relname IN ('base', 'alone')") == 0
    script.unlink()
    done(target.sidecar.run("extract", "latest", "--table", "base", "-o", str(script)))
    server.load(empty, script.read_bytes())
    assert (
        server.value(empty, "SELECT count(*) FROM base") == 3
        and server.value(empty, "SELECT count(*) FROM derived") == 2
    )
