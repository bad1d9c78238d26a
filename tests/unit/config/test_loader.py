"""Settings: what is refused, in one message, and where values come from."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.config.loader import ALIASES, load_settings
from backup.errors import ConfigError
from backup.model.schedule import moments


def problems(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    return caught.value.message


def test_nothing_has_to_be_set() -> None:
    settings = load_settings({})
    assert (settings.db_service, settings.db_port, str(settings.zone)) == ("db", 5432, "UTC")


def test_an_empty_value_is_an_unset_one() -> None:
    assert load_settings({"DB_HOST": "", "DB_PORT": "", "TZ": "", "BACKUP_DAILY": ""}) == load_settings({})


def test_all_problems_are_told_at_once() -> None:
    text = problems(BACKUP_RETENSION="1", BACKUP_DIALY="x", TZ="Mars/Base", DB_PORT="pg", BACKUP_WEEKLY="0 0 31 2 *")
    for words in ("BACKUP_RETENSION is not", "did you mean BACKUP_DAILY", "Mars/Base", "DB_PORT", "BACKUP_WEEKLY"):
        assert words in text
    assert "5 problems" in text


@pytest.mark.parametrize("cron", ["* * * *", "0 2 * * * *", "@daily", "61 * * * *", "0 0 30 2 *", "x"])
def test_cron_lines_that_never_run_are_refused(cron: str) -> None:
    assert "BACKUP_DAILY" in problems(BACKUP_DAILY=cron)


def test_a_job_can_be_off() -> None:
    assert load_settings({"BACKUP_DAILY": "off"}).daily == ""


INCREMENTAL = {"BACKUP_MEDIA": "incremental"}


@pytest.mark.parametrize(
    ("every", "cron"),
    [("off", ""), ("", ""), ("5m", "2-59/5 * * * *"), ("15m", "7-59/15 * * * *"), ("30 m", "15-59/30 * * * *")]
    + [("1h", "30 * * * *"), ("12h", "30 */12 * * *")],
)
def test_an_interval_is_a_cron_line_that_is_even(every: str, cron: str) -> None:
    settings = load_settings({**INCREMENTAL, "BACKUP_MEDIA_EVERY": every})
    assert settings.media_every == cron
    if cron:
        (zone, begin) = (ZoneInfo("UTC"), datetime(2026, 3, 1, tzinfo=UTC))
        slots = list(islice(moments(cron, begin, zone), 300))
        assert len({after - before for before, after in pairwise(slots)}) == 1
        assert all(slot.minute for slot in slots)


@pytest.mark.parametrize("every", ["7m", "0m", "15", "1d", "24h", "15 minutes", "-5m", "*/15 * * * *"])
def test_an_interval_that_is_not_even_is_refused(every: str) -> None:
    assert "BACKUP_MEDIA_EVERY" in problems(**INCREMENTAL, BACKUP_MEDIA_EVERY=every)


def test_snapshots_need_incremental_sets() -> None:
    assert "BACKUP_MEDIA_EVERY needs BACKUP_MEDIA=incremental" in problems(BACKUP_MEDIA_EVERY="15m")


@pytest.mark.parametrize("host", ["/var/run/postgresql", "a b", "-h", "a;b", "host=evil dbname=x", "\n"])
def test_a_host_is_a_host(host: str) -> None:
    assert "DB_HOST" in problems(DB_HOST=host)


def test_the_seeds_names_come_before_the_images() -> None:
    both = load_settings({"DB_NAME": "a", "POSTGRES_DB": "b", "POSTGRES_USER": "u"})
    assert (both.db_name, both.db_user) == ("a", "u")


@pytest.mark.parametrize("name", ["DB_PASSWORD", "POSTGRES_PASSWORD"])
def test_a_secret_from_a_file_loses_one_newline(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("  pass word \n")
    password = load_settings({f"{name}_FILE": str(tmp_path / "secret")}).db_password
    assert password and password.get_secret_value() == "  pass word "


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\n", "empty"), (b"a\nb\n", "one line"), (b"\xff\xfe", "UTF-8"), (b"x" * 5000, "one line")],
)
def test_a_secret_file_is_read_strictly(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    assert words in problems(DB_PASSWORD_FILE=str(tmp_path / "secret"))


def test_a_missing_secret_file_or_two_sources_are_refused(tmp_path: Path) -> None:
    assert "No such file" in problems(DB_PASSWORD_FILE=str(tmp_path / "none"))
    (tmp_path / "secret").write_text("x")
    assert "both set" in problems(DB_PASSWORD_FILE=str(tmp_path / "secret"), DB_PASSWORD="canary-1")
    assert "canary-1" not in problems(DB_PASSWORD_FILE=str(tmp_path / "secret"), DB_PASSWORD="canary-1")


def test_secrets_do_not_show() -> None:
    assert "canary-2" not in repr(load_settings({"DB_PASSWORD": "canary-2"}))


@given(st.dictionaries(st.sampled_from(sorted(ALIASES)), st.text(max_size=20), max_size=5))
def test_any_value_gives_settings_or_one_clear_error(environ: dict[str, str]) -> None:
    try:
        load_settings(environ)
    except ConfigError as error:
        assert error.message.count("\n  - ") >= 1 and error.hint


@pytest.mark.parametrize(
    ("backups", "volumes", "copies", "words"),
    [
        ("v", "v", "", "BACKUP_DIR"),
        ("v/media/backups", "v", "", "BACKUP_DIR"),
        ("b", "b/volumes", "", "BACKUP_DIR"),
        ("to v", "v", "", "BACKUP_DIR"),
        ("b", "to b/volumes", "", "BACKUP_DIR"),
        ("v/../v", "v", "", "BACKUP_DIR"),
        ("b", "v", "v/media/copies", "BACKUP_COPY_DIR"),
        ("b", "v", "", ""),
        ("vol", "v", "c", ""),
    ],
)
def test_what_is_archived_and_where_it_is_stored_lie_apart(
    tmp_path: Path, backups: str, volumes: str, copies: str, words: str
) -> None:
    for name in ("v/media", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "to v").symlink_to("v/media")
    (tmp_path / "to b").symlink_to(tmp_path / "b")
    environ = {"BACKUP_DIR": str(tmp_path / backups), "BACKUP_VOLUMES_DIR": str(tmp_path / volumes)}
    environ |= {"BACKUP_COPY_DIR": str(tmp_path / copies)} if copies else {}
    if not words:
        assert load_settings(environ).volumes == tmp_path / volumes
        return
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    assert words in caught.value.message and "archived into themselves" in caught.value.message
    assert "apart from all that is archived" in caught.value.message


@pytest.mark.parametrize("what", ["all", "offsite"])
def test_incremental_media_and_encryption_are_refused(what: str) -> None:
    key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    text = problems(BACKUP_MEDIA="incremental", BACKUP_ENCRYPT=what, BACKUP_AGE_RECIPIENTS=key)
    assert f"BACKUP_MEDIA=incremental does not go with BACKUP_ENCRYPT={what}" in text
    assert load_settings({"BACKUP_MEDIA": "incremental", "BACKUP_COPY_DIR": "/copies"}).media == "incremental"
