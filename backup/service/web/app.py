"""What the service answers over HTTP: /livez, /readyz, /healthz, /metrics, /api/status and the page. It only tells.

Health answers are shaped like draft-inadarei-api-health-check: a status, reasons a person can read, checks a machine
can. Metrics, API and page all show the one Overview that was made for whoever asked first, at most two seconds ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backup.documents.status import STATUS, bare_answer, brief_answer, health_answer
from backup.errors import BackupError
from backup.formatting import printable
from backup.logging import logger
from backup.model.finding import Finding, failure
from backup.monitoring.health import SchedulerState, scheduler_reason
from backup.monitoring.overview import Overview
from backup.service.web import metrics, page
from backup.service.web.guard import Access, Guard

Answer = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")

# Seconds that an answer is repeated: a thousand requests cost a running backup as little as one.
FRESH: Final = 2.0
# Seconds of work above which whoever is in a hurry is given the last answer.
DEAR: Final = 0.1
# The probe waits 5 s. A disk that hangs must give an answer, too.
HEALTH_LIMIT: Final = 4.0
_READY_LIMIT: Final = 10.0
# Seconds. Docker asks every 30; a look at ten thousand sets takes a second.
_HEALTH_AGE: Final = 60.0
_NO_STORE: Final = {"Cache-Control": "no-store"}
_LOGS: Final = "`docker compose logs backup` has the details."


class _View:
    """One Overview in all its forms, each made once, when somebody wants it."""

    def __init__(self, overview: Overview) -> None:
        self.overview = overview

    @cached_property
    def page(self) -> bytes:
        return page.render(self.overview)

    @cached_property
    def metrics(self) -> bytes:
        return metrics.exposition(self.overview)

    @cached_property
    def status(self) -> bytes:
        return STATUS.of(self.overview).encode().encode()


def create_app(
    *,
    scheduler: Callable[[], SchedulerState],
    overview: Callable[[], Overview],
    ready: Callable[[], None],
    access: Access | None = None,
    limit: float = HEALTH_LIMIT,
    fresh: float = FRESH,
) -> Starlette:
    """The application. `overview` and `ready` may be slow; `ready` raises BackupError for what is missing.

    An overview is waited for `limit` seconds and told for `fresh` more.
    """
    view = Shared(_told(lambda: _View(overview())), limit, fresh)
    app = Starlette(
        routes=[
            Route("/", _page(view)),
            Route("/api/status", _program(view, lambda seen: seen.status, "application/json")),
            Route("/metrics", _program(view, lambda seen: seen.metrics, metrics.CONTENT_TYPE)),
            Route("/livez", _livez(scheduler)),
            Route("/healthz", _healthz(view)),
            Route("/readyz", _readyz(Shared(_told(ready), _READY_LIMIT))),
            Route("/style.css", _static(page.STYLE, "text/css; charset=utf-8")),
            *(Route(f"/icon/{name}.svg", _static(page.icon(name), "image/svg+xml")) for name in page.VERDICTS),
        ],
        middleware=[Middleware(Guard, access or Access())],
    )
    app.router.redirect_slashes = False
    return app


def _static(body: bytes, kind: str) -> Answer:
    async def answer(request: Request) -> Response:
        return Response(body, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})

    return answer


def _page(view: Shared[_View | Finding]) -> Answer:
    async def answer(request: Request) -> Response:
        seen = _drawn(await _known(view), lambda seen: seen.page)
        if isinstance(seen, Finding):
            body, code = page.problem_page(seen, datetime.now(UTC)), 503
        else:
            body, code = seen, 200
        return Response(body, code, media_type="text/html; charset=utf-8", headers=_NO_STORE)

    return answer


def _program(view: Shared[_View | Finding], form: Callable[[_View], bytes], kind: str) -> Answer:
    async def answer(request: Request) -> Response:
        seen = _drawn(await _known(view), form)
        if isinstance(seen, Finding):
            return _failed(request, seen)
        return Response(seen, media_type=kind, headers=_NO_STORE)

    return answer


def _livez(scheduler: Callable[[], SchedulerState]) -> Answer:
    async def answer(request: Request) -> Response:
        reason = scheduler_reason(scheduler())
        return _health(request, brief_answer(*([reason] if reason else [])))

    return answer


def _healthz(view: Shared[_View | Finding]) -> Answer:
    async def answer(request: Request) -> Response:
        # The container's own probe, which has no address, has the time to wait for how it is now.
        seen = await _known(view, soon=request.client is not None)
        if isinstance(seen, Finding):
            return _failed(request, seen)
        return _health(request, health_answer(seen.overview.health))

    return answer


def _readyz(ready: Shared[None | Finding]) -> Answer:
    async def answer(request: Request) -> Response:
        problem = await _known(ready)
        return _health(request, brief_answer(*([problem] if problem else [])))

    return answer


def _health(request: Request, health: Any) -> Response:
    """A health answer. Its reasons name sets and servers, so they are for those who may read them."""
    return Response(
        (health if request.scope["trusted"] else bare_answer(health.status)).encode(),
        200 if health.status in ("pass", "warn") else 503,
        media_type="application/health+json",
        headers=_NO_STORE,
    )


def _failed(request: Request, unknown: Finding) -> Response:
    return _health(request, brief_answer(unknown))


async def _known(shared: Shared[T | Finding], *, soon: bool = False) -> T | Finding:
    try:
        return await (shared.get_soon(_HEALTH_AGE) if soon else shared.get())
    except TimeoutError:
        text = f"no answer within {shared.limit:.0f} s: the backup volume, the database or the Docker engine hangs"
        return failure(text, "Check the disk of the backup volume and the database; `docker compose logs backup`.")


def _drawn(seen: _View | Finding, form: Callable[[_View], bytes]) -> bytes | Finding:
    return seen if isinstance(seen, Finding) else _told(lambda: form(seen))()


def _told(ask: Callable[[], T]) -> Callable[[], T | Finding]:
    """What nobody foresaw is red, too. Its trace goes to the log, once for all who ask, and not to the client."""

    def asked() -> T | Finding:
        try:
            return ask()
        except BackupError as error:
            return failure(_line(error.message), _line(error.hint))
        except Exception as error:  # noqa: BLE001
            logger.exception("the check itself failed")
            return failure(f"the check itself failed: {type(error).__name__}", _LOGS)

    return asked


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


class Shared(Generic[T]):
    """A slow question asked once at a time, in a thread, for all who want to know."""

    def __init__(self, ask: Callable[[], T], limit: float, fresh: float = FRESH, dear: float = DEAR) -> None:
        self._ask, self.limit, self._fresh, self._dear = ask, limit, fresh, dear
        self._lock = threading.Lock()
        self._answer: Future[T] | None = None
        # Who waits for it, in which loop.
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        # The last one that took more work than `dear`, when it was begun, and until when it is repeated.
        self._last: Future[T] | None = None
        self._begun = self._until = 0.0

    async def get(self) -> T:
        """The answer, at most `fresh` seconds old; TimeoutError after `limit`, while the thread goes on."""
        waiter = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            answer = self._current()
            if not answer.done():
                self._waiting.add(waiter)
        if not answer.done():
            try:
                await asyncio.wait_for(waiter[1].wait(), self.limit)
            finally:
                self._waiting.discard(waiter)
        return answer.result()

    async def get_soon(self, age: float) -> T:
        """The same, but at once where it is much work: then the last one, at most `age` seconds old."""
        with self._lock:
            current, last = self._current(), self._last
        if last and not current.done() and time.monotonic() - self._begun < age:
            return last.result()
        return await self.get()

    def _current(self) -> Future[T]:
        """The answer that is there or under way; for the holder of the lock."""
        if self._answer is None or (self._answer.done() and time.monotonic() >= self._until):
            self._answer = Future()
            # A daemon, not an executor's thread: one that hangs in a dead disk must not keep the process from ending.
            threading.Thread(target=self._work, args=(self._answer,), name="health", daemon=True).start()
        return self._answer

    def _work(self, answer: Future[T]) -> None:
        outcome: Future[T] = Future()
        begun, worked = time.monotonic(), time.thread_time()
        try:
            outcome.set_result(self._ask())
        except Exception as error:  # noqa: BLE001  # raised again by whoever waits for the answer
            outcome.set_exception(error)
        # Work and not time: what is slow because a disk hangs must not be told from memory.
        dear, problem = time.thread_time() - worked > self._dear, outcome.exception()
        with self._lock:
            self._until = time.monotonic() + self._fresh
            self._last, self._begun = (outcome if dear and not problem else None), begun
            if problem:
                answer.set_exception(problem)
            else:
                answer.set_result(outcome.result())
            waiting, self._waiting = self._waiting, set()
        for loop, told in waiting:
            with contextlib.suppress(RuntimeError):  # that loop was closed in the meantime
                loop.call_soon_threadsafe(told.set)
