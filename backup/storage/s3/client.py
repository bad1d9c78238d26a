"""A client of boto3 made from plain options, and one way to ask it.

What a request carries that a store may refuse and that can be done without is left out where it does. Without checksums
the MD5 in the ETag proves what arrived, or every byte is read back; without conditions an object is looked for before
and after; without a list of unfinished uploads the bucket's own lifecycle ends them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator
from itertools import combinations
from typing import Any, Final

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointProviderError
from botocore.loaders import create_loader
from botocore.session import Session
from urllib3.exceptions import HTTPError

from backup.errors import RemoteFailed
from backup.storage.s3.body import Blocks, RequestBody
from backup.storage.s3.options import CHECKSUMS, CONDITIONS, Options
from backup.storage.s3.translate_errors import code_of, message_of, remote_error, status_of, unusable

# Longer than this a connection is not waited for, nor, as urllib3 has it, for bytes to be taken; answers wait for
# `timeout`.
_CONNECT: Final = 30.0
# Of an HTTP request: whatever can go wrong while it is made, or while its answer is read.
# RecursionError: the library follows a redirect to another region that does not say which.
FAILURES: Final = (BotoCoreError, ClientError, HTTPError, OSError, RecursionError)
_PARAMETERS: Final = {
    "ChecksumMode": CHECKSUMS,
    "ChecksumAlgorithm": CHECKSUMS,
    "ChecksumSHA256": CHECKSUMS,
    "IfNoneMatch": CONDITIONS,
}
_UNKNOWN: Final = ("NotImplemented", "501", "405", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "400")
_HEADERS: Final = ("x-amz-checksum", "x-amz-sdk-checksum", "checksum-algorithm", "checksum-mode", "if-none-match")
# Of an answer to what was really asked: the store has understood the request.
_ANSWERED: Final = (404, 412)
# What the library knows of the service: 12 MB, once for all clients of a process.
_loader: Final = functools.cache(create_loader)
_making: Final = threading.Lock()


class _StillRefused(Exception):  # noqa: N818 - no error: there may be another way to ask
    """The request is refused without these niceties, too."""


class Client:
    """Ask one bucket. RemoteFailed, RemoteDenied or RemoteMissing when it fails, ConfigError when no client can be
    made of the settings; the library's error is its cause.
    """

    def __init__(self, options: Options, remember: Callable[[frozenset[str]], None] = lambda without: None) -> None:
        self.options = options
        self.without = options.without
        self._remember = remember
        self._learning = threading.Lock()
        self._made: Any = None

    def ask(self, operation: str, key: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to an operation such as `HeadObject`; `key` is relative to the prefix.

        What a store refuses for a nicety is asked again without it, and from then on.
        """
        parameters = _reduced(parameters, self.without)
        try:
            return self._ask(operation, key, parameters)
        except RemoteFailed as error:
            if is_refusal(error.__cause__):
                for without in _lighter(parameters):
                    with contextlib.suppress(_StillRefused):
                        return self._asked_without(operation, key, parameters, without)
            raise

    def learn(self, without: Collection[str]) -> None:
        """The store refuses these niceties: they are done without from now on."""
        with self._learning:
            if not self.without.issuperset(without):
                self.without |= frozenset(without)
                self._remember(self.without)

    def forget(self) -> None:
        """Ask the store anew for all that it is known to refuse."""
        with self._learning:
            self.without = frozenset()
            self._remember(self.without)

    def _asked_without(
        self, operation: str, key: str | None, parameters: dict[str, Any], without: Collection[str]
    ) -> dict[str, Any]:
        if isinstance(body := parameters.get("Body"), RequestBody):
            body.seek(0)
        try:
            answer = self._ask(operation, key, _reduced(parameters, without))
        except RemoteFailed as error:
            if is_refusal(error.__cause__):
                raise _StillRefused from error
            if status_of(error.__cause__) in _ANSWERED:
                self.learn(without)
            raise
        self.learn(without)
        return answer

    def _ask(self, operation: str, key: str | None, parameters: dict[str, Any]) -> dict[str, Any]:
        parameters = dict(parameters)
        options = self.options
        if key is not None:
            parameters["Key"] = options.folder + key
        if options.owner and operation != "CreateBucket":
            parameters["ExpectedBucketOwner"] = options.owner
        call = getattr(self._client(), xform_name(operation))
        try:
            answer: dict[str, Any] = call(Bucket=options.bucket, **parameters)
        except EndpointProviderError as error:
            raise unusable(error, options.name) from error
        except FAILURES as error:
            raise remote_error(error, options.name, f"s3:{operation}", key or "") from error
        return answer

    def _client(self) -> Any:
        # Made late: looking for a role's credentials already asks the network.
        if self._made is None:
            try:
                with _making:
                    self._made = self._made or _connected(self.options)
            except Exception as error:
                # The library has no one class for what it refuses: ValueError for a host, others for a profile.
                raise unusable(error, self.options.name) from error
        return self._made


