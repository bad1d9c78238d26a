"""What others rely on, as it was: manifests as released, and the help of every command. `GOLDEN=1` writes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from backup.cli import app
from backup.model.manifest import from_json, parse_file_name
from tests.support.golden import FOLDER, unchanged


@pytest.mark.parametrize(("file", "encryption"), [("manifest_1.json", ""), ("manifest_1_age.json", "age")])
def test_it_is_read_with_and_without_encryption(file: str, encryption: str) -> None:
    manifest = from_json((FOLDER / file).read_bytes(), file)
    assert {artifact.encryption for artifact in manifest.artifacts} == {encryption}
    assert {artifact.kind for artifact in manifest.artifacts} == {"database", "roles", "volume", "index"}
    parsed = [parse_file_name(artifact.file) for artifact in manifest.artifacts]
    assert {each.content for each in parsed if each} == {"sql.gz", "tar.gz", "files.gz"} and all(parsed)


def test_a_set_that_needs_packs_is_read() -> None:
    manifest = from_json((FOLDER / "manifest_2.json").read_bytes(), "manifest_2.json")
    assert manifest.incremental and {artifact.kind for artifact in manifest.artifacts} == {"index", "tree"}
    assert [parse_file_name(pack.file) is not None for pack in manifest.packs] == [True, True]


def _helps(command: Any, above: Any = None) -> Iterator[str]:
    """The help of a command and of all below it, at one width."""
    context = command.make_context(command.name or "backup", [], above, resilient_parsing=True, terminal_width=100)
    yield f"$ {context.command_path} --help\n{command.get_help(context)}\n"
    for each in getattr(command, "commands", {}).values():
        yield from _helps(each, context)


def test_the_help_of_every_command_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    unchanged("help.txt", "\n".join(_helps(get_command(app))))
