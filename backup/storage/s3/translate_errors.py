"""What boto3 says, in our words: which bucket, which action, what to do. Never a secret."""

from __future__ import annotations

from typing import Any, Final

from botocore import exceptions as boto

from backup.errors import BackupError, ConfigError, RemoteArchived, RemoteDenied, RemoteFailed, RemoteMissing
from backup.formatting import printable

_LONGEST: Final = 300
_CLOCK: Final = "Set this machine's clock (NTP): the store refuses requests that are 15 minutes early or late."
_KEY: Final = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or their files), and that they are of this store."
_TOKEN: Final = "Give a session token that has not expired, or a key without one; a role renews its own."  # noqa: S105
_REGION: Final = "Set AWS_REGION to the bucket's own region, and AWS_ENDPOINT_URL_S3 to that region's address."
_LATER: Final = "Try again later; the local sets are untouched, and what is missing is sent by the next upload."
_NETWORK: Final = (
    "Check AWS_ENDPOINT_URL_S3, the network, proxy and DNS of this container; the next upload sends the rest."
)
_WAY: Final = "The connection or a proxy changes bytes: use https, and check what is in between."

_DENIED: Final = {
    "InvalidAccessKeyId": ("the key is not known there", _KEY),
    "SignatureDoesNotMatch": ("the secret does not belong to the key", _KEY),
    "InvalidToken": ("the session token is not valid", _TOKEN),
    "ExpiredToken": ("the session token has expired", _TOKEN),
    "TokenRefreshRequired": ("the session token has expired", _TOKEN),
    "ExpiredTokenException": ("the session token has expired", _TOKEN),
    "RequestTimeTooSkewed": ("the clocks of this machine and the store differ", _CLOCK),
    "RequestExpired": ("the clocks of this machine and the store differ", _CLOCK),
}
_FAILED: Final = {
    "NoSuchBucket": ("there is no such bucket", "`offsite setup --create` makes it, or correct AWS_S3_BACKUP_BUCKET."),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "301": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
    "InvalidObjectState": (
        "the object is archived, and its bytes cannot be read before it is restored",
        "Ask the store to restore it (RestoreObject), wait some hours and try again.",
    ),
    "PreconditionFailed": ("another writer has put an object there meanwhile", "`offsite list` shows what is there."),
    "BadDigest": ("other bytes arrived than were sent", _WAY),
    "XAmzContentSHA256Mismatch": ("other bytes arrived than were sent", _WAY),
    "InvalidStorageClass": ("it has no such storage class", "Set the storage class to one that this store has."),
    "QuotaExceeded": ("the quota is used up", "Raise the quota, or remove copies: `offsite prune`."),
    "StorageFull": ("the store is full", "Give it more room, or remove copies: `offsite prune`."),
    "XMinioStorageFull": ("the store is full", "Give it more room, or remove copies: `offsite prune`."),
    "EntityTooLarge": ("the object is larger than the store allows", ""),
}


def remote_error(error: Exception, place: str, action: str, key: str = "") -> RemoteFailed:
    """The failure of `action` (`s3:PutObject`) at `place`, as one sentence and a remedy."""
    what = f"{place}: {action}" + (f" of {printable(key)}" if key else "")
    if isinstance(error, boto.ClientError):
        return _answered(error, what, action, place)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return RemoteDenied(f"{what} failed: there is no key to sign it with ({_plain(error)})", _KEY)
    if isinstance(error, boto.TokenRetrievalError | boto.UnauthorizedSSOTokenError | boto.SSOTokenLoadError):
        return RemoteDenied(f"{what} failed: {_plain(error)}", _TOKEN)
    if isinstance(error, boto.SSLError):
        return RemoteFailed(
            f"{what} failed: the connection is not trusted ({_plain(error)})",
            "Mount the CA's certificate and name it in AWS_CA_BUNDLE, or correct AWS_ENDPOINT_URL_S3.",
        )
    # Whatever is called when the stack is full, the library's own HTTP client too, may wrap it.
    if isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError):
        return RemoteFailed(f"{what} failed: the bucket is in another region", _REGION)
    if isinstance(error, boto.NoRegionError):
        return RemoteFailed(f"{what} failed: no region is set", "Set AWS_REGION.")
    if isinstance(error, boto.ReadTimeoutError | boto.ConnectTimeoutError):
        return RemoteFailed(f"{what} failed: the store does not answer in time ({_plain(error)})", _NETWORK)
    return RemoteFailed(f"{what} failed: {_plain(error)}", _NETWORK)


