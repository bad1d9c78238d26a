"""Pictures of the status page for the documentation: python -m tests.support.screenshots [DIRECTORY]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.support import overviews
from tests.support.browser import chromium, site

STATES = ("healthy", "recoverable", "warning", "critical")
FORMS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1120, "height": 1000}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1120, "height": 1000}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 900}, "color_scheme": "light"},
}


def take(browser: Browser, directory: Path) -> None:
    """One picture for each state and form."""
    for state in STATES:
        with site(getattr(overviews, state)()) as address:
            for form, options in FORMS.items():
                page = browser.new_page(**options)
                page.goto(address)
                page.screenshot(path=directory / f"{state}-{form}.png")
                page.close()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "docs" / "screenshots"
    with chromium() as started:
        take(started, target)
