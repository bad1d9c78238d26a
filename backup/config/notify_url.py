"""The addresses that messages go to: how several are written in one setting, what is refused, what may be shown.

An address is a secret as a whole: a webhook's token is in its path, a mail account's password in its middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from backup.formatting import printable

# More are a mistake, and each costs a thread while messages are delivered.
MOST_TARGETS: Final = 20
_BETWEEN: Final = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9]*)://(?P<rest>[^\s/?#][^\s]*)")
# What runs or shows something on this machine, or reads a key from its disk, goes nowhere from inside a container.
_LOCAL: Final = frozenset(
    ("atalk blink1 dbus deltachat deltachats fcm file glib gnome growl kde macosx qt syslog vapid windows").split()
)
_READS_FILES: Final = frozenset({"attach", "keyfile", "pgp", "pgpprv", "pgppub", "subfile", "template", "wkd"})
# Whose host is a host. Elsewhere it is the first part of a token.
_HOSTED: Final = frozenset(
    (
        "apprise apprises form forms gotify gotifys hassio hassios http https json jsons mailto mailtos matrix matrixs"
        " mattermost mmost mmosts mqtt mqtts ncloud nclouds nctalk nctalks rocket rockets rsyslog synology synologys"
        " xml xmls xmpp xmpps"
    ).split()
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+|\[[0-9A-Fa-f:.]+\]")
# Values that say how and whom, and hide nothing.
_PLAIN: Final = frozenset("bcc cc cto format from mode name overflow redirect rto smtp to verify".split())
# Shorter parts are words such as `hook`; to strike them out everywhere would make logs unreadable.
_LONG: Final = 12


def split_urls(text: str) -> tuple[str, ...]:
    """The addresses in one setting: separated by blanks, commas or newlines. A comma inside one separates nothing."""
    return tuple(part for each in _BETWEEN.split(text.strip()) if (part := each.strip().strip(",")))


def url_problem(url: str) -> str:
    """Why this cannot be an address to notify, without showing it; nothing if it can be."""
    match = _URL.fullmatch(url)
    if match is None:
        return "is not of the form scheme://host/…, or contains a space"
    try:
        parts = urlsplit(url)
        keys = {key.lower() for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError:
        return "cannot be read as a URL"
    if match["scheme"] in _LOCAL:
        return f"{match['scheme']}:// acts on this machine; use a service that is reached over the network"
    if found := sorted(keys & _READS_FILES):
        return f"{', '.join(found)}= reads a file of this container or asks for keys, which alerts do not do"
    return ""


def web_problem(url: str) -> str:
    """Why this cannot be the address of a heartbeat, without showing it; nothing if it can be."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        return "must be an http:// or https:// URL"
    return "must not contain user and password: put the token into the path" if "@" in parts.netloc else ""


def masked(url: str) -> str:
    """What may be shown of it: `mailto://***@mail.example`, `discord://***`."""
    scheme, _, rest = url.partition("://")
    scheme = printable(scheme)[:20]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, place = authority.rpartition("@")
    host = place if place.startswith("[") else place.partition(":")[0]
    if place.startswith("["):
        host = place.partition("]")[0] + "]"
    shown = host if scheme in _HOSTED and _HOST.fullmatch(host) else ""
    if not shown:
        return f"{scheme}://***"
    return f"{scheme}://{'***@' if at and user else ''}{shown}"


def url_secrets(url: str) -> list[str]:
    """The strings of it that no log may hold: the whole, the password, and every part long enough to be a token."""
    return [url, *(part for part, certain in _parts(url) if certain or len(part) >= _LONG)]


def fragments(url: str) -> list[str]:
    """All its parts but its host, longest first: to strike out of what a service or a library says about it."""
    host = masked(url).partition("://")[2].rpartition("@")[2]
    found = {part for part, _ in _parts(url) if len(part) > 3 and part != host}
    return sorted({url, *found}, key=len, reverse=True)


def _parts(url: str) -> Iterator[tuple[str, bool]]:
    """(part, whether it is a password) of a URL, as it is written and as it is meant."""
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    authority, *path = re.split(r"[/#]", before)
    user, _, place = authority.rpartition("@")
    name, _, password = user.partition(":")
    values = [part.partition("=")[2] for part in re.split(r"[&#]", query) if part.partition("=")[0] not in _PLAIN]
    host = [] if scheme in _HOSTED else [place, place.partition(":")[0]]
    for part, certain in [(password, True), *((other, False) for other in (name, *host, *path, *values))]:
        if part:
            yield part, certain
            yield unquote(part), certain