def unusable(error: Exception, place: str) -> BackupError:
    """What was refused while a client was made: a setting, but for a key that had to be fetched."""
    if isinstance(error, boto.NoCredentialsError | boto.CredentialRetrievalError | boto.TokenRetrievalError):
        return remote_error(error, place, "looking for a key")
    return ConfigError(f"no client can be made for {place}: {_plain(error)}", _remedy(error))


def _remedy(error: Exception) -> str:
    if isinstance(error, boto.InvalidRegionError | boto.NoRegionError):
        return "Set AWS_REGION to the bucket's own region, such as eu-central-1; for a store of your own: us-east-1."
    if isinstance(error, boto.ProfileNotFound | boto.ConfigParseError | boto.ConfigNotFound | boto.InvalidConfigError):
        return "Correct AWS_PROFILE and AWS_CONFIG_FILE, or unset them and set AWS_ACCESS_KEY_ID and its secret."
    if isinstance(error, ValueError | boto.EndpointProviderError):
        return (
            "Correct AWS_ENDPOINT_URL_S3: https:// or http://, a host of letters, digits, dots and hyphens (no"
            " underscore: give a Compose service a network alias), perhaps a port."
        )
    return "Correct or unset the setting that it names, among those that begin with AWS_; then `offsite check`."


def code_of(error: BaseException | None) -> str:
    """The store's own code for a failure, such as `AccessDenied`; empty when it gave no answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto.ClientError) else ""


def status_of(error: BaseException | None) -> int:
    """The HTTP status of a failure; 0 when there was no answer."""
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)


def message_of(error: BaseException | None) -> str:
    """The store's own sentence, harmless and short."""
    if not isinstance(error, boto.ClientError):
        return ""
    said: Any = error.response.get("Error", {}).get("Message")
    return printable(str(said or ""))[:_LONGEST]


def _answered(error: boto.ClientError, what: str, action: str, place: str) -> RemoteFailed:
    code, status, said = code_of(error), status_of(error), message_of(error)
    if code in _DENIED:
        words, hint = _DENIED[code]
        return RemoteDenied(f"{what} was refused: {words} ({code})", hint)
    if code in _FAILED:
        words, hint = _FAILED[code]
        kind = RemoteArchived if code == "InvalidObjectState" else RemoteFailed
        return kind(f"{what} failed: {words} ({code})", hint)
    detail = ", ".join(part for part in (printable(code)[:60], said) if part)
    if code in ("NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NotFound", "404") or status == 404:
        return RemoteMissing(f"{what} failed: it is not there ({detail})", "`offsite list` shows what is there.")
    if status in (401, 403) or code in ("AccessDenied", "AllAccessDisabled", "403"):
        return RemoteDenied(
            f"{what} was refused ({detail})",
            f"The key needs {action} on {place}: `offsite policy` prints all that it needs. Is the bucket yours?",
        )
    if status == 501 or code == "NotImplemented":
        return RemoteFailed(
            f"{what} failed: this store does not support the request ({detail})",
            "`offsite check` finds out what it refuses. If it does not support storage classes or encryption, set"
            " BACKUP_OFFSITE_STORAGE_CLASS=STANDARD and BACKUP_OFFSITE_SSE=none.",
        )
    if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return RemoteFailed(f"{what} failed: the store has an internal error ({detail})", _LATER)
    return RemoteFailed(
        f"{what} failed: {detail}",
        "If the store does not support storage classes or encryption, set BACKUP_OFFSITE_STORAGE_CLASS=STANDARD and"
        " BACKUP_OFFSITE_SSE=none.",
    )


def _plain(error: Exception) -> str:
    """An error of the library on one line."""
    return printable(" ".join(str(error).split()))[:_LONGEST]
