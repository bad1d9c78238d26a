"""Settings → what is told about encryption."""

from __future__ import annotations

from backup.config.settings import Settings
from backup.errors import KeyMissing
from backup.formatting import printable
from backup.operations.doctor.findings import Keys
from backup.pipeline import age


def keys(settings: Settings) -> Keys:
    """The settings' side of it; the identity file is opened, and nothing of it is shown."""
    trouble = ""
    if settings.age_identity:
        try:
            age.identities(settings.age_identity)
        except KeyMissing as error:
            trouble = error.message
    return Keys(
        encrypt=settings.encrypt,
        recipients=tuple(age.short(each) for each in settings.age_recipients),
        identity=printable(str(settings.age_identity or "")),
        trouble=trouble,
    )
