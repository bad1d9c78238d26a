"""Fragments of the changelog become a section of it, each once, and none is lost."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from backup import __version__

ROOT = Path(__file__).resolve().parents[2]
OLD = "# Changelog\n\n## 0.1.0 - 2026-01-01\n\n- An older change.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small repository of version 0.2.0."""
    for name in ("backup", "changelog.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "backup" / "__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(OLD)
    (tmp_path / "changelog.d" / "README.md").write_text("# How\n")
    return tmp_path


def collect(folder: Path, **fragments: str) -> tuple[int, str]:
    """Write the fragments and collect them; exit code and changelog."""
    for name, text in fragments.items():
        (folder / "changelog.d" / f"{name}.md").write_text(text)
    words = [ROOT / "tools" / "changelog", "--date", "2026-02-03", folder]
    done = subprocess.run(words, capture_output=True, check=False)
    return done.returncode, (folder / "CHANGELOG.md").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "changelog.d").iterdir())


def test_a_new_version_has_a_heading_of_its_own(folder: Path) -> None:
    code, text = collect(folder, b="The second.", a="The first,\nin two lines.\n")
    items = "- The first,\n  in two lines.\n- The second.\n"
    assert (code, text) == (0, OLD.replace("## 0.1.0", f"## 0.2.0 - 2026-02-03\n\n{items}\n## 0.1.0"))
    assert names(folder) == ["README.md"]


def test_more_are_added_to_a_version_that_is_there(folder: Path) -> None:
    collect(folder, a="The first.")
    _, text = collect(folder, a="The second.")
    assert "\n\n## 0.2.0 - 2026-02-03\n\n- The first.\n- The second.\n\n## 0.1.0" in text
    assert text.count("##") == 2 and text.endswith("- An older change.\n")


@pytest.mark.parametrize("text", ["", "- a dash", "# a heading"])
@pytest.mark.long
def test_a_fragment_that_is_none_changes_nothing(folder: Path, text: str) -> None:
    assert collect(folder, a="The first.", b=text) == (1, OLD)
    assert names(folder) == ["README.md", "a.md", "b.md"]


def test_nothing_to_collect_is_no_success(folder: Path) -> None:
    assert collect(folder) == (1, OLD)


def test_the_newest_section_is_of_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", each) for each in headings), headings
    assert headings[0].split()[0] == __version__
