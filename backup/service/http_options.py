"""Whom the HTTP service answers: from settings to what `backup.service.web` is given."""

from __future__ import annotations

import socket

from backup.config.loader import Settings
from backup.service.web.guard import Access


def access_for(settings: Settings) -> Access:
    """Who may ask: by the names that are set and the container's own, with the login that is set."""
    secrets = {"token": settings.http_token, "password": settings.http_password}
    return Access.of(
        [*settings.http_allowed_hosts, socket.gethostname(), settings.http_host],
        user=settings.http_user or "",
        **{name: value.get_secret_value() if value else "" for name, value in secrets.items()},
    )
