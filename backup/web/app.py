"""The three questions an orchestrator asks: /livez, /healthz and /readyz. Nothing here changes anything.

The answer is shaped like draft-inadarei-api-health-check: a status, reasons a person can read, checks a machine can.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, Generic, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from backup import __version__
from backup.errors import BackupError
from backup.health import Health, Reason, SchedulerState, scheduler_reason
from backup.text import printable

Answer = Callable[[Request], Awaitable[JSONResponse]]
T = TypeVar("T")

SERVICE: Final = "obcms-backup"
# How long an answer is repeated: a thousand requests cost a running backup as little as one.
_FRESH: Final = 2.0
# The probe waits 5 s. A disk that hangs must give an answer, too.
_HEALTH_LIMIT: Final = 4.0
_READY_LIMIT: Final = 10.0


class Shared(Generic[T]):
    """A slow question asked once at a time, in a thread, for all who want to know."""

    def __init__(self, ask: Callable[[], T], limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._limit, self._clock = ask, limit, clock
        self._answer: asyncio.Future[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """The answer, at most `_FRESH` seconds old; TimeoutError after `limit`, while the thread goes on."""
        if self._answer is None or (self._answer.done() and self._clock() >= self._until):
            self._answer = self._begin(asyncio.get_running_loop())
        return await asyncio.wait_for(asyncio.shield(self._answer), self._limit)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = loop.create_future()
        # Seen as retrieved even if everybody has stopped waiting, or asyncio would log it.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A daemon, not an executor's thread: one that hangs in a dead disk must not keep the process from ending.
        threading.Thread(target=self._work, args=(loop, answer), name="health", daemon=True).start()
        return answer

    def _work(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]) -> None:
        outcome: Future[T] = Future()
        try:
            outcome.set_result(self._ask())
        except Exception as error:  # noqa: BLE001  # raised again in the loop, by whoever waits for the answer
            outcome.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime: nobody waits any more
            loop.call_soon_threadsafe(self._settle, answer, outcome)

    def _settle(self, answer: asyncio.Future[T], outcome: Future[T]) -> None:
        self._until = self._clock() + _FRESH
        if error := outcome.exception():
            answer.set_exception(error)
        else:
            answer.set_result(outcome.result())


def create_app(
    *, scheduler: Callable[[], SchedulerState], health: Callable[[], Health], ready: Callable[[], None]
) -> Starlette:
    """The application. `health` and `ready` may be slow; `ready` raises BackupError for what is missing."""
    app = Starlette(
        routes=[
            Route("/livez", _livez(scheduler)),
            Route("/healthz", _healthz(Shared(health, _HEALTH_LIMIT))),
            Route("/readyz", _readyz(Shared(_outcome(ready), _READY_LIMIT))),
        ],
        exception_handlers={Exception: _bug},
    )
    app.router.redirect_slashes = False
    return app


def health_body(health: Health) -> dict[str, Any]:
    """The JSON of /healthz."""
    good, age = health.newest_good, health.age
    checks: dict[str, Any] = {}
    if health.scheduler:
        checks["scheduler:state"] = [{"observedValue": health.scheduler}]
    if good is not None and age is not None:
        checks["newest-good-set:age"] = [
            {
                "componentId": printable(good.id),
                "observedValue": round(age.total_seconds()),
                "observedUnit": "s",
                "time": good.time.isoformat(),
            }
        ]
    return _body(health.status, health.reasons) | {"time": health.now.isoformat(), "checks": checks}


def _body(status: str, reasons: tuple[Reason, ...] = ()) -> dict[str, Any]:
    listed = [{"severity": reason.severity, "text": reason.text, "hint": reason.hint} for reason in reasons]
    return {"status": status, "service": SERVICE, "version": __version__, "reasons": listed}


def _response(body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(
        body,
        status_code=200 if body["status"] in ("pass", "warn") else 503,
        media_type="application/health+json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def _failed(text: str, hint: str = "") -> JSONResponse:
    text, hint = (printable(" ".join(part.split())) for part in (text, hint))
    return _response(_body("fail", (Reason("fail", text, hint),)))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    """What nobody foresaw is red, too. Its trace goes to the log (starlette raises it again), not to the client."""
    return _failed(f"the check itself failed: {type(error).__name__}", "`docker compose logs backup` has the details.")


def _livez(scheduler: Callable[[], SchedulerState]) -> Answer:
    async def answer(request: Request) -> JSONResponse:
        reason = scheduler_reason(scheduler())
        return _response(_body("fail", (reason,)) if reason else _body("pass"))

    return answer


def _healthz(health: Shared[Health]) -> Answer:
    async def answer(request: Request) -> JSONResponse:
        try:
            return _response(health_body(await health.get()))
        except TimeoutError:
            return _failed(*_hangs(_HEALTH_LIMIT))

    return answer


def _readyz(ready: Shared[BackupError | None]) -> Answer:
    async def answer(request: Request) -> JSONResponse:
        try:
            problem = await ready.get()
        except TimeoutError:
            return _failed(*_hangs(_READY_LIMIT))
        return _failed(problem.message, problem.hint) if problem else _response(_body("pass"))

    return answer


def _hangs(limit: float) -> tuple[str, str]:
    text = f"no answer within {limit:.0f} s: the backup volume, the database or the Docker engine hangs"
    return text, "Look at the disk of the backup volume and at the database; `docker compose logs backup`."


def _outcome(ready: Callable[[], None]) -> Callable[[], BackupError | None]:
    """The error as a value: it is kept and given out again, and a kept exception would grow with each raise."""

    def ask() -> BackupError | None:
        try:
            ready()
        except BackupError as error:
            return error
        return None

    return ask
