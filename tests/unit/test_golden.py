"""Manifests as released: any of them can be read for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup.manifest import from_json, parse_file_name

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.mark.parametrize(("file", "encryption"), [("manifest_1.json", ""), ("manifest_1_age.json", "age")])
def test_it_is_read_with_and_without_encryption(file: str, encryption: str) -> None:
    manifest = from_json((GOLDEN / file).read_bytes(), file)
    assert {artifact.encryption for artifact in manifest.artifacts} == {encryption}
    assert {artifact.kind for artifact in manifest.artifacts} == {"database", "roles", "volume", "index"}
    parsed = [parse_file_name(artifact.file) for artifact in manifest.artifacts]
    assert {each.content for each in parsed if each} == {"sql.gz", "tar.gz", "files.gz"} and all(parsed)
