"""Where `setup` writes its overlay, and where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup.cli.setup import write_file
from backup.errors import ConfigError, StoreError


def test_a_file_is_never_replaced_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)
    path, replaced = write_file("one\n", tmp_path, force=False)
    assert (path.name, replaced, path.read_text()) == ("docker-compose.backup.yml", False, "one\n")
    with pytest.raises(ConfigError, match="exists already"):
        write_file("two\n", tmp_path, force=False)
    assert path.read_text() == "one\n"
    assert write_file("two\n", path, force=True) == (path, True)
    assert path.read_text() == "two\n"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_file_that_would_vanish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("container", "oci")
    monkeypatch.setattr("backup.cli.setup.is_mounted", lambda _folder: False)
    with pytest.raises(StoreError, match="would be lost with this container"):
        write_file("x", tmp_path, force=False)
