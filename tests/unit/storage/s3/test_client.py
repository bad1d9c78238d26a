"""What no client can be made of, what requests carry, and what a store may refuse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import JSONFileLoader

from backup.errors import ConfigError, RemoteFailed
from backup.storage.rate_limit import Pace
from backup.storage.s3 import Options
from backup.storage.s3.body import Flow, RequestBody
from backup.storage.s3.client import Client


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_bodies_of_parts_alone_are_not_signed(scheme: str) -> None:
    options = Options(
        bucket="b", endpoint=f"{scheme}://127.0.0.1:9", region="us-east-1", addressing="path", access_key="a",
        secret_key="s", attempts=1,
    )  # fmt: skip
    client, signed = Client(options), []

    def seen(request: Any, **_: object) -> None:
        signed.append(request.headers["X-Amz-Content-SHA256"].decode())
        raise ConnectionRefusedError

    client._client().meta.events.register_first("before-send.s3", seen)
    part = RequestBody((memoryview(b"first "), memoryview(b"part")), Flow(Pace(0)))
    asked: list[tuple[str, dict[str, Any]]] = [
        ("UploadPart", {"UploadId": "u", "PartNumber": 1, "Body": part}),
        ("PutObject", {"Body": part}),
        ("CompleteMultipartUpload", {"UploadId": "u", "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "e"}]}}),
    ]
    for operation, parameters in asked:
        with pytest.raises(RemoteFailed):
            client.ask(operation, "k", **parameters)
    assert signed[:2] == ["UNSIGNED-PAYLOAD"] * 2 and len(signed[2]) == 64
    assert (len(part), part.read(), part.seek(6), part.read()) == (10, b"first part", 6, b"part")


@pytest.mark.parametrize(
    ("options", "environ", "remedy"),
    [
        ({"endpoint": "http://s3_store:9000"}, {}, "AWS_ENDPOINT_URL_S3"),
        ({"endpoint": "http://[::1:9"}, {}, "AWS_ENDPOINT_URL_S3"),
        ({"endpoint": "http://127.0.0.1:99999"}, {}, "AWS_ENDPOINT_URL_S3"),
        ({"region": "us east"}, {}, "AWS_REGION"),
        ({"access_key": None}, {"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
        ({}, {"AWS_CONFIG_FILE": "{broken}"}, "AWS_CONFIG_FILE"),
        ({}, {"AWS_DEFAULTS_MODE": "none of them"}, "AWS_"),
        ({}, {"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "none of them"}, "AWS_"),
    ],
)
def test_what_no_client_can_be_made_of_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any], environ: dict[str, str], remedy: str
) -> None:
    (tmp_path / "broken").write_text("[default\n")
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(broken=tmp_path / "broken"))
    usable: dict[str, Any] = {
        "bucket": "b", "endpoint": "http://127.0.0.1:9", "region": "us-east-1", "access_key": "a", "secret_key": "s",
        "attempts": 1,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="no client can be made for s3://b") as refused:
        Client(Options(**usable | options)).ask("HeadBucket")
    assert remedy in refused.value.hint and "network, proxy" not in refused.value.hint


@pytest.mark.parametrize("refusals", [1, 2])
def test_what_is_refused_once_is_not_remembered_of_the_store(refusals: int) -> None:
    """A proxy on the way may say so once, and the store never."""
    asked: list[dict[str, Any]] = []

    def call(**parameters: Any) -> dict[str, Any]:
        asked.append(parameters)
        if len(asked) <= refusals:
            raise ClientError({"Error": {"Code": "400"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "HeadObject")  # type: ignore[typeddict-item]
        return {}

    remembered: list[frozenset[str]] = []
    client = Client(Options(bucket="b"), remembered.append)
    client._made = SimpleNamespace(head_object=call, list_multipart_uploads=call)
    client.ask("HeadObject", "a", ChecksumMode="ENABLED")
    assert remembered == ([] if refusals == 1 else [frozenset({"checksums"})])
    assert [("ChecksumMode" in each) for each in asked] == ([True, True] if refusals == 1 else [True, True, False])


def test_what_the_library_knows_of_the_service_is_in_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 12 MB, and what sends to one bucket has two clients."""
    options = Options(bucket="b", region="us-east-1", access_key="a", secret_key="s")
    loaded, real = list[str](), JSONFileLoader.load_file
    Client(options)._client()

    def load(loader: JSONFileLoader, path: str) -> Any:
        loaded.append(path)
        return real(loader, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", load)
    Client(options)._client()
    assert loaded == []
