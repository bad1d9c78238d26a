"""A set of an old state with a new one live; judging what a restore left, and editing sets so that they agree again."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backup.app.restore import restore_context
from backup.errors import BackupError
from backup.model.backup_set import StoredSet
from backup.model.manifest import file_name
from backup.operations.restore.plan import plan
from backup.operations.restore.plan_inputs import gather
from backup.operations.verify.run import check_set
from backup.progress import Silent
from tests.support.database import Server
from tests.support.faults import eventually, helpers, sessions
from tests.support.sidecar import Result, Sidecar

ROWS = {"old": 100, "new": 250}
SEED = """
    CREATE TABLE app_case (id int PRIMARY KEY, body text);
    INSERT INTO app_case SELECT i, 'old ' || i FROM generate_series(1, 100) i;
    CREATE TABLE kind (name text); INSERT INTO kind VALUES ('old')
"""
CHANGE = """
    INSERT INTO app_case SELECT i, 'new ' || i FROM generate_series(101, 250) i; UPDATE kind SET name = 'new'
"""
DAILY = "daily"
# What is live, rows and files, in the words of `Target.live`.
OLD, NEW = ("old", "old"), ("new", "new")


@dataclass
class Target:
    """One database and one volume; the set `daily` holds the old state of both, `weekly` (if made) the new one."""

    sidecar: Sidecar
    server: Server
    database: str
    more: frozenset[str] = frozenset()

    @classmethod
    def make(cls, base: Path, server: Server, *, both: bool = False, more: int = 0, **environment: str) -> Target:
        """Make the old state, its set, and the new state; `both`: a set of that, too; `more` files in both."""
        database = server.new_database()
        server.execute(database, SEED)
        sidecar = Sidecar.make(base, server, database, **environment)
        (sidecar.media / "kind.txt").write_text("old")
        made = cls(sidecar, server, database, frozenset(f"more{number}" for number in range(more)))
        for name in made.more:
            (sidecar.media / name).write_text(name)
        made.create("daily")
        server.execute(database, CHANGE)
        (sidecar.media / "kind.txt").write_text("new")
        if both:
            made.create("weekly")
        return made

    def create(self, tier: str) -> None:
        result = self.sidecar.run("create", tier)
        assert result.code == 0, result.output

    def copy(self, base: Path) -> Target:
        """The same with copies of the sets, to be damaged."""
        root, spool = base / "backups", base / "spool"
        shutil.copytree(self.sidecar.root, root, dirs_exist_ok=True)
        spool.mkdir(mode=0o700)
        places = {"BACKUP_DIR": str(root), "BACKUP_SPOOL_DIR": str(spool)}
        environment = self.sidecar.environment | places
        return replace(self, sidecar=Sidecar(root, spool, self.sidecar.volumes, environment))

    def stored(self, tier: str = DAILY) -> StoredSet:
        """The set of a tier."""
        return next(stored for stored in self.sidecar.sets() if stored.tier == tier)

    def path(self, what: str = "backup", suffix: str = "sql.gz", tier: str = DAILY) -> Path:
        """One file of a set."""
        stored = self.stored(tier)
        return stored.directory / file_name(what, stored.id, suffix)

    def old_file(self, what: str, suffix: str) -> Path:
        """Where a file of the old scripts would lie, which has no manifest."""
        return self.sidecar.root / "daily" / file_name(what, "daily_2025-10-20_02-00-00", suffix)

    def restore(self, *options: str, **environment: str) -> Result:
        """Restore the daily set by the command line."""
        return self.sidecar.run("restore", self.stored().id, "--force", *options, **environment)

    def live(self) -> tuple[str, str]:
        """What is live: the kind of the database and of the files, each of them whole."""
        kind = str(self.server.value(self.database, "SELECT name FROM kind"))
        assert self.server.value(self.database, "SELECT count(*) FROM app_case") == ROWS[kind]
        names = {path.name for path in self.sidecar.media.iterdir() if not path.name.startswith(".obcms-restore-")}
        assert names == {"kind.txt", "uploads", *self.more}, names
        return kind, (self.sidecar.media / "kind.txt").read_text()

    def unchanged(self) -> None:
        """The new state is live, and nothing of a restore is left."""
        assert self.live() == ("new", "new")
        self.nothing_beside()

    def nothing_beside(self) -> None:
        """No helper, scratch database, files beside the live ones, or journal."""
        assert helpers(self.sidecar) == [] and self.sidecar.spooled() == []
        eventually(lambda: not sessions(self.server, self.sidecar), 5)
        assert [path for path in self.sidecar.root.rglob(".*")] == []
        assert not (self.sidecar.root / "state" / "publishing.json").exists()
        assert self.scratch() == []
        assert [path.name for path in self.sidecar.media.iterdir() if path.name.startswith(".obcms")] == []
        assert not self.journal.exists()

    def scratch(self) -> list[str]:
        """Databases beside the live one."""
        return [name for name in self.server.databases() if name.startswith(f"{self.database}__")]

    @property
    def journal(self) -> Path:
        """The journal of a restore that has not ended."""
        return self.sidecar.root / "state" / "restore.json"

    def refused(self, result: Result, code: int, *words: str) -> str:
        """It ended with this code, in one message with these words; nothing was changed."""
        assert result.code == code, result.output
        assert result.output.count("[ERROR]") == 1 and "Traceback" not in result.output, result.output
        for word in words:
            assert word in result.output, f"{word!r} is not in: {result.output}"
        self.unchanged()
        return result.output

    def would_refuse(self, tier: str = DAILY) -> str:
        """Why a restore of this set would refuse, asked in this process as the command asks; empty if it would not."""
        stored = self.stored(tier)
        try:
            planned = plan(gather(restore_context(self.sidecar.app(), Silent()), stored, "", True))
        except BackupError as error:
            return error.message
        if planned.refusals:
            return "; ".join(remark.text for remark in planned.refusals)
        return "; ".join(self.problems(tier))

    def problems(self, tier: str = DAILY) -> list[str]:
        """What the verification before each restore finds."""
        return self.problems_of(self.stored(tier))

    @staticmethod
    def problems_of(stored: StoredSet) -> list[str]:
        """The same of any set."""
        return check_set(stored, Silent()).problems

    # --- editing -------------------------------------------------------------------------------------------------

    def reseal(self, change: Callable[[dict[str, Any]], None] = lambda manifest: None, tier: str = DAILY) -> None:
        """Let manifest and checksums say what the files are now; `change` edits the manifest before."""
        stored = self.stored(tier)
        path = stored.directory / file_name("set", stored.id, "json")
        manifest = json.loads(path.read_bytes())
        for artifact in manifest["artifacts"]:
            data = (stored.directory / artifact["file"]).read_bytes()
            artifact |= {"stored_size": len(data), "stored_sha256": hashlib.sha256(data).hexdigest()}
        change(manifest)
        path.write_text(json.dumps(manifest))
        sums = "".join(f"{a['stored_sha256']}  {a['file']}\n" for a in manifest["artifacts"])
        path.with_suffix(".sha256").write_text(sums)
        path.with_suffix(".verdict").unlink(missing_ok=True)

    def edit(self, what: str, old: bytes, new: bytes, suffix: str = "sql.gz", **database: Any) -> None:
        """Replace text in what a file holds, and reseal the set; `database` are fields of the manifest's part."""
        path = self.path(what, suffix)
        plain = gzip.decompress(path.read_bytes())
        assert plain.count(old) >= 1
        plain = plain.replace(old, new, 1)
        path.write_bytes(gzip.compress(plain))

        def change(manifest: dict[str, Any]) -> None:
            artifact = next(a for a in manifest["artifacts"] if a["file"] == path.name)
            artifact |= {"plain_size": len(plain), "plain_sha256": hashlib.sha256(plain).hexdigest()}
            manifest["database"] |= database

        self.reseal(change)


def boundaries(path: Path, pieces: list[bytes]) -> list[int]:
    """Write each piece as a gzip member of its own; the offsets at which members end, but for the last."""
    members = [gzip.compress(piece) for piece in pieces]
    path.write_bytes(b"".join(members))
    return [sum(map(len, members[:count])) for count in range(1, len(members))]


def drop_kept(target: Target) -> None:
    for name in target.scratch():
        target.server.execute("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
