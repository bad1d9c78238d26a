"""Addresses: how they are read, what is refused, what is shown, what becomes of Django's mail settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from apprise import Apprise
from hypothesis import example, given
from hypothesis import strategies as st

from backup.config import notify_url
from backup.config.loader import load_settings
from backup.errors import ConfigError
from backup.monitoring.alerts.delivery import check_targets
from backup.monitoring.alerts.destinations import everything, targets
from tests.support.examples import examples

# apprise's own, for a module that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "canary-0123456789abcdef"
URLS = [
    f"mailtos://user:{SECRET}@mail.example.com/?to=a@example.com,b@example.com",
    f"discord://{SECRET}/{SECRET}-x",
    f"tgram://{SECRET}/12315544/",
    f"jsons://u:{SECRET}@hooks.example.com:8443/services/{SECRET}?token={SECRET}",
    f"ntfys://{SECRET}",
    f"slack://{SECRET}/b/c/#{SECRET}",
]


def problems(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    return caught.value.message


@pytest.mark.parametrize("between", [" ", ",", "\n", ", ", " ,\n\t"])
def test_several_addresses_in_one_setting(between: str, tmp_path: Path) -> None:
    text = between.join(URLS)
    assert [url.get_secret_value() for url in load_settings({"BACKUP_NOTIFY_URLS": text}).notify_urls] == URLS
    (tmp_path / "urls").write_text(f"{text}\n")
    assert load_settings({"BACKUP_NOTIFY_URLS_FILE": str(tmp_path / "urls")}) == load_settings(
        {"BACKUP_NOTIFY_URLS": text}
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("admin@example.com", "scheme://"),
        (f"{SECRET}", "scheme://"),
        ("json://", "scheme://"),
        (f"syslog://{SECRET}", "this machine"),
        (f"dbus://{SECRET}", "this machine"),
        (f"file:///etc/{SECRET}", "scheme://"),
        (f"workflows://{SECRET}/x?template=/etc/passwd", "template="),
        (f"mailto://a:{SECRET}@example.com?PGPprv=/etc/x", "pgpprv="),
        (f"json://[{SECRET}", "cannot be read"),
    ],
)
def test_what_is_no_address_or_acts_on_this_machine_is_refused_without_showing_it(url: str, words: str) -> None:
    text = problems(BACKUP_NOTIFY_URLS=f"json://fine.example.com {url}" if "://" in url else url, TZ="Mars")
    assert words in text and "2 problems" in text and SECRET not in text


def test_too_many_addresses_are_refused() -> None:
    assert "too many" in problems(BACKUP_NOTIFY_URLS=" ".join(f"json://h{n}" for n in range(21)))
    assert "too many" in problems(MAILTO=",".join(f"a{n}@example.com" for n in range(21)), EMAIL_HOST="mail")


@pytest.mark.parametrize(
    "url",
    ["ftp://h/x", "file:///etc/passwd", "h/x", f"https://u:{SECRET}@h/x", "http://", "http://h:x/", "http://h/a b"],
)
def test_a_heartbeat_is_a_web_address(url: str) -> None:
    text = problems(BACKUP_HEARTBEAT_URL=url)
    assert "BACKUP_HEARTBEAT_URL" in text and SECRET not in text


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MAILTO": "admin"}, "not a mail address"),
        ({"MAILTO": "a@example.com\nBcc: b@example.com", "EMAIL_HOST": "mail"}, "not a mail address"),
        ({"MAILTO": "a@example.com"}, "EMAIL_HOST"),
        ({"EMAIL_USE_TLS": "True", "EMAIL_USE_SSL": "1"}, "keep one"),
        ({"EMAIL_PORT": "smtp"}, "EMAIL_PORT"),
        ({"DEFAULT_FROM_EMAIL": "OBCMS"}, "DEFAULT_FROM_EMAIL"),
        ({"BACKUP_NOTIFY_LEVEL": "all"}, "BACKUP_NOTIFY_LEVEL"),
        ({"BACKUP_REMIND_HOURS": "0"}, "BACKUP_REMIND_HOURS"),
        ({"BACKUP_NOTIFY_URL": "json://h"}, "did you mean BACKUP_NOTIFY_URLS"),
        ({"BACKUP_NOTIFY_URLS_FILE": "/nowhere/x"}, "No such file"),
    ],
)
def test_settings_that_cannot_work_are_refused(environ: dict[str, str], words: str) -> None:
    assert words in problems(**environ)


def test_addresses_are_not_shown() -> None:
    settings = load_settings(
        {"BACKUP_NOTIFY_URLS": " ".join(URLS), "BACKUP_HEARTBEAT_URL": f"https://hc.example.com/{SECRET}"}
    )
    shown = repr(settings) + repr(everything(settings)) + str([target.name for target in everything(settings)])
    assert SECRET not in shown
    assert [target.name for target in targets(settings)] == [
        "mailtos://***@mail.example.com",
        "discord://***",
        "tgram://***",
        "jsons://***@hooks.example.com",
        "ntfys://***",
        "slack://***",
    ]
    assert SECRET in " ".join(settings.secrets)


def test_targets_have_different_names() -> None:
    names = [
        t.name for t in targets(load_settings({"BACKUP_NOTIFY_URLS": "discord://a/b discord://c/d discord://e/f"}))
    ]
    assert names == ["discord://***", "discord://***#2", "discord://***#3"]


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_no_text_breaks_the_reading_or_shows_a_password(text: str) -> None:
    for url in notify_url.split_urls(text):
        notify_url.url_problem(url)
        notify_url.fragments(url)
    url = f"json://user:{SECRET}{text.replace('@', '')}@host/x"
    assert SECRET not in notify_url.masked(url)


def test_what_apprise_does_not_understand_is_refused_without_showing_it() -> None:
    settings = load_settings({"BACKUP_NOTIFY_URLS": f"discord://{SECRET} nonsense://{SECRET}/x {URLS[0]}"})
    with pytest.raises(ConfigError) as caught:
        check_targets(targets(settings))
    text = caught.value.message
    assert "2 of 3" in text and "discord://***: " in text and "nonsense" in text and SECRET not in text


def mail(**environ: str) -> dict[str, object]:
    settings = load_settings({"MAILTO": "admin@example.com", "EMAIL_HOST": "mail_relay"} | environ)
    (target,) = targets(settings)
    found = Apprise.instantiate(target.url.get_secret_value(), suppress_exceptions=False)
    names = ("smtp_host", "port", "secure_mode", "user", "password", "from_addr", "targets")
    return {name: getattr(found, name) for name in names}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"smtp_host": "mail_relay", "port": 25, "secure_mode": "insecure", "user": None}),
        ({"EMAIL_PORT": "587", "EMAIL_USE_TLS": "True"}, {"port": 587, "secure_mode": "starttls"}),
        ({"EMAIL_PORT": "465", "EMAIL_USE_SSL": "true"}, {"port": 465, "secure_mode": "ssl"}),
        ({"EMAIL_HOST": "::1"}, {"smtp_host": "::1"}),
        # A user at a provider that apprise knows must not send the mail somewhere else.
        ({"EMAIL_HOST_USER": "me@gmail.com", "EMAIL_HOST_PASSWORD": "p"}, {"smtp_host": "mail_relay", "port": 25}),
        ({"DEFAULT_FROM_EMAIL": '"OBCMS, Cot" <no@example.com>'}, {"from_addr": ("OBCMS, Cot", "no@example.com")}),
        ({"DEFAULT_FROM_EMAIL": "OBCMS <no@example.com>"}, {"from_addr": ("OBCMS", "no@example.com")}),
    ],
)
def test_djangos_mail_settings_mean_the_same_here(environ: dict[str, str], expected: dict[str, object]) -> None:
    found = mail(**environ)
    assert {name: found[name] for name in expected} == expected
    assert found["targets"] == [(False, "admin@example.com")]


@examples(50)
@example("@")
@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=30))
def test_any_password_and_user_arrive_as_they_are(text: str) -> None:
    found = mail(EMAIL_HOST_USER=text, EMAIL_HOST_PASSWORD=text[::-1])
    assert (found["user"], found["password"]) == (text, text[::-1])
