"""The media of a moment: snapshots between two sets, and what a set of a moment says of the files that rows name."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from backup.model.backup_set import StoredSet
from backup.model.recovered import MediaThen
from tests.support.database import start_server
from tests.support.faults import eventually
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Sidecar

SETTINGS = {"BACKUP_PITR": "on", "BACKUP_MEDIA": "incremental", "BACKUP_MEDIA_EVERY": "15m"}

# What sets of the moment after the last snapshot say, before and after one found nothing new.
LOOKS: list[MediaThen] = []


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """Uploads and their rows, with a snapshot now and then; one file goes in between."""
    LOOKS.clear()
    server = start_server(17, "momentmedia", in_memory=True)
    try:
        with short_folder() as folder:
            sidecar = Sidecar.make(folder, server, **SETTINGS, BACKUP_FILE_COLUMNS="doc.file")
            sidecar.tries = True
            told = Story(sidecar, server, "obcms_prod")
            server.execute(told.database, "CREATE TABLE doc (file varchar(100))")
            with receiving(told):
                happen(told)
                told.level()
                yield told
    finally:
        server.remove()


def happen(story: Story) -> None:
    (story.sidecar.media / "uploads").mkdir(exist_ok=True)
    upload(story, "a")
    for words in (("create", "daily"), ("base",)):
        result = story.sidecar.run(*words)
        assert result.code == 0, result.output
    eventually(lambda: story.sidecar.run("moments", "--json").json["spans"], 60, 0.5)
    upload(story, "b")
    snapshot(story)
    upload(story, "c")
    (story.sidecar.media / "uploads" / "a").unlink()
    snapshot(story)
    folder = (story.sidecar.media / "uploads").stat()
    upload(story, "d")
    story.level()
    LOOKS.append(created(story, "d")[1])
    # What is there is what the last one has, once more; also the time of the folder.
    hidden = (story.sidecar.media / "uploads" / "d").rename(story.sidecar.root.parent / "d")
    os.utime(story.sidecar.media / "uploads", ns=(folder.st_atime_ns, folder.st_mtime_ns))
    snapshot(story)
    assert len(snapshots(story)) == 2
    LOOKS.append(created(story, "d")[1])
    hidden.rename(story.sidecar.media / "uploads" / "d")


def upload(story: Story, name: str) -> None:
    """The file comes first, as in an application."""
    (story.sidecar.media / "uploads" / name).write_text(name * 1000)
    story.execute(f"INSERT INTO doc VALUES ('uploads/{name}')", name)


def snapshot(story: Story) -> None:
    result = story.sidecar.run("create", "snapshot")
    assert result.code == 0, result.output


def snapshots(story: Story) -> list[StoredSet]:
    """The oldest first."""
    return [stored for stored in reversed(story.sidecar.sets()) if stored.snapshot]


def created(story: Story, name: str, *options: str, **environment: str) -> tuple[StoredSet, MediaThen]:
    result = story.create(name, *options, **environment)
    assert result.code == 0, result.output
    stored = story.sidecar.catalog.find(result.json["set"])
    part = stored.manifest.database
    assert part and part.recovered and part.recovered.media
    assert stored.verified
    return stored, part.recovered.media


def test_a_moment_has_the_media_of_the_first_set_after_it(story: Story) -> None:
    first, second = snapshots(story)
    stored, media = created(story, "b")
    assert (media.set, media.taken) == (first.id, first.time)
    assert media.files and (media.files.referenced, media.files.missing) == (2, 0)
    assert stored.summary.volume_names == ("media",)
    assert {pack.file for pack in stored.manifest.packs} == {pack.file for pack in first.manifest.packs}
    # The file that went before the next snapshot is missing there, and the one before has it.
    stored, media = created(story, "c")
    assert media.set == second.id
    assert media.files and (media.files.referenced, media.files.missing) == (3, 1)
    assert media.files.listed == ("doc.file: uploads/a",)
    assert (media.before, media.held_before) == (first.id, 1)
    shown = story.sidecar.run("show", stored.id)
    assert "uploads/a" in shown.output, shown.output


def test_after_the_last_one_a_look_that_finds_nothing_new_counts(story: Story) -> None:
    before, after = LOOKS
    second = snapshots(story)[1]
    assert (before.set, after.set) == (second.id, second.id)
    assert before.taken == second.time < story.moments["d"] < after.taken
    assert before.files and set(before.files.listed) == {"doc.file: uploads/a", "doc.file: uploads/d"}


def test_a_restore_of_a_moment_names_them_and_leaves_the_media(story: Story) -> None:
    second = snapshots(story)[-1]
    at = story.moments["c"].isoformat(" ")
    told = story.sidecar.run("restore", "--at", at, "--dry-run")
    assert told.code == 0 and f"media: stay as they are; {second.id} has them" in told.output, told.output
    live = sorted(path.name for path in (story.sidecar.media / "uploads").iterdir())
    with story.undone():
        done = story.sidecar.run("restore", "--at", at, "--force", "--no-safety")
        assert done.code == 0, done.output
        assert "but 1 of 3 files that rows name are not in it: doc.file: uploads/a" in done.output, done.output
        assert f"warning: 1 of 3 files that its rows refer to are not in {second.id}" in done.output, done.output
        assert sorted(path.name for path in (story.sidecar.media / "uploads").iterdir()) == live
        assert story.server.value(story.database, "SELECT count(*) FROM doc") == 3
    # The set that was made has both halves, as they were together.
    made = next(run.set for run in story.sidecar.runs() if run.operation == "restore")
    with story.undone():
        done = story.sidecar.run("restore", made, "--force", "--no-safety")
        assert done.code == 0, done.output
        assert sorted(path.name for path in (story.sidecar.media / "uploads").iterdir()) == ["a.txt", "b", "c"]
        assert story.server.value(story.database, "SELECT count(*) FROM doc") == 3
    assert sorted(path.name for path in (story.sidecar.media / "uploads").iterdir()) == live


def test_no_set_of_the_schedule_needs_a_snapshot(story: Story) -> None:
    result = story.sidecar.run("create", "daily", "--json")
    assert result.code == 0, result.output
    stored = story.sidecar.catalog.find(result.json["set"])
    assert not any("snapshot" in pack.file for pack in stored.manifest.packs)
    checked = story.sidecar.run("verify", "all")
    assert checked.code == 0, checked.output
    assert story.sidecar.run("list", "snapshot").output.count("snapshot_") == 2


def test_off_is_as_before(story: Story) -> None:
    """Without snapshots a set of a moment holds the database alone, and `create snapshot` is what a person asks for."""
    stored, _ = created(story, "b", "--only", "database")
    assert stored.summary.volume_names == ()
    stored, media = created(story, "b", BACKUP_MEDIA_EVERY="")
    assert stored.summary.volume_names == () and not stored.manifest.packs and stored.manifest.format == 1
    assert media.set == snapshots(story)[0].id
    refused = story.sidecar.run("create", "snapshot", BACKUP_MEDIA="full", BACKUP_MEDIA_EVERY="")
    assert refused.code == 10 and "a snapshot needs BACKUP_MEDIA=incremental" in refused.output, refused.output
    assert story.sidecar.run("create", "snapshot", "--full").code == 2
