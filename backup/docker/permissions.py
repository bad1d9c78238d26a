"""Which calls of the engine's API are let through: a proxy before the socket may refuse some.

Each is asked about a container and an image that nobody has, so that nothing comes of it: an engine answers that
there is no such thing, a proxy that it may not be asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from backup.docker.engine import Engine
from backup.docker.translate_errors import engine_errors
from backup.errors import EngineError

Purpose = Literal["backup", "drill", "restore", "secret"]
_REFUSED: Final = frozenset({401, 403, 405})
_SECONDS: Final = 10


@dataclass(frozen=True)
class Call:
    """A call that we make, `{}` standing for a container, an image or a command."""

    method: str
    path: str
    purpose: Purpose
    body: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def shown(self) -> str:
        """As a proxy's documentation writes it."""
        return f"{self.method} {self.path.partition('?')[0].format('ID')}"


CALLS: Final = (
    Call("GET", "/containers/json?limit=1", "backup"),
    Call("GET", "/containers/{}/json", "backup"),
    Call("GET", "/images/{}/json", "backup"),
    Call("POST", "/containers/create", "backup", {"Image": "{}"}),
    Call("POST", "/containers/{}/start", "backup"),
    Call("POST", "/containers/{}/wait", "backup"),
    Call("GET", "/containers/{}/logs?stdout=1", "backup"),
    Call("POST", "/containers/{}/kill", "backup"),
    Call("DELETE", "/containers/{}", "backup"),
    Call("POST", "/containers/{}/exec", "drill", {"Cmd": ["true"]}),
    Call("POST", "/exec/{}/start", "drill", {"Detach": False}),
    Call("GET", "/exec/{}/json", "drill"),
    Call("POST", "/containers/{}/stop", "restore"),
    Call("GET", "/containers/{}/archive?path=/none", "secret"),
)


@dataclass(frozen=True)
class Rights:
    """What an engine is and lets us do. `rootless` is None where it may not be asked."""

    url: str
    version: str
    rootless: bool | None
    refused: tuple[Call, ...]


def engine_rights(engine: Engine) -> Rights:
    """Ask the engine; it changes nothing."""
    nobody = secrets.token_hex(16)  # in the form of all ids, for proxies that look at it
    version = engine.version()
    with engine_errors("the engine's rights"):
        refused = tuple(_refused(engine, nobody))
    return Rights(engine.url, version, _rootless(engine), refused)


def _refused(engine: Engine, nobody: str) -> Iterator[Call]:
    base = f"{engine.api.base_url}/v{engine.api.api_version}"
    for call in CALLS:
        body = {"Image": nobody} if call.body and "Image" in call.body else call.body
        with engine.api.request(
            call.method, base + call.path.format(nobody), json=body, timeout=_SECONDS, stream=True
        ) as answer:
            if answer.status_code in _REFUSED:
                yield call


def _rootless(engine: Engine) -> bool | None:
    try:
        with engine_errors("the engine's options"):
            options = engine.api.info().get("SecurityOptions") or []
    except EngineError:
        return None
    return any("rootless" in option for option in options)
