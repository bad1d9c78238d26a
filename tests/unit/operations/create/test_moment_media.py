"""What goes wrong with the media of a moment costs its database nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backup.model.backup_set import StoredSet
from backup.model.recovered import MediaThen, Missing, Recovered
from backup.operations import media_references
from backup.operations.create.context import CreateContext, Reached
from backup.operations.create.draft import SetDraft
from backup.operations.create.moment_media import take_media, with_media
from backup.postgres.dump_source import PostgresSource
from backup.progress import Silent
from tests.support.increments import Stack
from tests.support.set_factory import in_memory


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "stack")


def drafted(stack: Stack, stored: StoredSet) -> tuple[CreateContext, SetDraft]:
    """A set of a moment shortly before another one, as it is when its database was dumped."""
    context = stack.app().create_context(Silent())
    store = context.catalog.store(stored.tier)
    draft = SetDraft("manual_2026-01-01_00-00-00", "r", store, stored.time)
    part = in_memory(stored.tier, stored.time).manifest.database
    assert part
    media = MediaThen(set=stored.id, taken=stored.time)
    draft.database = part.model_copy(update={"recovered": Recovered(base="b", lsn="0/1", media=media)})
    return context, draft


@pytest.mark.parametrize("what", ["whole", "changed", "unreadable", "gone"])
def test_what_cannot_be_taken_over_is_left_out(stack: Stack, what: str) -> None:
    (stack.media / "a").write_bytes(b"a")
    stored = stack.night()
    context, draft = drafted(stack, stored)
    (tree,) = stored.directory.glob("*.tree.gz")
    if what == "changed":
        tree.write_bytes(tree.read_bytes()[:-1])
    elif what == "unreadable":
        tree.unlink()
        tree.mkdir()
    elif what == "gone":
        tree.unlink()
    with ExitStack() as opened:
        take_media(context, draft, opened)
        whole = ["index", "tree"] if what == "whole" else []
        assert [each.kind for each in draft.artifacts] == whole
        assert len(draft.staged) == len(draft.volumes) * 2 == len(draft.packs) * 2 == len(whole)


def test_a_set_before_that_is_damaged_hides_nothing_that_is_missing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stack.media / "a").write_bytes(b"a")
    before, then = stack.night(), stack.night()
    (index,) = before.directory.glob(f"*{before.id}.files.gz")
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 255
    index.write_bytes(data)

    def look_up(clients: object, paths: Iterable[bytes], columns: object, run: str) -> Missing:
        assert list(paths) == [b"a"]
        return Missing(columns=("doc.file",), referenced=2, missing=1, listed=("doc.file: b",))

    monkeypatch.setattr(media_references, "look_up", look_up)
    context, draft = drafted(stack, then)
    assert draft.database and draft.database.recovered
    source = object.__new__(PostgresSource)
    object.__setattr__(source, "clients", None)
    found = with_media(draft.database.recovered, Reached(source, None), context, draft)  # type: ignore[arg-type]
    assert found.media and found.media.set == then.id
    assert found.media.files and (found.media.files.missing, found.media.before) == (1, "")
