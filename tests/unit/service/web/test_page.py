"""The page as text: what it says in each state, whole HTML, everything escaped, drawings where they belong."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from backup.model.finding import Level, failure
from backup.model.manifest import Tier
from backup.model.wal import WalSlot
from backup.monitoring.overview import Overview, Storage
from backup.service.web import page
from tests.support import overviews
from tests.support.overviews import NOW, ZONE, stored

STATES = ("healthy", "recoverable", "warning", "critical", "starting", "empty", "hostile")
_VOID = {"meta", "link", "br", "img"}
_ELEMENTS = {
    *("html", "head", "meta", "title", "link", "body", "header", "main", "footer", "nav", "section", "article", "div"),
    *(
        "p",
        "span",
        "h1",
        "h2",
        "h3",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "b",
        "i",
        "br",
        "a",
        "bdi",
        "pre",
        "code",
        "time",
        "figure",
    ),
    *("figcaption", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "path", "circle", "line", "rect", "polygon"),
}


class Reader(HTMLParser):
    """The text of a page; refuses what is not well formed, and elements or attributes that the page does not need."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _ELEMENTS, tag
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("style", "src", "srcset", "action"), name
            assert name != "href" or re.fullmatch(r"/[a-z0-9./?]*", value or ""), value
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(overview: Overview) -> str:
    """What a person reads, as one line."""
    return " ".join(Reader(page.render(overview).decode()).text.split())


@pytest.mark.parametrize("state", STATES)
def test_it_is_whole_html_of_known_elements(state: str) -> None:
    read(getattr(overviews, state)())


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("healthy", ["Healthy", "All is well.", "1 h 12 min", "2 d 00 h", "8 min 32 s", "30 of 30", "18 years"]),
        ("recoverable", ["Any moment of the last 7 days", "looked at 0 s ago", "133 segments"]),
        ("warning", ["Warning", "3 things need attention", "is damaged", "drill latest", "Undelivered", "53 days"]),
        ("critical", ["Critical", "2 things need action now.", "3 d 01 h", "has 1.2 GB free", "crashed"]),
        ("starting", ["Starting", "The first backup is running", "none yet", "4 min ago", "There are no sets yet"]),
        ("empty", ["Critical", "One thing needs action now.", "create daily takes one now", "Nothing has run yet."]),
    ],
)
def test_it_says_how_things_are(state: str, words: list[str]) -> None:
    text = read(getattr(overviews, state)())
    assert [each for each in words if each not in text] == []


def test_a_slot_has_a_line_where_one_is_wanted() -> None:
    seen = overviews.recoverable()
    assert seen.window and seen.window.stream and "Slot" not in read(seen)
    stream = seen.window.stream.model_copy(update={"slot": WalSlot(name="s", held=30_000_000)})
    assert "Slots keeps 30.0 MB of WAL" in read(replace(seen, window=replace(seen.window, stream=stream)))


def test_the_ribbon_has_its_words_its_pieces_and_the_sets() -> None:
    html = page.render(overviews.recoverable()).decode()
    text = " ".join(Reader(html).text.split())
    assert "any moment from 2025-11-19 13:12 to now, 0.4 s behind; broken 2025-11-24 11:12 to 11:14" in text
    assert "Offsite: any moment from 2025-11-19 13:12 to now, 40.0 s behind; broken 2025" in text
    assert "(s3://obcms-backups)" in text
    assert "BrokenMon 24 Nov 11:12 to Mon 24 Nov 11:14" in text and "7 base backups" in text
    ribbon = html[html.index('class="ribbon"') :].split("</section>")[0]
    # Eight nights, one Sunday's weekly set, and one by hand; no safety set.
    assert ribbon.count('<rect class="held"') == 2 and ribbon.count('<rect class="broken"') == 1
    assert ribbon.split('class="ends"')[0].count("<title>daily_") == 7 and "pre-restore" not in ribbon
    assert 'class="ribbon"' not in page.render(overviews.healthy()).decode()


def test_the_verdict_and_the_worst_reason_come_first() -> None:
    seen = overviews.critical()
    seen = replace(seen, health=replace(seen.health, reasons=tuple(reversed(seen.health.reasons))))
    text = read(seen)
    assert (
        text.index("Critical")
        < text.index("last daily backup failed")
        < text.index("BUCKET")
        < text.index("Newest good")
    )


def test_times_are_in_the_operators_zone() -> None:
    text = page.render(overviews.healthy()).decode()
    assert '<time datetime="2025-11-24T19:12:00+00:00">Tue 25 Nov 03:12</time>' in text
    assert "Asia/Manila" in text


