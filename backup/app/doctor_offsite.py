"""What the doctor asks about copies at other places, and about the key of encrypted sets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from backup.app.composition import App
from backup.app.encryption import keys
from backup.app.offsite import contexts, memory, options
from backup.errors import BackupError
from backup.formatting import plural
from backup.model.finding import Finding, failure, ok, warning
from backup.operations.doctor import findings
from backup.operations.offsite.context import listed
from backup.operations.status import offsite
from backup.progress import Silent
from backup.storage.s3 import open_bucket
from backup.storage.s3.bucket_setup import check

_NONE: Final = "no copies elsewhere: whoever loses this machine loses all sets"
_SET: Final = "Set AWS_S3_BACKUP_BUCKET for a bucket, or BACKUP_COPY_DIR for a folder on another disk."


def places(app: App, *, put: bool) -> Iterator[Finding]:
    """Whether the places answer, and what health says of them. `put`: also what the bucket's key may do."""
    if not app.settings.has_offsite:
        yield warning(_NONE, _SET)
        return
    for context in contexts(app, Silent()):
        try:
            yield ok(f"{context.remote.name} answers; {plural(len(listed(context.remote)), 'set')} there")
            if put and context.place == "s3":
                yield from _rights(app)
        except BackupError as error:
            yield failure(error.message, error.hint)
    _, found = offsite(app.settings, app.settings.root, app.catalog.sets(), app.records.all(), datetime.now(UTC))
    yield from found


def _rights(app: App) -> Iterator[Finding]:
    for step in check(open_bucket(options(app.settings), memory(app.settings, quiet=True))):
        yield ok(step.words) if step.state == "done" else warning(step.words, step.hint)


def encryption(app: App) -> Iterator[Finding]:
    """Whether sets are encrypted, to whom, and whether anybody has opened one."""
    yield from findings.encryption(keys(app.settings), app.catalog.sets())
