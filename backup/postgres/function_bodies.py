"""The body of a function, as far as names in it are found by the search_path. Pure.

Whether they are names is for whoever knows the database to say: what looks like one may be a word of a text. What is
within strings counts, for it may be a statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_NAME: Final = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_BARE: Final = rf"(?<![\w$.\"])(?P<bare>{_NAME})(?![\w$]|\s*\.)"
_CALLED: Final = re.compile(rf"{_BARE}(?=\s*\()")
_QUALIFIED: Final = re.compile(rf"(?P<schema>{_NAME})\s*\.\s*(?P<name>{_NAME})(?=\s*\()")
_RELATION: Final = re.compile(
    rf"\b(?:JOIN|INTO|UPDATE|TABLE)\s+(?:ONLY\s+)?{_BARE}(?!\s*\()|{_BARE.replace('bare', 'row')}%ROWTYPE",
    re.IGNORECASE,
)
# All that is between FROM and what may follow; of each of these, the first word.
_LISTED: Final = re.compile(
    r"\bFROM\s+(?:ONLY\s+)?([^;()]*?)(?=[;()]|\b(?:WHERE|JOIN|LEFT|RIGHT|FULL|CROSS|GROUP|ORDER|LIMIT|UNION|FOR|LOOP)\b|$)",
    re.IGNORECASE,
)
_FIRST: Final = re.compile(rf"\s*{_BARE}")
_PAIR: Final = rf"(?P<schema>{_NAME})\s*\.\s*(?P<name>{_NAME})(?!\s*\()"
_FIRST_QUALIFIED: Final = re.compile(rf"\s*{_PAIR}")
_JOINED: Final = re.compile(rf"\bJOIN\s+(?:ONLY\s+)?{_PAIR}", re.IGNORECASE)
# A cast, or the declaration of a variable.
_TYPE: Final = re.compile(
    rf"(?:::\s*|\bAS\s+){_BARE}|(?:;|\bDECLARE|\bBEGIN)\s+{_NAME}\s+{_BARE.replace('bare', 'declared')}\s*(?=:=|;|\[)",
    re.IGNORECASE,
)
_SYMBOL: Final = re.compile(r"[-+*/<>=~!@#%^&|`?]+")


@dataclass(frozen=True)
class FunctionBody:
    """What a body may name without a schema; with one, functions that it calls and relations that it reads."""

    functions: frozenset[str]
    relations: frozenset[str]
    types: frozenset[str]
    operators: frozenset[str]
    qualified: frozenset[tuple[str, str]]
    reads: frozenset[tuple[str, str]] = frozenset()


def read_body(text: str) -> FunctionBody:
    """Take the text of a function apart."""
    plain = _COMMENT.sub(" ", text)
    return FunctionBody(
        functions=_names(_CALLED, plain),
        relations=_names(_RELATION, plain) | _listed(plain),
        types=_names(_TYPE, plain),
        operators=frozenset(_SYMBOL.findall(plain)),
        qualified=frozenset((meant(m["schema"]), meant(m["name"])) for m in _QUALIFIED.finditer(plain)),
        reads=_read(plain),
    )


def _listed(text: str) -> frozenset[str]:
    parts = (part for match in _LISTED.finditer(text) for part in match[1].split(","))
    return frozenset(meant(match["bare"]) for part in parts if (match := _FIRST.match(part)))


def _read(text: str) -> frozenset[tuple[str, str]]:
    parts = [part for match in _LISTED.finditer(text) for part in match[1].split(",")]
    found = [*filter(None, map(_FIRST_QUALIFIED.match, parts)), *_JOINED.finditer(text)]
    return frozenset((meant(each["schema"]), meant(each["name"])) for each in found)


def meant(name: str) -> str:
    """The name that an identifier stands for."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _names(pattern: re.Pattern[str], text: str) -> frozenset[str]:
    return frozenset(meant(name) for match in pattern.finditer(text) for name in match.groups() if name)
