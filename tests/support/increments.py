"""A volume and its incremental sets, made by the product in this process, and what a restore makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup.app.composition import App
from backup.config import loader
from backup.media.helper_main import run_arguments
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.create.run import Request, create_set
from backup.operations.verify.run import check_set
from backup.progress import Silent
from tests.support.awkward_tree import look


class Stack:
    """A volume and its backups, without a database."""

    def __init__(self, base: Path) -> None:
        self.base, self.media, self.root = base, base / "volumes" / "media", base / "b"
        self.media.mkdir(parents=True)
        self.now = datetime.now(UTC) - timedelta(days=100)
        self.settings = dict[str, str]()

    def app(self, mode: str = "incremental") -> App:
        return App(
            loader.load_settings(
                {
                    "BACKUP_DIR": str(self.root),
                    "BACKUP_VOLUMES_DIR": str(self.base / "volumes"),
                    "BACKUP_MEDIA": mode,
                    **self.settings,
                }
            )
        )

    def night(
        self,
        mode: str = "incremental",
        *,
        tier: Tier = Tier.DAILY,
        full: bool = False,
        allow_empty: Sequence[str] = (),
    ) -> StoredSet:
        """Make a set, a second later than the last one."""
        self.now += timedelta(seconds=1)
        app = self.app(mode)
        context = replace(app.create_context(Silent()), allow_empty=allow_empty)
        object.__setattr__(context, "clock", lambda: self.now)
        run = create_set(Request(tier=tier, only="media", full=full), context)
        return self.find(run.set)

    def snapshot(self) -> StoredSet:
        """Take a snapshot; the set that holds what is there now."""
        return self.night(tier=Tier.SNAPSHOT)

    def find(self, name: str) -> StoredSet:
        return self.app().catalog.find(name)

    def packs(self) -> list[str]:
        return sorted(path.name for path in (self.root / "packs").glob("*.tar.gz"))

    def restored(self, stored: StoredSet) -> Path:
        """What a restore makes of a set."""
        target = self.base / "out"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        tree, index = (stored.manifest.artifact(kind, "media") for kind in ("tree", "index"))
        assert tree and index
        run_arguments(
            [
                *("extract", f"--limit={1 << 40}", "--trusted", f"--packs={self.root / 'packs'}", "--"),
                *(str(stored.directory / tree.file), str(stored.directory / index.file), "media", str(target), "1"),
            ],
            lambda count: None,
        )
        (new,) = target.glob("*/new")
        return new

    def whole(self, stored: StoredSet) -> None:
        """A set restores to what is there now."""
        assert look(self.restored(stored)) == look(self.media)
        assert check_set(stored, Silent()).problems == []
