"""The shipped overlay names every setting with its true default, and none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.config.loader import ALIASES, Settings

_TEXT = (Path(__file__).parents[2] / "docker-compose.backup.yml").read_text()
_SETTING = re.compile(r"^ {6}(?:# )?([A-Z][A-Z0-9_]+): +(\"[^\"]*\"|\S+) +# (\S.*)$", re.MULTILINE)
# Not the product's default, UTC: the overlay is for one application, which lives there.
_ZONE = "${TZ:-Asia/Manila}"


def _stated() -> dict[str, str]:
    found = _SETTING.findall(_TEXT)
    names = [name for name, _, _ in found]
    assert len(names) == len(set(names)), "a setting stands there twice"
    return {name: value.strip('"') for name, value, _ in found}


def _shown(default: object) -> str:
    """A default as it would be written into the environment; an unset one is empty."""
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(default)
    return default.key if isinstance(default, ZoneInfo) else f"{default}"


@pytest.mark.parametrize("alias", ALIASES)
def test_every_setting_stands_there_with_its_default(alias: str) -> None:
    expected = _ZONE if alias == "TZ" else _shown(Settings.model_fields[ALIASES[alias]].default)
    assert _stated().get(alias) == expected


def test_only_the_time_zone_is_active() -> None:
    environment = _TEXT.partition("    environment:\n")[2].partition("    volumes:\n")[0]
    active = [line.strip() for line in environment.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert [line.partition(":")[0] for line in active] == ["TZ"]


def test_it_names_no_setting_that_does_not_exist() -> None:
    assert set(_stated()) <= set(ALIASES)
    assert set(re.findall(r"(?<![A-Z_])BACKUP_[A-Z_]*[A-Z]", _TEXT)) <= set(ALIASES)


def test_the_backup_volume_has_exactly_its_name() -> None:
    assert re.search(r"^  obcms_backups:\n    name: obcms_backups$", _TEXT, re.MULTILINE)


def test_no_port_is_published() -> None:
    assert not re.search(r"^ *ports:", _TEXT, re.MULTILINE)
    assert re.findall(r"^ *# +- (\S+:8080)$", _TEXT, re.MULTILINE) == ["127.0.0.1:9280:8080"]


def test_an_engine_of_20_10_understands_it() -> None:
    assert "start_interval" not in _TEXT
