"""Settings → what works with copies: sets that are fetched, and how long copies are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from backup.app.composition import App
from backup.app.places import primary
from backup.catalog import resolve
from backup.catalog.retention import RetentionPolicy
from backup.config.loader import Settings
from backup.model.backup_set import StoredSet
from backup.operations.offsite.fetch import temporarily
from backup.operations.offsite.rules import ages
from backup.operations.prune import retention_policy
from backup.progress import Progress

# Before the id or `latest` of a set: where it is to come from. `offsite:` is the bucket, or else the folder.
SCHEMES: Final = ("s3", "copy", "offsite")


def copy_policy(settings: Settings) -> RetentionPolicy:
    """The retention of copies: the rules of local sets with ages of their own."""
    local = retention_policy(settings)
    fresh = timedelta(hours=settings.offsite_max_age_hours)
    return RetentionPolicy(ages=ages(settings), minimum=local.minimum, share=local.share, fresh=fresh)


def parse_place(query: str) -> tuple[str, str] | None:
    """(place, id or `latest`) of `s3:ID`; None for what names no place."""
    scheme, colon, rest = query.partition(":")
    return (scheme, rest) if colon and scheme in SCHEMES and rest else None


def find_in(app: App, folder: Path) -> StoredSet:
    """The set that was fetched into a folder."""
    return resolve.find_set(app.catalog, str(folder), app.volume_names())


@contextlib.contextmanager
def locate_set(app: App, queries: Sequence[str], progress: Progress) -> Iterator[StoredSet]:
    """The set that a person names, for the body: here, elsewhere, or fetched from `s3:ID` into a temporary folder."""
    where = parse_place(queries[0]) if len(queries) == 1 else None
    if where is None:
        yield app.find(*queries)
        return
    with temporarily(primary(app, progress, where[0]), where[1], lambda folder: find_in(app, folder)) as stored:
        yield stored
