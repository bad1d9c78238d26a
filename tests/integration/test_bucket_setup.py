"""A bucket is set up without harm to what is there, and checked with the key that backups use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from backup.errors import RemoteFailed
from backup.storage.s3 import bucket_setup, open_bucket
from backup.storage.s3.bucket_setup import ABORT_RULE, ARCHIVE_RULE, WAL_RULE, WantedBucket
from backup.storage.s3.options import iam_policy
from tests.support.lying_s3 import lying
from tests.support.s3 import RELEASES, Service

FOREIGN = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}


def test_setup_keeps_the_rules_of_others(moto: Service) -> None:
    name, client = moto.bucket(), moto.client()
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [FOREIGN]})
    bucket = open_bucket(moto.options(name, prefix="stack"))
    assert "would" in {step.state for step in bucket_setup.setup_bucket(bucket, WantedBucket(), dry=True)}
    assert len(client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]) == 1
    for archive in (90, 30, 30):
        steps = list(bucket_setup.setup_bucket(bucket, WantedBucket(archive_days=archive)))
        assert "failed" not in {step.state for step in steps}, steps
    rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
    assert set(rules) == {"theirs", ABORT_RULE, ARCHIVE_RULE}
    assert rules["theirs"]["Expiration"] == {"Days": 3}
    assert rules[ARCHIVE_RULE]["Transitions"][0]["Days"] == 30
    assert rules[ARCHIVE_RULE]["Filter"]["Prefix"] == "stack/"
    assert {step.state for step in steps} <= {"same", "note"}


def test_wal_goes_after_its_days_and_nothing_else_does(moto: Service) -> None:
    name, client = moto.bucket(), moto.client()
    bucket = open_bucket(moto.options(name, prefix="stack"))
    for days, there in ((30, True), (30, True), (0, False)):
        steps = list(bucket_setup.setup_bucket(bucket, WantedBucket(archive_days=0, wal_days=days)))
        assert "failed" not in {step.state for step in steps}, steps
        rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
        assert set(rules) == {ABORT_RULE, *([WAL_RULE] if there else [])}
        if there:
            assert rules[WAL_RULE]["Filter"]["Prefix"] == "stack/wal/"
            assert rules[WAL_RULE]["Expiration"] == {"Days": 30}


def test_a_bucket_is_made_only_if_asked(ceph: Service) -> None:
    bucket = open_bucket(ceph.options("made-by-setup"))
    with pytest.raises(RemoteFailed, match="there is no bucket"):
        list(bucket_setup.setup_bucket(bucket, WantedBucket()))
    assert [step.state for step in bucket_setup.setup_bucket(bucket, WantedBucket(create=True), dry=True)] == ["would"]
    list(bucket_setup.setup_bucket(bucket, WantedBucket(create=True, archive_days=0)))
    assert [step.state for step in bucket_setup.check_bucket(bucket)] == ["done"] * 6 + ["note"]


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_store_really_keeps_and_honours_is_shown(gateways: Callable[[int], Service], release: int) -> None:
    service = gateways(release)
    name = service.bucket()
    words = "\n".join(step.words for step in bucket_setup.check_bucket(open_bucket(service.options(name))))
    assert {
        18: "the store keeps no SHA-256; otherwise" in words
        and "ignores If-None-Match of an object sent in parts;" in words,
        20: "kept for an object sent whole and sent in parts" in words and "is not overwritten" in words,
    }[release], words
    assert "done without" not in words and not service.client().list_objects_v2(Bucket=name).get("Contents")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("split", [False, True])
def test_an_object_that_somebody_puts_meanwhile_is_not_overwritten(
    gateways: Callable[[int], Service], release: int, split: bool
) -> None:
    service = gateways(release)
    name = service.bucket()

    def chunks() -> Iterator[bytes]:
        yield b"ours"
        service.client().put_object(Bucket=name, Key="daily/x", Body=b"theirs")

    with pytest.raises(RemoteFailed, match="another writer has put an object there"):
        open_bucket(service.options(name)).put("daily/x", chunks(), split=split)
    assert service.client().get_object(Bucket=name, Key="daily/x")["Body"].read() == b"theirs"


def test_the_policy_names_the_folder_and_denies_removal(moto: Service) -> None:
    text = str(iam_policy(moto.options("copies", prefix="stack")))
    assert "arn:aws:s3:::copies/stack/*" in text and "NeverAway" in text
    assert "'Allow', 'Action': ['s3:DeleteObject'" in str(iam_policy(moto.options("copies"), prune=True))


@pytest.mark.parametrize(
    ("refuses", "answer"),
    [
        ({"checksums"}, "400 names it"),
        ({"conditions"}, "400 InvalidArgument"),
        ({"uploads"}, "501 NotImplemented"),
        ({"checksums", "conditions", "uploads"}, "400 names it"),
        ({"checksums", "conditions", "uploads"}, "501 NotImplemented"),
    ],
)
def test_a_store_that_refuses_niceties_is_used_without_them(refuses: set[str], answer: str) -> None:
    with lying() as store:
        store.refuses, store.answer, store.checksums = refuses, answer, "checksums" not in refuses
        told: list[frozenset[str]] = []
        options = Service(store.endpoint, "liar").options("copies", attempts=1)
        steps = list(bucket_setup.check_bucket(open_bucket(options, told.append)))
        assert told[0] == frozenset() and told[-1] == refuses and len(told) == len(refuses) + 1
        assert sum("done without" in step.words for step in steps) == len(refuses)
        assert "failed" not in {step.state for step in steps} and not store.objects
        store.refused.clear()
        known = open_bucket(replace(options, without=frozenset(refuses)), told.append)
        for split in (False, True):
            known.put(f"daily/{split}", [b"x"], split=split)
        assert known.sweep() == 0 and b"".join(known.get("daily/True")) == b"x"
        assert not store.refused and told[-1] == refuses  # neither asked nor said again


def test_what_is_not_implemented_is_not_tried_again_later() -> None:
    with lying() as store:
        store.lie = "error:NotImplemented,501"
        with pytest.raises(RemoteFailed, match="does not support the request") as failed:
            open_bucket(Service(store.endpoint, "liar").options("copies")).put("k", [b"x"])
        assert "again later" not in failed.value.hint and "offsite check" in failed.value.hint
