"""The types of settings: how a text from the environment is read, and why it is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from backup.config import notify_url
from backup.formatting import printable
from backup.model.schedule import check_cron
from backup.pipeline import age

# Narrower than the standard: what every mail server and library takes.
_PERSON: Final = re.compile(
    r"[A-Za-z0-9_-]+(?:[.+][A-Za-z0-9_-]+)*@"
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}|[A-Za-z0-9][A-Za-z0-9_-]{5,})"
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
_OVERLAP: Final = (
    "overlap: backups would be archived into themselves, and a restore of files would replace them; mount the"
    " backup volume apart from all that is archived, such as at /backups, and each volume below /volumes"
)
# Parts of an hour and of a day without a remainder.
_MINUTES: Final = (5, 6, 10, 12, 15, 20, 30)
_HOURS: Final = (1, 2, 3, 4, 6, 8, 12)
# An upload that follows each backup instead of a cron line.
AFTER: Final = "after"


def _zone(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"unknown time zone {printable(value)!r}; use a name such as Asia/Manila") from None


def _listed(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _cron(value: str) -> str:
    return "" if value.lower() == "off" else check_cron(value)


def _every(value: str) -> str:
    """The cron line of what is done so often: between the full hours, at which other jobs begin."""
    if value.lower() in ("", "off"):
        return ""
    match = re.fullmatch(r"([1-9]\d?) ?(m|h)", value)
    count, unit = (int(match[1]), match[2]) if match else (0, "")
    if unit == "m" and count in _MINUTES:
        return f"{count // 2}-59/{count} * * * *"
    if unit == "h" and count in _HOURS:
        return "30 * * * *" if count == 1 else f"30 */{count} * * *"
    allowed = ", ".join([*(f"{each}m" for each in _MINUTES), *(f"{each}h" for each in _HOURS)])
    raise ValueError(f"{printable(value)!r} is none of {allowed}")


def _addresses(value: object) -> object:
    if not isinstance(value, str):
        return value
    urls = dict.fromkeys(notify_url.split_urls(value))
    wrong = [f"address {n} {why}" for n, url in enumerate(urls, 1) if (why := notify_url.url_problem(url))]
    if len(urls) > notify_url.MOST_TARGETS:
        wrong.append(f"{len(urls)} addresses are too many, {notify_url.MOST_TARGETS} are allowed")
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(urls)


def _web(value: SecretStr) -> SecretStr:
    if why := notify_url.web_problem(value.get_secret_value()):
        raise ValueError(why)
    return value


def _recipients(value: object) -> object:
    if not isinstance(value, str):
        return value
    texts = age.split_recipients(value)
    if wrong := [f"recipient {n} {why}" for n, text in enumerate(texts, 1) if (why := age.recipient_problem(text))]:
        raise ValueError("; ".join(wrong))
    return texts


def _matching(pattern: str, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if value and not re.fullmatch(pattern, value):
            raise ValueError(f"{printable(value)!r} is not {what}")
        return value

    return AfterValidator(check)


def _upload(value: str) -> str:
    return AFTER if value.lower() == AFTER else _cron(value)


def _endpoint(value: str) -> str:
    if why := notify_url.web_problem(value):
        raise ValueError(why)
    host = urlsplit(value).hostname or ""
    if "_" in host:
        raise ValueError(
            f"the S3 library refuses a host with an underscore, {printable(host)!r}: give that service a network alias"
            f" without one (Compose: networks, aliases: [{printable(host).replace('_', '-')}]), and name it here"
        )
    return value.rstrip("/")


def _prefix(value: str) -> str:
    parts = value.strip("/").split("/") if value.strip("/") else []
    if any(part in ("", ".", "..") or not re.fullmatch(r"[A-Za-z0-9._=-]+", part) for part in parts):
        raise ValueError(f"{printable(value)!r} is not a folder of a bucket such as obcms/")
    return "".join(f"{part}/" for part in parts)


def _folder(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError(f"{printable(str(value))!r} is not an absolute path such as /copies")
    return value


def _token(value: SecretStr) -> SecretStr:
    if not _TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("it may contain only letters, digits and -._~+/=: it is sent in a header")
    return value


def is_person(value: str) -> bool:
    """Whether this is the address of a mailbox."""
    return len(value) <= 254 and _PERSON.fullmatch(value) is not None


def folders_overlap(one: Path, other: Path) -> bool:
    """Whether two folders are the same, or one lies in the other. Nothing is asked of a disk."""
    return one == other or one in other.parents or other in one.parents


def overlap(copy_dir: Path | None, root: Path, volumes: Path) -> str:
    """What is wrong where folders that must lie apart do not; empty if nothing is."""
    if copy_dir and folders_overlap(copy_dir, root):
        return f"BACKUP_COPY_DIR must lie apart from {root}, on another disk"
    archived = f"BACKUP_VOLUMES_DIR ({printable(str(volumes))})"
    if folders_overlap(_resolved(volumes), _resolved(root)):
        return f"BACKUP_DIR ({printable(str(root))}) and {archived} {_OVERLAP}"
    # Not resolved: a place that hangs must not keep a backup from being made.
    if copy_dir and folders_overlap(copy_dir, volumes):
        return f"BACKUP_COPY_DIR ({printable(str(copy_dir))}) and {archived} {_OVERLAP}"
    return ""


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _people(value: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [printable(each) for each in value if not is_person(each)]:
        raise ValueError(f"{', '.join(wrong)}: not a mail address such as admin@example.com")
    if len(value) > notify_url.MOST_TARGETS:
        raise ValueError(f"{len(value)} addresses are too many, {notify_url.MOST_TARGETS} are allowed")
    return tuple(dict.fromkeys(value))


Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
NameList = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Cron = Annotated[str, AfterValidator(_cron)]
Interval = Annotated[str, AfterValidator(_every)]
UploadTimes = Annotated[str, AfterValidator(_upload)]
Host = Annotated[str, _matching(r"[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252}", "a host name or an address")]
BucketName = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", "the name of a bucket")]
Region = Annotated[
    str,
    _matching(r"(?![0-9]+$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", "the name of a region such as eu-central-1"),
]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Prefix = Annotated[str, AfterValidator(_prefix)]
FolderPath = Annotated[Path, AfterValidator(_folder)]
Owner = Annotated[str, _matching(r"\d{12}", "an account number of twelve digits")]
StorageClass = Annotated[str, _matching(r"[A-Z0-9_]{1,40}", "a storage class such as STANDARD_IA")]
Addresses = Annotated[tuple[SecretStr, ...], BeforeValidator(_addresses)]
Web = Annotated[SecretStr, AfterValidator(_web)]
Token = Annotated[SecretStr, AfterValidator(_token)]
People = Annotated[NameList, AfterValidator(_people)]
Recipients = Annotated[tuple[str, ...], BeforeValidator(_recipients)]
Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=0, le=36_500)]
Hours = Annotated[float, Field(gt=0, le=87_600)]
