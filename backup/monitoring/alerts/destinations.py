"""Where messages go, from the settings."""

from __future__ import annotations

from email.utils import formataddr, parseaddr
from typing import Final
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from backup.config import notify_url
from backup.config.loader import Settings
from backup.config.types import is_person
from backup.monitoring.alerts.model import HEARTBEAT, Target

WHAT_TO_SET: Final = (
    "Set MAILTO with EMAIL_HOST for mail, or BACKUP_NOTIFY_URLS for chat and webhooks;"
    " docker-compose.backup.yml names each setting."
)


def targets(settings: Settings) -> list[Target]:
    """Every address that messages go to, under different names; mail has one target for each recipient."""
    mails = [(f"mail:{address}", _mail(settings, address)) for address in settings.mail_to]
    urls = [(notify_url.masked(url.get_secret_value()), url.get_secret_value()) for url in settings.notify_urls]
    named: dict[str, Target] = {}
    for name, url in [*mails, *urls]:
        free = name
        number = 1
        while free in named:
            number += 1
            free = f"{name}#{number}"
        named[free] = Target(free, SecretStr(url))
    return list(named.values())


def everything(settings: Settings) -> list[Target]:
    """The targets, and the heartbeat's if there is one."""
    beat = [Target(HEARTBEAT, settings.heartbeat_url)] if settings.heartbeat_url else []
    return [*targets(settings), *beat]


def _mail(settings: Settings, address: str) -> str:
    """Django's mail settings as one address. The real host stands in `smtp`, where any name is taken as it is."""
    secure = settings.mail_tls or settings.mail_ssl
    user, password = settings.mail_user, settings.mail_password
    login = ""
    if user:
        login = quote(user, safe="") + (f":{quote(password.get_secret_value(), safe='')}" if password else "") + "@"
    query = {
        "smtp": settings.mail_host or "",
        "from": _sender(settings, address),
        "to": address,
        "mode": "ssl" if settings.mail_ssl else "starttls" if settings.mail_tls else "insecure",
    }
    scheme = "mailtos" if secure else "mailto"
    return f"{scheme}://{login}localhost:{settings.mail_port}/?{urlencode(query, quote_via=quote)}"


def _sender(settings: Settings, address: str) -> str:
    """Django's sender; else the login if that is an address, else the recipient."""
    user = settings.mail_user or ""
    name, found = parseaddr(settings.mail_from or "")
    return formataddr((name, found)) if found else user if is_person(user) else address
