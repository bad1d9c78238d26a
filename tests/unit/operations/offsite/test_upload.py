"""What is sent, in which order, and what a failure leaves."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from backup.catalog.delete import remove_set
from backup.errors import IntegrityError, LockHeld, NotFound, RemoteDenied, RemoteFailed
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.operations.offsite import upload as uploading
from backup.operations.offsite import verify_copies
from backup.operations.runs import recover
from backup.storage import lock
from backup.storage.remote import RemoteObject
from tests.support.memory_remote import MemoryPlace
from tests.unit.operations.offsite.conftest import Stack


def test_a_set_is_sent_whole_and_its_manifest_last(stack: Stack) -> None:
    made = stack.make()
    report = stack.upload()
    assert report.sent == [made]
    assert stack.place.order[-1] == f"daily/obcms_set_{made}.json"
    assert sorted(name.partition("/")[2].partition("_")[0] for name in stack.place.order) == [
        *["RESTORE"],
        *["obcms"] * 4,
    ]
    copy = stack.context().book.read().copies[made]
    assert copy.state == "offsite" and set(copy.items) == set(stack.keys(made)) and copy.database
    for key in stack.keys(made):
        assert copy.items[key].sha256 == hashlib.sha256(stack.place.objects[key]).hexdigest()
    run = stack.records.all()[0]
    assert (run.operation, run.outcome, run.set) == ("upload", Outcome.SUCCESS, made) and "1 set sent" in run.message


def test_what_is_there_costs_one_listing(stack: Stack) -> None:
    for days in range(5):
        stack.make(days)
    stack.upload()
    stack.place.requests.clear()
    report = stack.upload()
    assert report.same == 5 and stack.place.requests == {"list": 1}


def test_a_lost_book_costs_questions_but_sends_nothing(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    stack.context().book.path.unlink()
    stack.place.requests.clear()
    report = stack.upload()
    assert report.sent == [] and report.same == 1 and "put" not in stack.place.requests
    assert stack.context().book.read().copies[made].held


def test_only_what_is_missing_or_differs_is_sent_again(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    before = list(stack.place.order)
    stack.place.lose(f"daily/obcms_media_{made}.tar.gz")
    stack.upload()
    assert stack.place.order[len(before) :] == [f"daily/obcms_media_{made}.tar.gz"]
    stack.place.lay(f"daily/obcms_backup_{made}.sql.gz", b"something else")
    stack.upload()
    assert stack.place.order[len(before) + 1 :] == [f"daily/obcms_backup_{made}.sql.gz"]


@pytest.mark.parametrize("kind", ["damaged", "unverified", "incomplete", "unreadable", "old script"])
def test_only_verified_good_sets_are_sent(stack: Stack, kind: str) -> None:
    made = stack.make(kind=kind)
    assert stack.upload().sent == [] and stack.place.objects == {}
    if kind in ("damaged", "unverified"):
        with pytest.raises(IntegrityError, match="not sent: only verified, good sets"):
            uploading.upload_sets(uploading.Request(only=made), stack.context())
        assert stack.place.objects == {}


def test_the_newest_goes_first_and_the_old_not_at_all(stack: Stack) -> None:
    made = [stack.make(days) for days in (3, 1, 40, 0)]
    report = stack.upload()
    assert report.sent == [made[3], made[1], made[0]]


def test_a_set_that_is_made_meanwhile_goes_before_the_older_ones(stack: Stack) -> None:
    older, newest = stack.make(2), stack.make(1)
    late: list[str] = []

    def fail(key: str) -> None:
        if not late:
            late.append(stack.make(0))

    stack.place.fail = fail
    assert stack.upload().sent == [newest, late[0], older]


@pytest.mark.parametrize("number", range(5))
def test_a_cut_at_any_object_leaves_no_manifest_and_goes_on_later(stack: Stack, number: int) -> None:
    made = stack.make()
    puts: list[str] = []

    def fail(key: str) -> None:
        puts.append(key)
        if len(puts) == number + 1:
            raise RemoteFailed("the connection was cut", "Try again.")

    stack.place.fail = fail
    local = {path: path.read_bytes() for path in (stack.root / "daily").iterdir()}
    with pytest.raises(RemoteFailed, match="the connection was cut; local sets are untouched"):
        stack.upload()
    assert f"daily/obcms_set_{made}.json" not in stack.place.objects
    assert local == {path: path.read_bytes() for path in (stack.root / "daily").iterdir()}
    assert not stack.context().book.read().copies
    run = stack.records.all()[0]
    assert run.outcome is Outcome.FAILED and run.exit_code == 32
    stack.place.fail = lambda key: None
    sent = len(stack.place.order)
    assert stack.upload().sent == [made] and len(stack.place.order) == 5
    assert stack.place.order[:sent] + stack.place.order[sent:] == list(dict.fromkeys(stack.place.order))


def test_a_place_that_returns_other_bytes_holds_no_set(stack: Stack) -> None:
    made = stack.make()
    stack.place.twist = lambda data: data[:-1]
    with pytest.raises(IntegrityError, match="which then returned other bytes"):
        stack.upload()
    assert f"daily/obcms_set_{made}.json" not in stack.place.objects


def test_a_place_that_fails_twice_fails_the_rest_too(stack: Stack) -> None:
    for days in range(6):
        stack.make(days)

    def fail(key: str) -> None:
        raise RemoteDenied("403")

    stack.place.fail = fail
    with pytest.raises(RemoteDenied, match="4 sets left for the next run; 2 sets not sent"):
        stack.upload()
    assert stack.place.requests["put"] == 2


def test_a_set_that_is_pruned_meanwhile_is_not_offsite(stack: Stack) -> None:
    made = stack.make()

    def fail(key: str) -> None:
        if key.endswith(".sha256"):
            stored = stack.catalog.find(made)
            assert stored.manifest
            remove_set(stack.catalog.store(Tier.DAILY), stored.manifest, lambda: False)

    stack.place.fail = fail
    with pytest.raises(NotFound, match="removed here meanwhile; what was sent has no manifest"):
        stack.upload()
    assert f"daily/obcms_set_{made}.json" not in stack.place.objects and not stack.context().book.read().copies


def test_a_file_that_changes_meanwhile_is_not_sent(stack: Stack) -> None:
    made = stack.make()
    path = stack.root / "daily" / f"obcms_media_{made}.tar.gz"
    path.write_text(made[::-1])
    with pytest.raises(IntegrityError, match="is not what was stored"):
        stack.upload()
    assert f"daily/obcms_media_{made}.tar.gz" not in stack.place.objects
    assert f"daily/obcms_set_{made}.json" not in stack.place.objects


def test_the_set_of_another_stack_is_not_overwritten(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    key = f"daily/obcms_set_{made}.json"
    theirs = json.loads(stack.place.objects[key]) | {"run": "of somebody else"}
    stack.place.lay(key, json.dumps(theirs).encode())
    with pytest.raises(RemoteFailed, match="another set called"):
        stack.upload()
    assert json.loads(stack.place.objects[key]) == theirs


def test_a_key_that_may_not_overwrite_is_enough(stack: Stack) -> None:
    stack.place.deny = frozenset({"overwrite", "delete"})
    first = stack.make(1)
    stack.upload()
    second = stack.make(0)
    assert stack.upload().sent == [second] and stack.upload().same == 2
    assert len(stack.keys(first)) == len(stack.keys(second)) == 5


def reversing(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Stands for encryption: other bytes each time."""
    reversing.count = getattr(reversing, "count", 0) + 1  # type: ignore[attr-defined]
    yield f"age {reversing.count} ".encode()  # type: ignore[attr-defined]
    for chunk in chunks:
        yield chunk[::-1]


