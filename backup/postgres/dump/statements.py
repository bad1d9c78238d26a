"""SQL as pg_dump writes it, taken apart: statements, identifiers, and comments that nothing in them can end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

NAME: Final = rb'(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)'
QUALIFIED: Final = NAME + rb"\." + NAME
_QUOTED: Final = (
    rb"(?<![A-Za-z0-9_])[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$).*?(?P=dollar)"
    rb"|(?P<comment>--[^\n\r]*|/\*.*?\*/)"
)
_TEXT: Final = re.compile(_QUOTED, re.DOTALL)
_TOKEN: Final = re.compile(_QUOTED + rb"|(?P<end>;)|[^eE'\"$;/-]+|.", re.DOTALL)
_MENTIONED: Final = re.compile(rb"(?<![A-Za-z0-9_$\x80-\xff\".])(" + QUALIFIED + rb")(?![A-Za-z0-9_$\x80-\xff\"])")
_PART: Final = re.compile(NAME)
# What stands at the end of an object: settings for the one that comes, and the beginning of its comment.
SETTINGS: Final = re.compile(rb"(?:^SET \w+ = [^\n]*;\n\n)+--\n\Z", re.MULTILINE)
# The longest name that the server takes is 63 bytes; with its quotes doubled, several such settings.
TAIL: Final = 1024
_LINE: Final = re.compile(rb"(\r\n|\n|\r)")


def statements(text: bytes) -> Iterator[bytes]:
    """The statements of a script, semicolon included, without what stands between them."""
    begin, said = 0, False
    for token in _TOKEN.finditer(text):
        if token["comment"] or not (said or token[0].strip()):
            begin = begin if said else token.end()
        elif token["end"]:
            if said:
                yield text[begin : token.end()].strip()
            begin, said = token.end(), False
        else:
            said = True


def one_line(text: bytes) -> bytes:
    """The script without the newlines within its strings: what begins a line of it is SQL, and no text's."""
    return _TEXT.sub(lambda each: each[0] if each[0].startswith(b'"') else each[0].replace(b"\n", b" "), text)


def mentioned(text: bytes) -> set[bytes]:
    """Every `schema.name` in a statement, as written; also within its literals, where `nextval('…')` has one."""
    return {match[1] for match in _MENTIONED.finditer(text)}


def name_parts(name: bytes) -> tuple[str, ...]:
    """`public."Odd.Name"` as the names that it stands for."""
    return tuple(meant(match[0]) for match in _PART.finditer(name))


def meant(name: bytes) -> str:
    """The name that an identifier stands for."""
    plain = name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name
    return plain.decode(errors="surrogateescape")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def comment(text: bytes) -> bytes:
    """`text` as comment lines. A carriage return ends a comment of psql's as a newline does."""
    return b"-- " + _LINE.sub(rb"\1-- ", text) + b"\n"


def literal(text: bytes) -> bytes:
    """A text as an SQL literal, whatever standard_conforming_strings says."""
    return b"E'" + text.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'"
