"""Copies of sets in a bucket. The only home of boto3 and botocore, which take most of a second to load.

Hence `open_bucket`: a command that sends nothing does not load them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from backup.storage.s3.options import Options

if TYPE_CHECKING:
    from backup.storage.s3.bucket import Bucket

__all__ = ["Options", "open_bucket"]


def open_bucket(options: Options, remember: Callable[[frozenset[str]], None] = lambda without: None) -> Bucket:
    """The bucket as a Remote. Nothing is contacted before it is asked for.

    `remember` is told all the niceties that the store refuses, whenever one more is found out.
    """
    bucket: Bucket = importlib.import_module("backup.storage.s3.bucket").Bucket(options, remember)
    return bucket
