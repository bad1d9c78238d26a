"""Debian's Chromium, driven by Playwright, and a page served to it by the real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from backup.monitoring.overview import Overview
from backup.service.web.app import create_app
from backup.service.web.guard import Access
from backup.service.web.server import HttpServer, bind

PROGRAM = Path("/usr/bin/chromium")
# Nothing but the page: no sandbox (root), no updates, no requests of the browser's own.
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    assert PROGRAM.exists(), f"there is no {PROGRAM}: run tools/test-programs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def site(overview: Overview, access: Access | None = None) -> Iterator[str]:
    """The address of a service that shows `overview`."""
    app = create_app(scheduler=lambda: "alive", overview=lambda: overview, ready=lambda: None, access=access)
    with bind("127.0.0.1", 0) as listener, HttpServer(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
