"""What `--json` of each command prints is of its schema, on one stack that has lived through all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from backup.documents.results import DOCUMENTS
from tests.support.database import Server
from tests.support.forked_cli import ROOT, apart, around
from tests.support.restoring import Target, drop_kept
from tests.support.s3 import Service
from tests.support.schemas import checked

# In an order in which each has something to say, with exit code and kind; the code of a doctor depends on the machine.
COMMANDS: Final = (
    ("list", 0, "sets"),
    ("show {daily}", 0, "set"),
    ("show {daily} --tables", 0, "tables"),
    ("show {daily} --files *.txt", 0, "files"),
    ("show {daily} --path kind.txt", 0, "history"),
    ("du", 0, "usage"),
    ("verify {daily}", 0, "verdict"),
    ("drill {daily}", 0, "verdict"),
    ("pin {daily}", 0, "pin"),
    ("unpin {daily}", 0, "pin"),
    ("prune --dry-run", 0, "cleanup"),
    ("prune", 0, "cleanup"),
    ("upload --all", 0, "uploads"),
    ("offsite check", 0, "steps"),
    ("offsite list", 0, "copies"),
    ("offsite verify", 0, "copies"),
    ("offsite prune --dry-run", 0, "cleanups"),
    ("offsite pull {daily}", 46, ""),
    ("import {folder}", 0, "import"),
    ("restore {daily} --dry-run", 0, "plan"),
    ("restore {daily} --force", 0, "plan"),
    ("status", 0, "status"),
    ("moments", 0, "moments"),
    ("monitor", 0, "status"),
    ("monitor --report", 0, "status"),
    ("logs --tail 5", 0, "log"),
    ("notify --pending", 0, "messages"),
    ("schedule", 0, "schedule"),
    ("doctor", None, "doctor"),
    ("healthcheck", 1, "probe"),
)

# Of the service, of an empty bucket, of WAL, and what needs a target of messages, a terminal's paths or a project.
ELSEWHERE: Final = {"deletions", "health", "pull", "receipts", "paths", "setup"}


def test_the_json_of_every_command_is_of_its_schema(tmp_path: Path, server: Server, gateway: Service) -> None:
    case = Target.make(tmp_path, server, BACKUP_HTTP_PORT="1", **gateway.settings())
    case.create("daily")
    named = {"daily": case.stored().id, "folder": str(tmp_path / "exported")}
    (tmp_path / "exported").mkdir()
    assert case.sidecar.run("export", *named.values()).code == 0
    seen = set()
    for words, code, kind in (("create manual", 0, "run"), *COMMANDS):
        command = [str(ROOT / "entrypoint.py"), *(word.format(**named) for word in words.split()), "--json"]
        ended, output, errors = apart(command, around() | case.sidecar.environment, b"", 120)
        assert code in (ended, None), (words, ended, output.decode(), errors.decode())
        assert (checked(output)["kind"] if output else "") == kind, words
        seen.add(kind)
    drop_kept(case)
    assert set(DOCUMENTS) - seen == ELSEWHERE
