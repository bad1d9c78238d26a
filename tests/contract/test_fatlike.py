"""Where names of another case are the same, what would lose a file says both names, and nothing is changed."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import IntegrityError, RestoreFailed
from backup.media import extraction, swap
from backup.media.case_folding import alike, folds_case, other_spelling
from backup.media.selection import Chosen
from backup.media.swap import single_files
from tests.support.fatlike import mounted

STAMP = "20261123-1047"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume with one file."""
    with mounted(tmp_path / "volume") as root:
        (root / "live.pdf").write_text("live")
        yield root


def archive(*names: str, kinds: dict[str, bytes] | None = None) -> io.BytesIO:
    """Names that end with a slash are directories; of the others each has its name as content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("", *names):
            info = tarfile.TarInfo(f"media/{name}")
            info.type = tarfile.DIRTYPE if not name or name.endswith("/") else (kinds or {}).get(name, tarfile.REGTYPE)
            info.mode = 0o700
            data = name.encode() if info.type == tarfile.REGTYPE else b""
            info.size, info.linkname = len(data), f"media/{names[0]}" if info.type == tarfile.LNKTYPE else ""
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def unpacked(volume: Path, tar: io.BytesIO) -> extraction.Extracted:
    swap.prepare_tree(volume, STAMP)
    with swap.StagedTrees(volume, STAMP) as staging:
        return extraction.extract_archive(
            tar,
            "media",
            Path("new"),
            dir_fd=staging.folder,
            index=None,
            trusted=True,
            limit=1 << 30,
            progress=lambda count: None,
        )


CLASHES: dict[str, tuple[list[str], dict[str, bytes], tuple[str, str]]] = {
    "files": (["Report.pdf", "report.pdf"], {}, ("Report.pdf", "report.pdf")),
    "below": (["d/", "d/É.pdf", "d/é.pdf"], {}, ("d/É.pdf", "d/é.pdf")),
    "directories": (["Docs/", "Docs/a", "docs/", "docs/b"], {}, ("Docs", "docs")),
    "a file and a directory": (["A", "a/", "a/b"], {}, ("A", "a")),
    "a second name": (["A", "a"], {"a": tarfile.LNKTYPE}, ("A", "a")),
}


@pytest.mark.parametrize("kind", CLASHES)
def test_an_archive_with_both_is_refused_with_both_names(volume: Path, kind: str) -> None:
    names, kinds, both = CLASHES[kind]
    with pytest.raises(RestoreFailed, match="are one name on this file system") as caught:
        unpacked(volume, archive(*names, kinds=kinds))
    assert all(repr(name) in caught.value.message for name in both), caught.value.message
    assert "as they were" in caught.value.message and caught.value.hint
    swap.discard_tree(volume, STAMP)
    assert os.listdir(volume) == ["live.pdf"]


def test_all_else_is_unpacked_and_exchanged(volume: Path) -> None:
    done = unpacked(volume, archive("LIVE.pdf", "second", "d/", "d/LIVE.pdf", kinds={"second": tarfile.LNKTYPE}))
    assert any(note.startswith(extraction.COPIES) for note in done.notes)
    with swap.StagedTrees(volume, STAMP) as staging:
        staging.note_extracted()
    swap.exchange_tree(volume, STAMP)
    assert sorted(os.listdir(volume))[1:] == ["LIVE.pdf", "d", "second"]
    swap.exchange_back(volume, STAMP)
    assert sorted(os.listdir(volume))[1:] == ["live.pdf"]


def test_a_name_twice_is_still_the_archives_fault(volume: Path) -> None:
    with pytest.raises(IntegrityError, match="is in it twice"):
        unpacked(volume, archive("a", "a"))


def put(root: Path, *paths: bytes) -> str:
    def extract(folder: int, chosen: Chosen) -> None:
        for number, unit in enumerate(chosen.units):
            new = Path(f"/proc/self/fd/{folder}/new/{number}")
            if unit.place == unit.wanted[0]:
                new.write_bytes(unit.place)
            else:
                new.mkdir()
                (new / "x").write_bytes(unit.place)

    return single_files.put_paths(root, "s", paths, b"media", extract, whole=False)


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("paths", "both"),
    [
        ((b"LIVE.pdf",), ("live.pdf", "LIVE.pdf")),
        ((b"Folder/LIVE.pdf",), ("folder", "Folder")),
        ((b"other", b"Report.pdf", b"report.pdf"), ("Report.pdf", "report.pdf")),
        ((b"Docs/a", b"docs/b"), ("Docs", "docs")),
    ],
)
def test_no_path_takes_the_place_of_another(volume: Path, paths: tuple[bytes, ...], both: tuple[str, str]) -> None:
    (volume / "folder").mkdir()
    (volume / "folder/live.pdf").write_text("live")
    before = files(volume)
    with pytest.raises(RestoreFailed, match="are one name") as caught:
        put(volume, *paths)
    assert all(repr(name) in caught.value.message for name in both), caught.value.message
    assert files(volume) == before and single_files.tidy(volume) == []


def test_a_path_of_the_same_name_is_put_back(volume: Path) -> None:
    assert put(volume, b"live.pdf", b"gone") == ".obcms-restore-file-s"
    found = files(volume)
    assert (found.pop("live.pdf"), found.pop("gone")) == ("live.pdf", "gone")
    assert found.pop(".obcms-restore-file-s/before/1") == "live" and list(found) == [
        ".obcms-restore-file-s/places.json"
    ]
    single_files.require_own_name(volume, b"live.pdf")
    single_files.require_own_name(volume, b"not/there")
    with pytest.raises(RestoreFailed, match=r"'live.pdf' and 'LIVE.pdf' are one name"):
        single_files.require_own_name(volume, b"LIVE.pdf")


def test_whether_a_file_system_folds_is_seen_from_what_is_there(volume: Path, tmp_path: Path) -> None:
    assert folds_case(volume)
    (volume / "live.pdf").rename(volume / "1234")
    assert not folds_case(volume)
    (tmp_path / "plain").mkdir()
    for name in ("Both", "bOTH", "only"):
        (tmp_path / "plain" / name).touch()
    assert not folds_case(tmp_path / "plain")
    (volume / "A").touch()
    for root, spelt in ((volume, b"A"), (tmp_path / "plain", None)):
        fd = os.open(root, os.O_RDONLY)
        assert (other_spelling(b"a", fd), other_spelling(b"A", fd), other_spelling(b"b", fd)) == (spelt, None, None)
        os.close(fd)


def test_pairs_are_found_in_one_pass() -> None:
    paths = [b"a", b"d/x", b"d/e/y", b"d/E/z", b"d/X", b"D", b"e/d/x", b"e/f/d", "é".encode(), "É".encode()]
    assert list(alike(paths)) == [(b"d/e", b"d/E"), (b"d/x", b"d/X"), (b"d", b"D")]
    assert list(alike([b"a/b", b"b/a", b"a/B"])) == [], "what comes back to a directory is found when it is unpacked"


def test_where_nothing_is_ours_alone_nothing_is_begun(tmp_path: Path) -> None:
    """What is mounted for all to enter: there, what a restore keeps could be anybody's, and was never tidied away."""
    with mounted(tmp_path / "volume", 0o755) as root:
        (root / "live.pdf").write_text("live")
        for restored in (lambda: swap.prepare_tree(root, STAMP), lambda: put(root, b"live.pdf")):
            with pytest.raises(RestoreFailed, match="has the owner 0 and the mode 0755.*as they were") as caught:
                restored()
            assert "mount this one" in caught.value.hint
            assert os.listdir(root) == ["live.pdf"] and (root / "live.pdf").read_text() == "live"