def test_hostile_text_is_shown_as_text() -> None:
    html = page.render(overviews.hostile()).decode()
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;fetch(" in html and r"\x1b[31m" in html and "{{7*7}}" in html
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069]", html)


@pytest.mark.long
def test_thousands_of_sets_are_folded() -> None:
    """Each tier shows its newest, counts the rest, and names the command that lists them; all are below 240 kB."""
    seen = overviews.healthy()
    problem = "obcms_media.tar.gz has 1,204 bytes instead of 2,301,118,004; " * 20
    damaged: dict[str, Any] = {"state": "damaged", "problem": problem}
    many = tuple(
        stored(tier, NOW - timedelta(hours=hours), **({} if hours % 3 else damaged))
        for hours in range(600)
        for tier in Tier
    )
    html = page.render(replace(seen, sets=many, runs=seen.runs * 100)).decode()
    assert "The newest 180 sets" in html and "550 older" in html
    for tier in Tier:
        assert f"570 older {tier} sets: <code>list {tier}</code>" in html
        newest = [each.id for each in many if each.tier is tier][:30]
        assert [identifier for identifier in re.findall(r'class="id">([^<]+)', html) if identifier in newest] == newest
    assert len(html) < 240_000


def test_a_volume_that_was_not_measured_is_not_drawn() -> None:
    text = read(replace(overviews.healthy(), storage=Storage(7_000, None, None), clocks=(), tiers=(), slots=()))
    assert "7.0 kB" in text and "not known yet" in text and "Free" not in text
    assert "Every job is off" in text


def test_when_nothing_can_be_told_the_page_says_why() -> None:
    text = Reader(page.problem_page(failure("the disk <hangs>", "Look at `dmesg`."), NOW).decode()).text
    assert "Critical" in text and "the disk <hangs>" in text and "dmesg" in text


@pytest.mark.parametrize("status", page.VERDICTS)
def test_the_icon_tells_the_status(status: Level) -> None:
    assert page.icon(status).startswith(b"<svg")
    assert len({page.icon(each) for each in page.VERDICTS}) == 4


# --- the drawings ----------------------------------------------------------------------------------------------------


def row(overview: Overview, tier: Tier) -> page.TimelineRow:
    return next(each for each in page.timelines(overview) if each.tier == tier)


def test_marks_lie_where_their_time_is() -> None:
    daily = row(overviews.healthy(), Tier.DAILY)
    assert daily.since == NOW - timedelta(days=30)
    for mark in daily.marks:
        assert mark.x == pytest.approx(100 * (1 - (NOW - mark.time) / timedelta(days=30)), abs=0.01)


def test_each_state_has_its_mark() -> None:
    kinds = {mark.kind for mark in row(overviews.warning(), Tier.DAILY).marks}
    assert kinds == {"verified", "proven", "changed", "damaged"}
    failed = [mark for mark in row(overviews.critical(), Tier.DAILY).marks if mark.kind == "failed"]
    assert [mark.run.outcome for mark in failed if mark.run] == ["crashed", "failed", "failed"]
    assert page.kind_of(replace(stored(Tier.DAILY, NOW), state="old script")) == "old"
    assert page.kind_of(replace(stored(Tier.DAILY, NOW), state="unreadable")) == "damaged"


def test_what_must_be_found_is_drawn_last() -> None:
    marks = row(overviews.critical(), Tier.DAILY).marks
    assert [mark.kind for mark in marks[-3:]] == ["failed"] * 3


def test_a_set_from_the_future_stays_inside() -> None:
    seen = replace(overviews.empty(), sets=(stored(Tier.MANUAL, NOW + timedelta(days=4_000)),))
    assert [mark.x for mark in row(seen, Tier.MANUAL).marks] == [100]


def test_sizes_need_two_whole_sets() -> None:
    one = stored(Tier.DAILY, NOW)
    assert one.manifest
    media = replace(
        stored(Tier.DAILY, NOW - timedelta(days=1)), manifest=one.manifest.model_copy(update={"database": None})
    )
    assert page.sizes([one, media]) is None
    assert page.sizes([one, one]) is None
    drawn = page.sizes([one, stored(Tier.DAILY, NOW - timedelta(days=1))])
    assert drawn and [point.x for point in drawn.points] == [0, 100]
    assert all(0 <= point.y <= 100 for point in drawn.points)


def test_the_disk_is_divided_without_rest() -> None:
    bar = page.bar(overviews.healthy().storage)
    assert bar and bar.used + bar.undo + bar.other + bar.free == pytest.approx(100, abs=0.05)
    assert page.bar(Storage(1, None, 5)) is None


def test_ages_are_short() -> None:
    spans = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 9 * 86_400, 10 * 86_400, -60]
    assert [page._rough(timedelta(seconds=each)) for each in spans] == [
        *("0 s", "59 s", "1 min", "59 min", "1 h 00 min", "23 h 59 min", "1 d 00 h", "9 d 00 h", "10 d", "1 min ahead"),
    ]
    assert page._when(NOW.replace(year=2024), ZONE, NOW) == "Mon 25 Nov 2024 03:12"
