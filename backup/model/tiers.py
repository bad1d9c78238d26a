"""What tiers are not."""

from __future__ import annotations

from typing import Final

from backup.model.manifest import Tier

# Their sets take no backup's place: they hold what a restore was about to replace, or the media alone.
NO_BACKUPS: Final = frozenset({Tier.PRE_RESTORE, Tier.SNAPSHOT})
