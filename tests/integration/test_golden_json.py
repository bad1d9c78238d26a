"""What `--json` of every command holds, as it was: names and types, on one stack that has lived through all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.support.database import Server
from tests.support.forked_cli import ROOT, apart, around
from tests.support.golden import shape, unchanged
from tests.support.restoring import Target, drop_kept
from tests.support.s3 import Service

# In an order in which each has something to say, with the exit code; a doctor's depends on the machine.
COMMANDS: Final = (
    ("list", 0),
    ("show {daily}", 0),
    ("show {daily} --tables", 0),
    ("show {daily} --files *.txt", 0),
    ("show {daily} --path kind.txt", 0),
    ("du", 0),
    ("verify {daily}", 0),
    ("drill {daily}", 0),
    ("pin {daily}", 0),
    ("unpin {daily}", 0),
    ("prune --dry-run", 0),
    ("prune", 0),
    ("upload --all", 0),
    ("offsite check", 0),
    ("offsite list", 0),
    ("offsite verify", 0),
    ("offsite prune --dry-run", 0),
    ("offsite pull {daily}", 46),
    ("import {folder}", 0),
    ("restore {daily} --dry-run", 0),
    ("restore {daily} --force", 0),
    ("status", 0),
    ("monitor", 0),
    ("monitor --report", 0),
    ("logs --tail 5", 0),
    ("notify --pending", 0),
    ("schedule", 0),
    ("doctor", None),
    ("healthcheck", 1),
)


def _documents(output: str) -> Iterator[Any]:
    """The JSON documents of an output, one after the other."""
    decoder, rest = json.JSONDecoder(), output.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].strip()


def test_the_json_of_every_command_is_as_it_was(tmp_path: Path, server: Server, gateway: Service) -> None:
    case = Target.make(tmp_path, server, BACKUP_HTTP_PORT="1", **gateway.settings())
    case.create("daily")
    named = {"daily": case.stored().id, "folder": str(tmp_path / "exported")}
    (tmp_path / "exported").mkdir()
    assert case.sidecar.run("export", *named.values()).code == 0
    seen: dict[str, Any] = {}
    for words, code in (("create manual", 0), *COMMANDS):
        command = [str(ROOT / "entrypoint.py"), *(word.format(**named) for word in words.split()), "--json"]
        ended, output, errors = apart(command, around() | case.sidecar.environment, b"", 120)
        assert code in (ended, None), (words, ended, output.decode(), errors.decode())
        seen[words] = [shape(each) for each in _documents(output.decode())]
    drop_kept(case)
    unchanged("json.json", json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
