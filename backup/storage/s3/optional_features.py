"""What a request carries that a store may refuse and that can be done without. Pure.

Without checksums the MD5 in the ETag proves what arrived, or every byte is read back; without conditions an object is
looked for before and after; without a list of unfinished uploads the bucket's own lifecycle ends them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Any, Final

from backup.storage.s3.errors import code_of, message_of, status_of
from backup.storage.s3.options import CHECKSUMS, CONDITIONS

_PARAMETERS: Final = {
    "ChecksumMode": CHECKSUMS,
    "ChecksumAlgorithm": CHECKSUMS,
    "ChecksumSHA256": CHECKSUMS,
    "IfNoneMatch": CONDITIONS,
}
_UNKNOWN: Final = ("NotImplemented", "501", "405", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "400")
_HEADERS: Final = ("x-amz-checksum", "x-amz-sdk-checksum", "checksum-algorithm", "checksum-mode", "if-none-match")
# Of an answer to what was really asked: the store has understood the request.
ANSWERED: Final = (404, 412)


def reduced(parameters: dict[str, Any], without: Collection[str]) -> dict[str, Any]:
    """The parameters of a request without those niceties."""
    kept = {name: value for name, value in parameters.items() if _PARAMETERS.get(name) not in without}
    if CHECKSUMS in without and "MultipartUpload" in kept:
        parts = [{n: v for n, v in part.items() if n not in _PARAMETERS} for part in kept["MultipartUpload"]["Parts"]]
        kept["MultipartUpload"] = {"Parts": parts}
    return kept


def lighter(parameters: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Which niceties to try a request without, the fewest first: at first none of them is left out.

    What a proxy on the way says once must not be remembered of the store.
    """
    used = sorted({_PARAMETERS[name] for name in parameters if name in _PARAMETERS})
    if CHECKSUMS not in used and reduced(parameters, [CHECKSUMS]) != parameters:
        used.insert(0, CHECKSUMS)
    for count in range(len(used) + 1) if used else ():
        yield from combinations(used, count)


def is_refusal(error: BaseException | None) -> bool:
    """Whether the store may have refused how it was asked, and not what. A HEAD has no body to say so: a bare 400."""
    said = f"{code_of(error)} {message_of(error)}".lower()
    named = status_of(error) == 400 and code_of(error) != "BadDigest" and any(name in said for name in _HEADERS)
    return status_of(error) == 501 or code_of(error) in _UNKNOWN or named
