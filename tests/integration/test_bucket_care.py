"""A bucket is set up without harm to what is there, and checked with the key that backups use."""

from __future__ import annotations

import pytest

from backup.errors import RemoteFailed
from backup.stores.s3 import care, open_bucket
from backup.stores.s3.care import ABORT_RULE, ARCHIVE_RULE, Wanted
from backup.stores.s3.policy import policy
from tests.support.s3 import Service

FOREIGN = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}


def test_setup_keeps_the_rules_of_others(moto: Service) -> None:
    name, client = moto.bucket(), moto.client()
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [FOREIGN]})
    bucket = open_bucket(moto.options(name, prefix="stack"))
    assert "would" in {step.state for step in care.setup(bucket, Wanted(), dry=True)}
    assert len(client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]) == 1
    for archive in (90, 30, 30):
        steps = list(care.setup(bucket, Wanted(archive_days=archive)))
        assert "failed" not in {step.state for step in steps}, steps
    rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
    assert set(rules) == {"theirs", ABORT_RULE, ARCHIVE_RULE}
    assert rules["theirs"]["Expiration"] == {"Days": 3}
    assert rules[ARCHIVE_RULE]["Transitions"][0]["Days"] == 30
    assert rules[ARCHIVE_RULE]["Filter"]["Prefix"] == "stack/"
    assert {step.state for step in steps} <= {"same", "note"}


def test_a_bucket_is_made_only_if_asked(ceph: Service) -> None:
    bucket = open_bucket(ceph.options("made-by-setup"))
    with pytest.raises(RemoteFailed, match="there is no bucket"):
        list(care.setup(bucket, Wanted()))
    assert [step.state for step in care.setup(bucket, Wanted(create=True), dry=True)] == ["would"]
    list(care.setup(bucket, Wanted(create=True, archive_days=0)))
    assert [step.state for step in care.check(bucket)] == ["done", "done", "done", "note"]


def test_the_policy_names_the_folder_and_denies_removal(moto: Service) -> None:
    text = str(policy(moto.options("copies", prefix="stack")))
    assert "arn:aws:s3:::copies/stack/*" in text and "NeverAway" in text
    assert "'Allow', 'Action': ['s3:DeleteObject'" in str(policy(moto.options("copies"), prune=True))