def salted(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Other bytes each time, as age makes them."""
    yield secrets.token_bytes(16)
    yield from reversing(chunks)


def test_what_is_encrypted_on_its_way_is_described_as_it_lies_there(stack: Stack) -> None:
    made = stack.make()
    stack.upload(encrypt=reversing)
    manifest = json.loads(stack.place.objects[f"daily/obcms_set_{made}.json"])
    for artifact in manifest["artifacts"]:
        data = stack.place.objects[f"daily/{artifact['file']}"]
        assert artifact["file"].endswith(".gz.age") and artifact["encryption"] == "age"
        assert artifact["stored_size"] == len(data) and artifact["stored_sha256"] == hashlib.sha256(data).hexdigest()
    local = stack.catalog.find(made).manifest
    assert local and not any(artifact.encryption for artifact in local.artifacts)
    stack.place.requests.clear()
    assert stack.upload(encrypt=reversing).same == 1 and stack.place.requests == {"list": 1}
    verify_copies.verify_copies(verify_copies.Request(), stack.context())
    assert stack.place.requests["get"] == 1  # its checksum is known again by the place's own word for it
    stack.context().book.path.unlink()
    sent = len(stack.place.order)
    assert stack.upload(encrypt=reversing).same == 1 and len(stack.place.order) == sent
    # Other bytes under a known name, of which the place tells nothing: they are read, and sent again.
    stack.place.flip(f"daily/{manifest['artifacts'][0]['file']}")
    stack.context().book.path.unlink()
    assert stack.upload(encrypt=reversing).sent == [made]


def test_an_encrypted_upload_that_was_cut_goes_on_where_it_was(stack: Stack) -> None:
    made = stack.make()

    def fail(key: str) -> None:
        if key.endswith(".json"):
            raise RemoteFailed("cut")

    stack.place.fail = fail
    with pytest.raises(RemoteFailed):
        stack.upload(encrypt=reversing)
    before = list(stack.place.order)
    stack.place.fail = lambda key: None
    stack.upload(encrypt=reversing)
    assert stack.place.order == [*before, f"daily/obcms_set_{made}.json"]


def test_an_encrypted_object_that_was_never_confirmed_needs_not_be_overwritten(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, or we are killed: the next upload knows by its bytes that it is what was sent."""
    made, real = stack.make(), MemoryPlace.put
    stack.place.deny = frozenset({"overwrite", "delete"})

    def put(place: MemoryPlace, key: str, *options: Any, **named: Any) -> RemoteObject:
        real(place, key, *options, **named)
        raise RemoteFailed("the answer was lost")

    monkeypatch.setattr(MemoryPlace, "put", put)
    with pytest.raises(RemoteFailed, match="the answer was lost"):
        stack.upload(encrypt=salted)
    monkeypatch.setattr(MemoryPlace, "put", real)
    sent = list(stack.place.order)
    assert stack.upload(encrypt=salted).sent == [made] and stack.place.order[: len(sent)] == sent
    verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())


