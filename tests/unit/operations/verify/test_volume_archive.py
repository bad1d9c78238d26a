"""What a verification passes a restore takes, and the other way round: of a corpus, and of whatever can be made up."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from backup.errors import IntegrityError, RestoreFailed
from backup.media import extraction
from backup.media.extraction import extract_archive
from backup.media.tar_reader import TarReader
from backup.media.tar_writer import index_line, padding, parse_index
from backup.operations.verify import volume_archive
from tests.support.examples import examples
from tests.unit.media.test_extraction import (
    CRAFTED,
    DIR,
    END,
    FILE,
    HARD,
    LINK,
    TOP,
    _sparse,
    archived,
    member,
    pax,
    record,
    renumbered,
)

SPECIAL = [
    pytest.param(trusted, indexed, id=f"{'ours' if trusted else 'foreign'}{', indexed' * indexed}")
    for trusted, indexed in ((True, True), (True, False), (False, False))
]


def pieces(tar: bytes) -> list[bytes]:
    """An archive cut where no header, record or content ends; some pieces hold nothing."""
    return [piece for at in range(0, len(tar), 701) for piece in (b"", tar[at : at + 701])]


def verified(tar: bytes, index: Sequence[bytes] | None, *, trusted: bool) -> str | Counter[str]:
    """Why a verification does not pass it; what it counts if it does."""
    try:
        if index is None:
            walked = volume_archive.walk(pieces(tar), b"media", trusted=trusted)
        else:
            walked = volume_archive.compare(pieces(tar), index, lambda: index, b"media", trusted=trusted)
    except IntegrityError as error:
        return error.message
    return "; ".join(walked.problems) or walked.counts


def restored(
    tar: bytes, target: Path, index: Sequence[bytes] | None, *, trusted: bool, keep: bool = False
) -> str | Counter[str]:
    """Why a restore does not take it; if it does, what is there after it, counted as a verification counts."""
    target.mkdir()
    entries = None if index is None else parse_index(index)
    try:
        done = extract_archive(
            io.BytesIO(tar), "media", target, index=entries, trusted=trusted, limit=1 << 60, progress=lambda count: None
        )
        return on_disk(target) + Counter(bytes=done.bytes, others=left_out(done.notes))
    except (IntegrityError, RestoreFailed) as error:
        return error.message
    finally:
        keep or shutil.rmtree(target)


def on_disk(target: Path) -> Counter[str]:
    counts, seen = Counter(directories=1), set[int]()
    for path in target.rglob("*"):
        found = path.lstat()
        kind = {stat.S_IFDIR: "directories", stat.S_IFLNK: "links", stat.S_IFREG: "files"}[stat.S_IFMT(found.st_mode)]
        counts["hard_links" if found.st_ino in seen else kind] += 1
        seen.add(found.st_ino)
    return counts


def left_out(notes: Sequence[str]) -> int:
    """How many members a restore says that it left out."""
    (said,) = [note for note in notes if note.startswith(extraction.SPECIAL)] or [""]
    more = re.search(r" and (\d+) more\)$", said)
    return bool(said) + int(more[1] if more else 0)


def indexed(tar: bytes) -> list[bytes]:
    """The index that fits an archive, as far as it can be read."""
    lines: list[bytes] = []
    sums: dict[bytes, tuple[str, int]] = {}
    reader = TarReader([tar])
    try:
        for found in reader.members():
            if found.kind == FILE and found.size < 1 << 20:
                content = b"".join(reader.unpacked(found))
                sums[found.path] = hashlib.sha256(content).hexdigest(), len(content)
            if found.kind in (FILE, HARD):
                lines.append(
                    index_line(*sums.get(found.target if found.kind == HARD else found.path, ("0" * 64, 1)), found.path)
                )
                sums[found.path] = sums.get(found.target if found.kind == HARD else found.path, ("0" * 64, 1))
    except IntegrityError:
        pass
    return lines


def agree(tar: bytes, target: Path, index: Sequence[bytes] | None, *, trusted: bool) -> str:
    """Why neither takes it; empty if both do, and what the one counts the other has put there."""
    why, other = verified(tar, index, trusted=trusted), restored(tar, target, index, trusted=trusted)
    if isinstance(why, str) and isinstance(other, str):
        return why
    assert why == other, f"verify: {why!r}, restore: {other!r}"
    return ""


def signed(block: bytes) -> bytes:
    """The first header with the sum of its bytes taken for signed ones, as old writers did."""
    total = sum(each - 256 * (each > 127) for each in block[:148] + block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


GOOD = {
    "a FIFO": member("media/f", tarfile.FIFOTYPE),
    "a device": member("media/d", tarfile.BLKTYPE),
    "a directory without a kind": member("media/d/", tarfile.AREGTYPE) + member("media/d/x", content=b"x"),
    "a contiguous file": member("media/c", tarfile.CONTTYPE, b"content"),
    "an old file": member("media/c", tarfile.AREGTYPE, b"content"),
    "a global header": pax(record("comment", "x"), tarfile.XGLTYPE) + member("media/x"),
    "a header of Solaris": pax(record("path", "media/y"), tarfile.SOLARIS_XHDTYPE) + member("media/x"),
    "a signed sum": signed(member("media/\udcff\udcfe", content=b"x")),
    "a long name": member("media/" + "n" * 200, content=b"x"),
    "a name that is too long": pax(record("path", "media/" + "n" * 300)) + member("media/x", content=b"x"),
    "a second name": member("media/a", content=b"x") + member("media/b", HARD, link="media/a"),
    "a second name of a link": member("media/l", LINK, link="x") + member("media/b", HARD, link="media/l"),
    "a second name before the file": member("media/b", HARD, link="media/a") + member("media/a", content=b"x"),
    "a sparse file": _sparse(b"1\n512\n512\n", "4096", bytes(512)),
    "nothing else": b"",
    "a directory again later": member("media/d/", DIR) + member("media/x") + member("media/d/y"),
    "second names of a FIFO": member("media/f", tarfile.FIFOTYPE)
    + member("media/g", HARD, link="media/f")
    + member("media/h", HARD, link="media/g"),
    "a second name of a device": member("media/f", tarfile.BLKTYPE) + member("media/g", HARD, link="media/f"),
    "a label": member("label", b"V") + member("media/x", content=b"x"),
    "a directory with a list": member("media/d/", b"D", b"Yx\0\0") + member("media/d/x", content=b"x"),
}
# How large a file can be is the file system's to say, while it is restored.
CORPUS = GOOD | {name: body for name, (body, _) in CRAFTED.items() if name != "sparse too large"}


@pytest.mark.parametrize(("trusted", "with_index"), SPECIAL)
def test_the_corpus_is_judged_alike(tmp_path: Path, trusted: bool, with_index: bool) -> None:
    taken = set()
    for name, body in CORPUS.items():
        tar = TOP + body + END
        why = agree(tar, tmp_path / "target", indexed(tar) if with_index else None, trusted=trusted)
        taken |= set() if why else {name}
    ours = {name for name in GOOD if "FIFO" in name or "device" in name} if trusted else set()
    links = {"a second name of a link"} if with_index else set()
    before = {"a second name before the file"}
    assert taken >= GOOD.keys() - ours - links - before and not taken & (ours | links | before)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_index_that_says_otherwise_is_judged_alike(tmp_path: Path, at: int) -> None:
    tar = TOP + member("media/a", content=b"x") + member("media/b", HARD, link="media/a") + member("media/c") + END
    index = indexed(tar)
    assert agree(tar, tmp_path / "target", index, trusted=True) == ""
    index[at] = index_line("f" * 64, int(index[at].split()[1]), index[at].rstrip().rpartition(b" ")[2])
    assert agree(tar, tmp_path / "target", index, trusted=True)


def gnu(*rounds: tuple[str, ...]) -> Callable[[Path, Path], None]:
    """GNU tar, once for each of these words."""

    def run(at: Path, to: Path) -> None:
        for words in rounds:
            subprocess.run(["tar", "-C", at, "-f", to, *words], cwd=at, check=True)

    return run


TARS: dict[str, Callable[[Path, Path], object]] = {
    "GNU": gnu(("-c", "media")),
    "GNU, posix": gnu(("-c", "--format=posix", "--sparse", "--xattrs", "media")),
    "GNU, old sparse": gnu(("-c", "--sparse", "media")),
    "GNU, one after the other": gnu(("-c", "--no-recursion", "media"), ("-r", "media/d", "media/a")),
    "GNU, twice": gnu(("-c", "media"), ("-r", "media/a")),
    "GNU, no directories": gnu(("-c", "media/a")),
    "GNU, with a label": gnu(("-c", "--label=media", "media")),
    "GNU, posix with a label": gnu(("-c", "--format=posix", "--label=media", "media")),
    "GNU, listed": gnu(("-c", "--listed-incremental=snapshot", "media")),
    "GNU, posix listed": gnu(("-c", "--format=posix", "--listed-incremental=snapshot", "media")),
    "GNU, what is new since": gnu(*[("-c", "--listed-incremental=snapshot", "media")] * 2),
    "GNU, posix, what is new since": gnu(*[("-c", "--format=posix", "--listed-incremental=snapshot", "media")] * 2),
    "GNU, from here": gnu(("-c", "./media")),
    "GNU, from within": gnu(("-c", "-C", "media", ".")),
    "GNU, from within, with a label": gnu(("-c", "--label=.", "-C", "media", ".")),
    "Python": lambda at, to: python(at, to, tarfile.PAX_FORMAT),
    "Python, gnu": lambda at, to: python(at, to, tarfile.GNU_FORMAT),
    "ours": lambda at, to: to.write_bytes(archived(at / "media")[0].getvalue()),
}


def python(at: Path, to: Path, form: int) -> None:
    with tarfile.open(
        to, "w", format=form, pax_headers={"comment": "x"} if form == tarfile.PAX_FORMAT else None
    ) as tar:
        tar.add(at / "media", "media")


@pytest.mark.parametrize("special", [False, True], ids=["plain", "with a FIFO"])
@pytest.mark.parametrize("by", TARS)
@pytest.mark.long
def test_what_tools_write_is_judged_alike(tmp_path: Path, by: str, special: bool) -> None:
    media = tmp_path / "media"
    (media / "d").mkdir(parents=True)
    (media / "a").write_bytes(b"content")
    (media / "d" / ("n" * 150)).hardlink_to(media / "a")
    (media / "d/l").symlink_to("../a")
    os.chown(media / "a", 3_000_000, 5)
    with open(media / "holes", "wb") as file:
        for at in range(0, 6 << 20, 1 << 20):
            os.pwrite(file.fileno(), b"x", at)
    if special:
        os.mkfifo(media / "d/fifo")
    TARS[by](tmp_path, tmp_path / "tar")
    tar = (tmp_path / "tar").read_bytes()
    good = by not in ("GNU, twice", "GNU, no directories") and "new since" not in by
    why = agree(tar, tmp_path / "target", None, trusted=False)
    assert good == (why == ""), why
    assert "new since" not in by or "it continues an earlier one" in why
    if good:
        kept = tmp_path / "kept"
        restored(tar, kept, None, trusted=False, keep=True)
        theirs = {path.relative_to(media): path for path in media.rglob("*") if not path.is_fifo()}
        if by == "GNU, one after the other":
            del theirs[Path("holes")]
        assert theirs.keys() == {path.relative_to(kept) for path in kept.rglob("*")}
        for name, path in theirs.items():
            assert path.is_dir() or path.read_bytes() == (kept / name).read_bytes()
    for cut in range(0, len(tar.rstrip(b"\0")), len(tar) // 12):
        assert agree(tar[:cut], tmp_path / "target", None, trusted=False)


@pytest.mark.parametrize("label", [(), ("--label=media",)], ids=["plain", "with a label"])
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_no_file_of_a_set_of_volumes_is_taken_and_those_after_the_first_say_what_they_are(
    tmp_path: Path, form: str, label: tuple[str, ...]
) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media/big").write_bytes(os.urandom(300_000))
    next_one = 'sh -c "echo $PWD/$TAR_VOLUME.tar >&$TAR_FD"'
    words = ["tar", "-c", f"--format={form}", "-M", "-L", "100", f"--new-volume-script={next_one}", *label]
    subprocess.run([*words, "-f", "1.tar", "media"], cwd=tmp_path, check=True)
    parts = sorted(tmp_path.glob("*.tar"))
    assert len(parts) >= 3
    for part in parts:
        why = agree(part.read_bytes(), tmp_path / "target", None, trusted=False)
        assert ("is truncated" if part == parts[0] else "one part of a multi-volume set") in why


# Mostly what goes together: a fault alone is what one reader may miss.
_NAMES = st.sampled_from(
    ["a", "b", "c", "e", "f", "g", "d/a", "d/b", "d/c", "d/e"] * 6
    + ["media", "d", "d/d", "d/d/a", "./a", "..", "d//a", "n" * 120, "ü", "d/"]
)
_MEMBERS = st.builds(
    lambda kind, name, target, content: member(
        "media" if name == "media" else f"media/{name}{'/' * (kind in (DIR, b'D'))}",
        kind,
        content if kind in (FILE, tarfile.CONTTYPE, b"D", b"V") else b"",
        (target if kind == LINK else f"media/{target}") if kind in (LINK, HARD) else "",
    ),
    st.sampled_from(
        [FILE] * 9
        + [HARD] * 3
        + [DIR, LINK, tarfile.CHRTYPE, tarfile.CONTTYPE, *(b"D", b"V", b"M", b"Z")]
        + [tarfile.FIFOTYPE] * 3
    ),
    _NAMES,
    _NAMES,
    st.binary(max_size=600),
)
_HEADERS = st.sampled_from(
    [
        pax(record("comment", "x")),
        pax(record("comment", "x"), tarfile.XGLTYPE),
        pax(record("mtime", "1"), tarfile.XGLTYPE),
        pax(record("path", "media/d/long"), tarfile.SOLARIS_XHDTYPE),
        pax(record("uid", "3000000") + record("mtime", "-1.5") + record("SCHILY.xattr.user.a", "b")),
        pax(record("GNU.sparse.major", "7")),
        b"",
    ]
)


def _another_sum(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], *(b"f" * 64 + line[64:] for line in lines[-1:])]


_CHANGES = st.sampled_from(
    [None] * 6 + [lambda lines: lines[1:], lambda lines: lines[:-1], lambda lines: lines[::-1], _another_sum]
)
_FLIPS = st.one_of(st.none(), st.none(), st.none(), st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)))
_FULL = TOP + member("media/d/", DIR)
_FIRST = [
    *[_FULL] * 9,
    *(member("label", b"V") + _FULL, member("media/", b"D", b"Da\0\0") + member("media/d/", DIR), TOP, b""),
    *(member("media", kind, link="a") for kind in (FILE, LINK, HARD, tarfile.FIFOTYPE)),
]


@examples(200)
@given(
    parts=st.lists(_MEMBERS | _MEMBERS | st.tuples(_HEADERS, _MEMBERS).map(b"".join), max_size=5),
    first=st.sampled_from(_FIRST),
    flip=_FLIPS,
    end=st.sampled_from([END] * 6 + [END + bytes(512), bytes(512), END + b"x", b""]),
    trusted=st.booleans(),
    with_index=st.booleans(),
    change=_CHANGES,
)
@pytest.mark.long
def test_whatever_is_made_up_is_judged_alike(
    parts: list[bytes],
    first: bytes,
    flip: tuple[int, int] | None,
    end: bytes,
    trusted: bool,
    with_index: bool,
    change: Callable[[list[bytes]], list[bytes]] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tar = first + b"".join(parts) + end
    index = indexed(tar) if with_index else None
    index = change(index) if change and index else index
    if flip and tar:
        at = flip[0] % len(tar)
        tar = tar[:at] + bytes([tar[at] ^ flip[1]]) + tar[at + 1 :]
    work = tmp_path_factory.mktemp("alike")
    event("taken" if not agree(tar, work / "target", index, trusted=trusted) else "refused")
    work.rmdir()


def called(tar: bytes, top: bytes) -> bytes:
    """The same archive with its folder called otherwise."""
    made, at = b"", 0
    while tar[at : at + 512].strip(b"\0"):
        block = tar[at : at + 512]
        for field in (0, 157) if block[156:157] == HARD else (0,):
            name = block[field : field + 100].rstrip(b"\0")
            if name == b"media" or name.startswith(b"media/"):
                block = renumbered(block, field, (top + name[5:]).ljust(100, b"\0"))
        end = at + 512 + -(-int(block[124:135], 8) // 512) * 512
        made, at = made + block + tar[at + 512 : end], end
    return made + tar[at:]


@examples(60)
@given(parts=st.lists(_MEMBERS, max_size=5), first=st.sampled_from(_FIRST), top=st.sampled_from([b"./media", b"."]))
def test_however_its_folder_is_called_it_is_judged_and_restored_alike(
    parts: list[bytes], first: bytes, top: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tar = first + b"".join(parts) + END
    assume(b"@LongLink" not in tar)
    work = tmp_path_factory.mktemp("called")
    for judge in (verified, lambda *words, **more: restored(words[0], work / "target", words[1], **more)):
        plain, other = (judge(each, None, trusted=False) for each in (tar, called(tar, top)))
        assert type(plain) is type(other) and (isinstance(plain, str) or plain == other), (plain, other)
    event("refused" if isinstance(plain, str) else "taken")
    work.rmdir()


def test_the_padding_is_of_zeros() -> None:
    tar = TOP + member("media/x", content=b"x") + END
    assert not isinstance(verified(tar, None, trusted=True), str)
    assert "padding" in verified(tar.replace(b"x" + padding(1), b"x" + b"\1" * 511), None, trusted=True)
