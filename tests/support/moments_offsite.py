"""A story whose WAL and base backups go to a bucket; and a machine that has nothing but the bucket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backup.storage.s3.options import iam_policy
from tests.support.moments import Story, short_folder
from tests.support.s3 import OWNER, WRITER, Service


@dataclass
class Bucket:
    """What is really there, by a client that is none of ours."""

    service: Service
    name: str
    key: tuple[str, str] = OWNER

    def keys(self, part: str = "", prefix: str = "wal/") -> list[str]:
        """The keys below a prefix that have this in them."""
        listed = self.service.client().list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return sorted(each["Key"] for each in listed if part in each["Key"])

    def get(self, key: str) -> bytes:
        """The bytes of an object."""
        return bytes(self.service.client(self.key).get_object(Bucket=self.name, Key=key)["Body"].read())

    def put(self, key: str, data: bytes) -> None:
        """An object is replaced behind everybody's back."""
        self.service.client().put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, key: str) -> None:
        """An object is deleted behind everybody's back."""
        self.service.client().delete_object(Bucket=self.name, Key=key)

    @contextlib.contextmanager
    def spoilt(self, *keys: str) -> Iterator[None]:
        """What the body does to these objects is put right."""
        before = {key: self.get(key) for key in keys}
        try:
            yield
        finally:
            for key, data in before.items():
                self.put(key, data)

    def writer(self, settings: dict[str, str]) -> dict[str, str]:
        """The same settings with the key that `offsite policy` asks for: it can neither delete nor do anything else."""
        who = {"Principal": {"AWS": "arn:aws:iam:::user/writer"}}
        options = self.service.options(self.name, access_key=WRITER[0], secret_key=WRITER[1])
        # Ceph does not know its condition for overwriting.
        rules = [each | who for each in iam_policy(options)["Statement"] if each["Sid"] != "NeverOver"]
        policy = {"Version": "2012-10-17", "Statement": rules}
        self.service.client().put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))
        # What it puts there, the owner of the bucket may not read.
        self.key = WRITER
        return settings | {"AWS_ACCESS_KEY_ID": WRITER[0], "AWS_SECRET_ACCESS_KEY": WRITER[1]}


@contextlib.contextmanager
def new_machine(story: Story) -> Iterator[Story]:
    """A backup volume in which nothing is; the server and the bucket are the same."""
    with short_folder() as folder:
        sidecar = replace(story.sidecar, root=folder / "backups", spool=folder / "spool")
        for each in (sidecar.root, sidecar.spool):
            each.mkdir(mode=0o700)
        own = {"BACKUP_DIR": str(sidecar.root), "BACKUP_SPOOL_DIR": str(sidecar.spool)}
        sidecar.environment = {**story.sidecar.environment, **own}
        yield replace(story, sidecar=sidecar)
        assert sidecar.spooled() == [] and not any(sidecar.root.glob("temp/*"))


def said(root: Path, place: str = "s3") -> dict[str, Any]:
    """What is said of what is sent on to a place."""
    path = root / "state" / f"wal-{place}.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else {}
