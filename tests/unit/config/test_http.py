"""The settings of the HTTP service: login, names, what Docker's health asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup.config.loader import load_settings
from backup.errors import ConfigError
from backup.service.probe import path_asked
from backup.service.web.guard import access_for


def problems(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    assert "canary" not in caught.value.message
    return caught.value.message


def test_secrets_may_be_files_and_do_not_show(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary-1\n")
    settings = load_settings(
        {"BACKUP_HTTP_TOKEN_FILE": str(tmp_path / "token"), "BACKUP_HTTP_USER": "u", "BACKUP_HTTP_PASSWORD": "canary-2"}
    )
    assert "canary" not in f"{settings!r} {settings}"
    assert settings.secrets == ("canary-1", "canary-2")
    access = access_for(settings)
    assert (access.token, access.user, access.password) == ("canary-1", "u", "canary-2")


def test_half_a_login_and_what_no_header_carries_are_refused(tmp_path: Path) -> None:
    assert "go together" in problems(BACKUP_HTTP_USER="u")
    assert "go together" in problems(BACKUP_HTTP_PASSWORD="canary")
    assert "colon" in problems(BACKUP_HTTP_USER="a:b", BACKUP_HTTP_PASSWORD="canary")
    assert "BACKUP_HTTP_TOKEN" in problems(BACKUP_HTTP_TOKEN="canary ö")
    assert "both set" in problems(BACKUP_HTTP_TOKEN="canary", BACKUP_HTTP_TOKEN_FILE=str(tmp_path))
    assert "BACKUP_HTTP_TOKEN_FILE?" in problems(BACKUP_HTTP_TOKEN_FIL="x")
    assert "BACKUP_HEALTHCHECK" in problems(BACKUP_HEALTHCHECK="/healthz")


def test_names_besides_its_own() -> None:
    access = access_for(load_settings({"BACKUP_HTTP_ALLOWED_HOSTS": "a.example, B.example."}))
    assert all(access.host(name) for name in ("A.example:443", "b.example", "backup:8080", "localhost"))
    assert not access.host("c.example") and not access.locked


@pytest.mark.parametrize(("value", "path"), [("", "/healthz"), ("livez", "/livez"), ("readyz", "/readyz")])
def test_what_the_image_asks(value: str, path: str) -> None:
    assert path_asked({"BACKUP_HEALTHCHECK": value}) == path
    assert "/" + load_settings({"BACKUP_HEALTHCHECK": value}).healthcheck == path
