"""A server whose WAL is received while something happens at known moments; and what a set of one of them holds."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.database import Server
from tests.support.faults import ended, eventually
from tests.support.sidecar import Result, Sidecar


@dataclass
class Story:
    """What happened, by name: `moments` by the server's clock."""

    sidecar: Sidecar
    server: Server
    database: str
    moments: dict[str, datetime] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """It is now."""
        self.moments[name] = self.server.value("postgres", "SELECT clock_timestamp()").astimezone(UTC)

    def execute(self, statements: str, name: str) -> None:
        """Something happens, and is over."""
        self.server.execute(self.database, statements)
        self.mark(name)

    def create(self, name: str, *options: str, **environment: str) -> Result:
        """Make a set of a moment."""
        at = self.moments[name].isoformat(" ")
        return self.sidecar.run("create", "--at", at, "--json", *options, **environment)

    def stream(self) -> dict[str, Any]:
        """What is said of the WAL that is received."""
        path = self.sidecar.root / "state" / "wal.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def level(self) -> None:
        """Wait until all that has happened is received."""
        now = datetime.now(UTC)
        self.server.execute("postgres", "SELECT txid_current()")

        def there() -> bool:
            level = self.stream().get("level")
            return bool(level) and datetime.fromisoformat(level) > now

        eventually(there, 60, 0.2)

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """What the body restores is undone and forgotten."""
        yield
        for words in (("undo", "--force"), ("undo", "--discard", "--force")):
            result = self.sidecar.run(*words)
            assert result.code == 0, result.output

    @contextlib.contextmanager
    def copied(self) -> Iterator[Story]:
        """A copy of what is kept of it, to be damaged."""
        with short_folder() as folder:
            copy = replace(self.sidecar, root=folder / "backups", spool=folder / "spool")
            shutil.copytree(self.sidecar.root, copy.root)
            copy.spool.mkdir()
            own = {"BACKUP_DIR": str(copy.root), "BACKUP_SPOOL_DIR": str(copy.spool)}
            copy.environment = {**copy.environment, **own}
            yield replace(self, sidecar=copy)

    def rows(self, identifier: str, table: str = "t") -> list[str]:
        """The rows of a table as the dump of a set has them."""
        dump = self.sidecar.root / "manual" / f"obcms_backup_{identifier}.sql.gz"
        text = gzip.decompress(dump.read_bytes()).decode()
        _, found, rest = text.partition(f"COPY public.{table} (")
        assert found, f"no table {table}"
        return sorted(rest.partition(";\n")[2].partition("\\.\n")[0].splitlines())


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder in which the path of a socket is short enough."""
    folder = Path(tempfile.mkdtemp(prefix="at-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def receiving(story: Story) -> Iterator[None]:
    """The WAL is received while the body runs."""
    with story.sidecar.start("receive") as process:
        try:
            eventually(lambda: process.poll() is not None or story.stream().get("state") == "streaming", 120, 0.2)
            assert process.poll() is None, process.communicate()[0]
            yield
        finally:
            process.terminate()
            ended(process, 60)
