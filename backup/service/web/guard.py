"""Who may ask what: the Host check, the login, and the headers that every answer carries. No request changes anything.

The Host check is against DNS rebinding: a page that an operator visits points its own name at this service and reads
it through the operator's browser. Such a request bears that name. An address points nowhere else, so any is fine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from backup.config.loader import Settings

ASGIScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

# The page has no script, no form and no frame, and nothing comes from elsewhere.
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Whoever needs these asks often and may have no login: they answer everybody, but with the bare status.
OPEN: Final = frozenset({"/livez", "/readyz", "/healthz"})
METHODS: Final = ("GET", "HEAD")
_LOCAL: Final = frozenset({"localhost", "backup"})
# A name or an address in brackets, and perhaps a port.
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::\d{1,5})?")


@dataclass(frozen=True)
class Access:
    """What opens the service. `hosts` are names it is asked by, beside addresses and localhost; `*` means any.

    Without `token` and `user` everybody who reaches the port may read.
    """

    hosts: frozenset[str] = frozenset()
    token: str = ""
    user: str = ""
    password: str = ""

    @classmethod
    def of(cls, hosts: Iterable[str], **secrets: str) -> Access:
        """Names in any spelling."""
        return cls(frozenset(_name(host) for host in hosts if host) | _LOCAL, **secrets)

    @property
    def locked(self) -> bool:
        """Whether a login is wanted at all."""
        return bool(self.token or self.password)

    def host(self, value: str | None) -> bool:
        """Whether the service may be asked by this Host header. Only ancient clients send none, never a browser."""
        if value is None or "*" in self.hosts:
            return True
        match = _HOST.fullmatch(value.strip())
        name = _name(match[1]) if match else ""
        return name in self.hosts or name in _LOCAL or _is_address(name)

    def login(self, authorization: str) -> bool:
        """Whether this Authorization header opens the service. Takes the same time for every wrong secret."""
        if not self.locked:
            return True
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return bool(self.token) and _same(value.strip(), self.token)
            case "basic":
                return bool(self.password) and _same(_decoded(value.strip()), f"{self.user}:{self.password}")
        return False

    @property
    def challenge(self) -> str:
        """What WWW-Authenticate says; a browser then asks for user and password."""
        ways = [("Basic", ', charset="UTF-8"')] if self.password else []
        ways += [("Bearer", "")] if self.token else []
        return ", ".join(f'{way} realm="OBCMS backup"{more}' for way, more in ways)


def access_for(settings: Settings) -> Access:
    """Who may ask: by the names that are set and the container's own, with the login that is set."""
    secrets = {"token": settings.http_token, "password": settings.http_password}
    return Access.of(
        [*settings.http_allowed_hosts, socket.gethostname(), settings.http_host],
        user=settings.http_user or "",
        **{name: value.get_secret_value() if value else "" for name, value in secrets.items()},
    )


class Guard:
    """Lets a request through to `app`, or answers it. `scope["trusted"]` tells the app whether reasons may be shown."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        trusted = self._access.login(headers.get(b"authorization", ""))
        scope["trusted"] = trusted
        if not self._access.host(headers.get(b"host")):
            text = "This host name is not allowed. BACKUP_HTTP_ALLOWED_HOSTS adds names."
            await _refuse(scope, send, 421, text)
        elif scope["method"] not in METHODS:
            await _refuse(scope, send, 405, "This service is read-only.", ("allow", "GET, HEAD"))
        elif not trusted and scope["path"] not in OPEN:
            await _refuse(scope, send, 401, "Log in to read this.", ("www-authenticate", self._access.challenge))
        else:
            await self._app(scope, receive, send)


async def _refuse(scope: ASGIScope, send: Send, status: int, text: str, *more: tuple[str, str]) -> None:
    body = f"{text}\n".encode()
    headers = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"), *more]
    headers.append(("content-length", str(len(body))))
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _name(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _same(given: str, wanted: str) -> bool:
    """Compared as digests: the length of the secret does not show in the time either."""
    return hmac.compare_digest(
        *(hashlib.sha256(each.encode("utf-8", "surrogatepass")).digest() for each in (given, wanted))
    )
