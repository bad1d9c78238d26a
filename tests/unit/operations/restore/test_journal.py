"""The journal of a restore: always there, never silently none, and its words say what is live."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.docker.container import DataPlace
from backup.errors import NoSpace, RestoreUnfinished, StoreError
from backup.operations.restore.cluster_record import ClusterSwap, KeptCluster
from backup.operations.restore.journal import (
    DatabaseSwap,
    Journal,
    JournalFile,
    Kept,
    KeptDatabase,
    KeptFile,
    KeptVolume,
    RestoreStep,
    StoppedContainer,
    VolumeSwap,
    commands,
    direction,
    journal_reason,
    unfinished_refusal,
    words,
)
from backup.storage import atomic_file
from backup.storage.staged_file import STAGED_SUFFIX, staged_name

NOW = datetime(2025, 10, 20, 2, 0, tzinfo=UTC)
SWAP = DatabaseSwap(live="obcms", live_oid=5, new="obcms__restore_x", kept="obcms__before_x", marker="ours")


def journal(**changes: Any) -> Journal:
    fields: dict[str, Any] = {
        "id": "2025-10-20_02-00-00",
        "run": "r1",
        "set": "daily_2025-10-19_02-00-00",
        "started": NOW,
        "database": SWAP,
        "volumes": (VolumeSwap(name="media", stamp="20251020020000"),),
        "stopped": (StoppedContainer(id="1", name="web1", service="web"), StoppedContainer(id="2", name="web2")),
        "safety": "pre-restore_2025-10-20_02-00-00",
    }
    return Journal.model_validate({**fields, **changes})


any_text = st.text(max_size=60)
journals = st.builds(
    journal,
    set=any_text,
    step=st.sampled_from(RestoreStep),
    back=st.booleans(),
    kind=st.sampled_from(["restore", "undo"]),
    only=st.sampled_from(["", "database", "media"]),
    database=st.none() | st.just(SWAP),
    volumes=st.lists(st.builds(VolumeSwap, name=any_text, stamp=any_text), max_size=8),
    stopped=st.lists(st.builds(StoppedContainer, id=any_text, name=any_text), max_size=12),
    safety=any_text,
)


def test_each_step_is_on_the_disk_before_it_is_taken(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    assert file.read() is None
    now = file.begin(journal())
    for step in RestoreStep:
        now = file.advance(now, step, roles=(f"role of {step}",))
        assert JournalFile(tmp_path).read() == now
        assert now.step is step and now.roles == (f"role of {step}",) and now.database == SWAP
    file.finish()
    assert file.read() is None and list((tmp_path / "state").iterdir()) == []


def test_a_second_restore_is_refused_while_one_is_unfinished(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    first = file.advance(file.begin(journal()), RestoreStep.SWAPPING_MEDIA)
    with pytest.raises(RestoreUnfinished) as refused:
        file.begin(journal(id="another"))
    assert file.read() == first
    assert "--resume" in refused.value.hint and "--rollback" in refused.value.hint and "web1" in refused.value.message


def test_what_was_swapped_is_never_called_untouched_again(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    now = file.advance(file.begin(journal()), RestoreStep.SWAPPING_MEDIA)
    with pytest.raises(ValueError):
        file.advance(now, RestoreStep.READY)
    assert file.read() == now
    assert file.advance(now, RestoreStep.SWAPPING_DATABASE).step is RestoreStep.SWAPPING_DATABASE


def test_a_rollback_asked_for_is_remembered(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    file.turn_back(file.advance(file.begin(journal()), RestoreStep.SWAPPED))
    found = file.read()
    assert found is not None and direction(found) == "back"


def test_changes_are_checked(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    begun = file.begin(journal())
    with pytest.raises(ValueError):
        file.advance(begun, RestoreStep.EXTRACTING, unknown=1)
    assert file.read() == begun


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\x00" * 200, b'{"format": 2}', b"\xff\xfe", b'{"id": "\x1b[2J"}']
)
def test_a_damaged_journal_is_never_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "restore.json").write_bytes(content)
    with pytest.raises(RestoreUnfinished) as refused:
        JournalFile(tmp_path).read()
    assert str(tmp_path / "state" / "restore.json") in refused.value.message
    assert "__before_" in refused.value.hint and "\x1b" not in refused.value.message


@given(cut=st.integers(0, 2000))
def test_a_cut_journal_is_never_none(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    root = tmp_path_factory.mktemp("cut")
    file = JournalFile(root)
    whole = file.begin(journal())
    data = file.path.read_bytes()
    file.path.write_bytes(data[:cut])
    if data[:cut].rstrip() == data.rstrip():
        assert file.read() == whole
    else:
        with pytest.raises(RestoreUnfinished):
            file.read()


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_something_else_in_its_place_is_an_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "restore.json"
    _ = path.symlink_to("nowhere") if kind == "link" else path.mkdir()
    with pytest.raises(StoreError):
        JournalFile(tmp_path).read()


def test_a_field_of_a_later_release_is_not_dropped(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    file.begin(journal())
    file.path.write_bytes(file.path.read_bytes().replace(b'"id"', b'"later": 1, "id"', 1))
    with pytest.raises(RestoreUnfinished, match="later"):
        file.read()


def test_a_full_disk_does_not_stop_the_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JournalFile(tmp_path)
    begun = file.begin(journal())
    reserve = tmp_path / "state" / "restore.reserve"
    write = atomic_file.replace

    def full(*args: Any, **how: Any) -> None:
        if reserve.exists():
            raise NoSpace("full")
        write(*args, **how)

    monkeypatch.setattr(atomic_file, "replace", full)
    assert file.advance(begun, RestoreStep.SWAPPING_DATABASE) == file.read()


def test_what_a_killed_writer_staged_is_swept(tmp_path: Path) -> None:
    file = JournalFile(tmp_path)
    file.begin(journal())
    old = [f".{name}.0123abcd{STAGED_SUFFIX}" for name in ("restore.json", "other")]
    staged = [tmp_path / "state" / name for name in (*old, staged_name("restore.reserve"))]
    for path in staged:
        path.write_text("x")
        if path.name in old:
            os.utime(path, (0, 0))
    file.finish()
    assert [path.exists() for path in staged] == [False, True, False]


def kept(**changes: Any) -> Kept:
    database = KeptDatabase(live="o", current_oid=6, kept="o__before_x", kept_oid=5, size=70)
    volume = KeptVolume(name="media", stamp="x", bytes=7)
    return Kept(id="x", set="s", replaced=NOW, database=database, volumes=(volume,), **changes)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    file = KeptFile(tmp_path)
    assert file.read() is None
    file.write(kept(days=7))
    file.write(kept(days=8))
    assert file.read() == kept(days=8) and kept().size == 77
    file.remove()
    file.remove()
    assert file.read() is None


def test_a_damaged_record_of_what_is_kept_is_an_error(tmp_path: Path) -> None:
    file = KeptFile(tmp_path)
    file.write(kept())
    file.path.write_bytes(file.path.read_bytes()[:-10])
    with pytest.raises(StoreError, match=r"undo\.json"):
        file.read()


def test_what_is_kept_expires() -> None:
    assert not kept().expired(NOW + timedelta(days=9999))
    assert not kept(days=7).expired(NOW + timedelta(days=7))
    assert kept(days=7).expired(NOW + timedelta(days=7, seconds=1))


@given(journals)
def test_nothing_is_forward_before_the_swap_nor_called_untouched_after_it(one: Journal) -> None:
    swapped = list(RestoreStep).index(one.step) >= list(RestoreStep).index(RestoreStep.SWAPPING_DATABASE)
    assert direction(one) == ("forward" if swapped and not one.back else "back")
    assert ("untouched" in words(one, NOW)) == (not swapped)


@given(journals, st.sampled_from(["", "an unknown run"]) | st.text(min_size=1))
def test_words_name_the_state_and_both_commands_on_one_safe_line(one: Journal, who: str) -> None:
    severity, text, hint = journal_reason(one, who)
    said = words(one, NOW + timedelta(hours=1))
    for line in (text, hint, said):
        assert line.splitlines() == [line] and "\x1b" not in line and "\x00" not in line
    assert "`restore --resume`" in said and "`restore --rollback`" in said
    assert severity == ("warn" if who else "fail")
    assert ("--resume" in hint and "--rollback" in hint) == (not who)
    assert not who or ("stopped when" not in text and "when it stopped" not in text and "unfinished" not in text)
    refused = unfinished_refusal(one, NOW)
    assert refused.hint == commands(one) and refused.message and commands(one) not in refused.message


def test_the_words_of_each_step() -> None:
    texts = [words(journal(step=step), NOW + timedelta(minutes=5)) for step in RestoreStep]
    assert texts[0].startswith(
        "the restore of daily_2025-10-19_02-00-00 (started 2025-10-20 02:00:00 UTC, 5 min 00 s ago) stopped at"
        " `loading`: the live data are untouched; web1, web2 may be stopped."
    )
    assert "either the old or the restored database is live, whole, the old files of media are live" in texts[4]
    assert "web1, web2 are stopped" in texts[4]
    assert "the restored database is live, each of the volumes media has either its old or its restored" in texts[5]
    assert "the restored data are live; web1, web2 are stopped" in texts[6]
    assert "web1, web2 may be stopped" in texts[7]
    media = words(journal(step=RestoreStep.SWAPPING_MEDIA, database=None, only="media", stopped=()), NOW)
    assert "database" not in media and "media only" in media and "no container was stopped" in media


CLUSTER = ClusterSwap(
    place=DataPlace("id", "db-1", "sha256:1", "volume", "pgdata", "/data", "/data"),
    stamp="20251020020000",
    system_identifier="7",
    timeline=2,
)


def test_a_whole_cluster_is_noted_and_kept(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    noted = journal(cluster=CLUSTER, database=None, volumes=(), stopped=())
    file = JournalFile(tmp_path)
    file.begin(noted)
    assert file.read() == noted
    told = words(file.advance(noted, RestoreStep.SWAPPING_DATABASE), NOW)
    assert "its container may be stopped; no other container was stopped" in told and "`restore --resume`" in told
    kept = KeptCluster(bytes=9, **CLUSTER.model_dump(exclude={"onward"}))
    record = Kept(id="1", set="s", replaced=NOW, cluster=kept)
    KeptFile(tmp_path).write(record)
    assert KeptFile(tmp_path).read() == record and record.size == 9


def test_a_release_that_knows_no_clusters_reads_what_has_none(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    JournalFile(tmp_path).begin(journal())
    KeptFile(tmp_path).write(Kept(id="1", set="s", replaced=NOW))
    assert all("cluster" not in path.read_text() for path in (tmp_path / "state").glob("*.json"))


def test_what_is_noted_is_not_noted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what this has put on the disk itself, last: whatever stands in between, the next note is one."""
    written, replace = list[bytes](), atomic_file.replace

    def counted(*args: Any, **options: Any) -> None:
        written.append(args[2])
        replace(*args, **options)

    monkeypatch.setattr(atomic_file, "replace", counted)
    file = JournalFile(tmp_path)
    first = file.advance(file.begin(journal()), RestoreStep.STOPPING)
    written.clear()
    assert file.advance(first, RestoreStep.STOPPING) == first and written == []
    assert JournalFile(tmp_path).advance(first, RestoreStep.STOPPING) == first and len(written) == 1
    later = file.turn_back(first)
    assert file.advance(later, RestoreStep.STOPPING) == later and len(written) == 2
    assert file.advance(first, RestoreStep.STOPPING) == first == JournalFile(tmp_path).read() and len(written) == 3
    monkeypatch.setattr(atomic_file, "replace", failing)
    with pytest.raises(StoreError):
        file.advance(first, RestoreStep.READY)
    monkeypatch.setattr(atomic_file, "replace", counted)
    assert file.advance(first, RestoreStep.STOPPING) == first and len(written) == 4


def failing(*_args: Any, **_options: Any) -> None:
    raise StoreError("the directory could not be synced")