def _connected(options: Options) -> Any:
    explicit: Any = {
        "aws_access_key_id": options.access_key,
        "aws_secret_access_key": options.secret_key,
        "aws_session_token": options.session_token,
    }
    core = Session()
    core.register_component("data_loader", _loader())
    session = boto3.session.Session(region_name=options.region or None, botocore_session=core)
    make: Any = session.client  # its thousand overloads tell nothing of plain values
    client: Any = make(
        "s3",
        endpoint_url=options.endpoint or None,
        # A store that is not Amazon's takes any region, but a signature needs one.
        region_name=options.region or session.region_name or ("us-east-1" if options.endpoint else None),
        config=_config(options),
        **explicit if options.access_key else {},
    )
    # After signing, which reads the body as a file: then it is sent in blocks, each with a timeout of its own.
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-send.s3.{operation}", _in_blocks)
        client.meta.events.register(f"before-sign.s3.{operation}", _body_unsigned)
    return client


def _config(options: Options) -> Config:
    """Checksums only as headers that we give: trailers (`when_supported`) are refused by many stores."""
    return Config(
        connect_timeout=min(_CONNECT, options.timeout),
        read_timeout=options.timeout,
        retries={"total_max_attempts": options.attempts, "mode": "standard"},
        max_pool_connections=options.parallel + 2,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3={"addressing_style": options.addressing},
    )


def _body_unsigned(request: Any, **_: object) -> None:
    """Over http it is one more SHA-256 of every byte, at both ends; what the store holds is compared anyway."""
    kept = request.context["client_config"]
    options: Any = {**kept.s3, "payload_signing_enabled": False}
    request.context["client_config"] = kept.merge(Config(s3=options))


def _in_blocks(request: Any, **_: object) -> None:
    if isinstance(request.body, RequestBody):
        request.body.flow.check()
        request.body = Blocks(request.body)


def _reduced(parameters: dict[str, Any], without: Collection[str]) -> dict[str, Any]:
    """The parameters of a request without those niceties."""
    kept = {name: value for name, value in parameters.items() if _PARAMETERS.get(name) not in without}
    if CHECKSUMS in without and "MultipartUpload" in kept:
        parts = [{n: v for n, v in part.items() if n not in _PARAMETERS} for part in kept["MultipartUpload"]["Parts"]]
        kept["MultipartUpload"] = {"Parts": parts}
    return kept


def _lighter(parameters: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Which niceties to try a request without, the fewest first: at first none of them is left out.

    What a proxy on the way says once must not be remembered of the store.
    """
    used = sorted({_PARAMETERS[name] for name in parameters if name in _PARAMETERS})
    if CHECKSUMS not in used and _reduced(parameters, [CHECKSUMS]) != parameters:
        used.insert(0, CHECKSUMS)
    for count in range(len(used) + 1) if used else ():
        yield from combinations(used, count)


def is_refusal(error: BaseException | None) -> bool:
    """Whether the store may have refused how it was asked, and not what. A HEAD has no body to say so: a bare 400."""
    said = f"{code_of(error)} {message_of(error)}".lower()
    named = status_of(error) == 400 and code_of(error) != "BadDigest" and any(name in said for name in _HEADERS)
    return status_of(error) == 501 or code_of(error) in _UNKNOWN or named