def test_an_upload_waits_for_nobody_and_nobody_for_it(stack: Stack) -> None:
    stack.make()
    entered = []

    def fail(key: str) -> None:
        with lock.hold(stack.root / "state" / "lock", "create daily", "x"):
            # Whoever holds the lock marks runs that died; this one has not.
            recover(stack.catalog, stack.records, stack.now)
            assert [run.outcome for run in stack.records.all()] == [Outcome.RUNNING]
            entered.append(key)
        with pytest.raises(LockHeld):
            stack.upload()

    stack.place.fail = fail
    stack.upload()
    assert len(entered) == 5
    assert [run.outcome for run in stack.records.all()] == [Outcome.SUCCESS]


def test_an_upload_that_died_is_recorded_as_crashed(stack: Stack) -> None:
    stack.records.begin_beside(Run(id="dead", operation="upload", started=stack.now - timedelta(hours=1)))
    recover(stack.catalog, stack.records, stack.now)
    assert stack.records.all()[0].outcome is Outcome.CRASHED


def test_an_object_replaced_by_one_of_the_same_size_is_noticed(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    key = f"daily/obcms_media_{made}.tar.gz"
    whole = stack.place.objects[key]
    stack.place.lay(key, whole[::-1])
    assert stack.upload().sent == [made] and stack.place.objects[key] == whole


def test_an_encrypted_object_replaced_before_the_manifest_is_sent_again(stack: Stack) -> None:
    made = stack.make()

    def fail(key: str) -> None:
        if key.endswith(".json"):
            raise RemoteFailed("cut")

    stack.place.fail = fail
    with pytest.raises(RemoteFailed):
        stack.upload(encrypt=reversing)
    key = f"daily/obcms_media_{made}.tar.gz.age"
    stack.place.lay(key, stack.place.objects[key][::-1])
    stack.place.fail = lambda key: None
    sent = len(stack.place.order)
    stack.upload(encrypt=reversing)
    assert stack.place.order[sent:][0] == key
    verify_copies.verify_copies(verify_copies.Request(read=True), stack.context())
