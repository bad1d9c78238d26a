"""The status page in a real Chromium: nothing hostile acts, nothing is fetched elsewhere, everything can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

from backup.monitoring.overview import Overview
from backup.service.web.guard import Access
from tests.support import overviews
from tests.support.browser import chromium, site
from tests.support.overviews import HOSTILE

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
STATES = ("healthy", "recoverable", "warning", "critical", "starting", "empty", "hostile")

# Contrast as WCAG 2 counts it.
COUNT = """
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return [255, 255, 255, 1];
  };
  const contrast = (one, other) => {
    const [a, b] = [light(one), light(other)];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  };
  const found = [];
"""

# Every text against what is painted behind it: how many there are, and those below 4.5 (3 for large ones).
TEXTS = f"""() => {{ {COUNT}
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {{
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || element.closest('title, .sr') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const ratio = contrast(parse(style.color), behind(element));
    seen += 1;
    if (ratio < (size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5))
      found.push(`${{ratio.toFixed(2)}} ${{element.className}} ${{text.slice(0, 40)}}`);
  }}
  return [seen, found];
}}"""

# Marks and signs against the card they stand on: 3 is what is wanted of graphics.
MARKS = f"""() => {{ {COUNT}
  for (const shape of document.querySelectorAll('.m, .sign circle, .sign .solid, .point, rect.held, rect.broken')) {{
    if (shape.closest('.verdict') || !shape.getClientRects().length) continue;
    const style = getComputedStyle(shape), ground = behind(shape.closest('section, article'));
    const paints = [style.fill, style.stroke].filter(paint => paint !== 'none').map(parse);
    const best = Math.max(...paints.map(paint => contrast(paint, ground)));
    if (best < 3) found.push(`${{best.toFixed(2)}} ${{shape.getAttribute('class')}}`);
  }}
  return found;
}}"""

INJECT = """() => {
  const script = document.createElement('script');
  script.textContent = 'window.ran = 1';
  document.body.append(script);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


class Watched:
    """A page, with everything that should not happen noted."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.events.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.events.append(f"dialog: {dialog.message}"))
        page.on("popup", lambda popup: self.events.append("popup"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        self.events.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)


def opened(browser: Browser, address: str, **more: Any) -> Watched:
    watched = Watched(browser.new_page(viewport={"width": 1120, "height": 800}, **more))
    watched.page.goto(address, wait_until="load")
    return watched


@pytest.mark.parametrize("state", STATES)
def test_it_can_be_read_everywhere(browser: Browser, state: str) -> None:
    overview: Overview = getattr(overviews, state)()
    with site(overview) as address:
        watched = opened(browser, address)
        page = watched.page
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        for width in (1120, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            # The verdict is what is seen first, without scrolling.
            box = page.locator("h1").bounding_box()
            assert box and box["y"] + box["height"] < 200
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                seen, faint = page.evaluate(TEXTS)
                assert (seen > 40, faint, page.evaluate(MARKS)) == (True, [], [])
        assert all(url.startswith(address) for url in watched.requests)
        assert watched.events == []
        page.close()


def test_the_two_schemes_differ(browser: Browser) -> None:
    grounds = set()
    with site(overviews.healthy()) as address:
        page = opened(browser, address).page
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert len(grounds) == 2


def test_hostile_text_is_text_in_the_browser_too(browser: Browser) -> None:
    with site(overviews.hostile()) as address:
        watched = opened(browser, address)
        page = watched.page
        assert page.locator("script, img, iframe, object, form, [onerror], [onload], [style]").count() == 0
        assert page.title() == "Critical · OBCMS backup"
        # The same characters that came in, but for those that would act on the reader.
        assert HOSTILE.split("\u202e")[0] in page.locator(".reasons li").first.inner_text()
        assert page.locator("h1").inner_text() == "Critical"
        # Had anything slipped through: the policy stops it, and says so.
        page.evaluate(INJECT)
        assert page.evaluate("window.ran === undefined")
        assert len(watched.events) == 1 and "Content Security Policy" in watched.events[0]
        assert all(url.startswith(address) for url in watched.requests)
        page.close()


def test_it_works_without_javascript_and_renews_itself(browser: Browser) -> None:
    with site(overviews.critical()) as address:
        page = opened(browser, address, java_script_enabled=False).page
        assert page.locator("h1").inner_text() == "Critical"
        assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "60"
        page.get_by_text("All 57 sets").click()
        assert page.locator("details table tbody tr").count() == len(overviews.critical().sets)
        page.close()


def test_it_has_landmarks_and_named_drawings(browser: Browser) -> None:
    with site(overviews.warning()) as address:
        page = opened(browser, address).page
        for role in ("banner", "main", "contentinfo", "navigation"):
            assert page.get_by_role(role).count() == 1  # type: ignore[arg-type]
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.locator("svg[role=img]:not([aria-label])").count() == 0
        assert page.locator("svg:not([role=img]):not([aria-hidden]):not(svg svg)").count() == 0
        assert page.locator("table:not(:has(thead th[scope=col]))").count() == 0
        # Every mark says in words what it is.
        assert page.locator(".timeline g > title").count() == page.locator(".timeline g").count() > 50
        page.close()


def test_each_kind_of_mark_has_a_shape_of_its_own(browser: Browser) -> None:
    with site(overviews.critical()) as critical, site(overviews.warning()) as warning:
        shapes = {}
        for address in (critical, warning):
            page = opened(browser, address).page
            for entry in page.locator("#sets ~ .legend li").all():
                drawn = entry.locator("svg").evaluate(
                    "e => [...e.children].map(c => c.tagName + (c.getAttribute('d') || '')).join()"
                )
                filled = entry.locator(".m").evaluate("e => e.tagName + e.getAttribute('r')")
                shapes[entry.inner_text()] = (drawn, filled)
            page.close()
    assert len(set(shapes.values())) == len(shapes) == 5


def test_a_break_of_two_minutes_is_seen_on_the_ribbon_of_a_week(browser: Browser) -> None:
    with site(overviews.recoverable()) as address:
        page = opened(browser, address).page
        drawing = page.locator("svg.ribbon")
        assert "2 spans and 1 break since" in (drawing.get_attribute("aria-label") or "")
        pieces, marks = drawing.locator("rect.held, rect.broken"), drawing.locator("g")
        for each in (pieces, marks):
            assert each.locator("title").count() == each.count() > 2
        for width in (1120, 360):
            page.set_viewport_size({"width": width, "height": 800})
            held, broken = (drawing.locator(f"rect.{kind}").first.bounding_box() for kind in ("held", "broken"))
            assert held and broken and broken["width"] >= 2 and broken["height"] > held["height"]
            # No mark covers what it stands above.
            assert all((box := mark.bounding_box()) and box["y"] + box["height"] < held["y"] for mark in marks.all())
        page.get_by_text("3 pieces, 7 base backups, the stream").click()
        assert page.locator("dd", has_text="11:12 to").is_visible()
        page.close()


def test_a_browser_logs_in_once_for_page_style_and_icon(browser: Browser) -> None:
    access = Access.of([], user="ops", password="pass word")
    with site(overviews.healthy(), access) as address:
        watched = opened(browser, address, http_credentials={"username": "ops", "password": "pass word"})
        assert watched.page.locator("h1").inner_text() == "Healthy"
        assert watched.page.evaluate("document.styleSheets.length && document.styleSheets[0].cssRules.length > 50")
        assert watched.events == []
        watched.page.close()
