"""Who writes while backups are made: small transactions with a ledger of what was acknowledged, and files.

Each stands still while its gate is held. What either has done is known exactly, without asking any database.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.support.database import Server

KEPT_EVENTS = 500
ACCOUNTS = 50
SCHEMA = f"""
    CREATE TABLE ledger (n int PRIMARY KEY, token text NOT NULL);
    CREATE TABLE account (id int PRIMARY KEY, moved int NOT NULL DEFAULT 0, balance bigint NOT NULL DEFAULT 0);
    INSERT INTO account (id) SELECT generate_series(0, {ACCOUNTS - 1});
    CREATE TABLE event (id bigserial PRIMARY KEY, n int UNIQUE REFERENCES ledger, body text);
    CREATE TABLE bulk (body text); INSERT INTO bulk SELECT repeat('0123456789', 400000) FROM generate_series(1, 6);
    CREATE TABLE odd (id serial, body text, t timestamptz, f float8, b bytea);
    INSERT INTO odd (body, t, f, b)
        VALUES (E'tab\\tnew\\nline \\\\. end', '-infinity', 'NaN', '\\x00ff'), (NULL, NULL, 0.1, '');
    CREATE INDEX odd_body ON odd (lower(body)) WHERE f IS NOT NULL;
    CREATE VIEW rich AS SELECT id FROM account WHERE balance > 0;
    COMMENT ON TABLE odd IS 'it''s odd; \\ $$';
    SELECT lo_from_bytea(0, decode(repeat('00ff41', 5000), 'hex'));
"""


def linked(before: bytes, token: str) -> bytes:
    """The next link of the chain: it stands for all tokens up to this one, and their order."""
    return hashlib.sha256(before + token.encode()).digest()


def chain(tokens: list[str]) -> list[bytes]:
    """The links of a ledger; `chain[n]` stands for its first n rows."""
    links = [b""]
    for token in tokens:
        links.append(linked(links[-1], token))
    return links


def amount(token: str) -> int:
    """What a transaction moves."""
    return int(token[:4], 16) - 32768


class Writer(threading.Thread):
    """One that takes a step every `pause` seconds, but not while somebody holds its gate."""

    def __init__(self, chance: random.Random, pause: float) -> None:
        super().__init__(daemon=True)
        self.chance, self.pause = chance, pause
        self.gate, self.over = threading.RLock(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(self.pause):
            with self.gate:
                self.step()

    def step(self) -> None:
        raise NotImplementedError


class Rows(Writer):
    """Transactions. `links` has one link for every one that the server acknowledged."""

    def __init__(self, server: Server, database: str, chance: random.Random, lost: Callable[[str], None]) -> None:
        super().__init__(chance, 0.05)
        self.server, self.database, self.lost = server, database, lost
        self.links, self.doubtful = [b""], ""
        self.connection: psycopg.Connection[Any] | None = None

    def step(self) -> None:
        """One transaction; a connection that breaks leaves it in doubt until the next one can look."""
        with contextlib.suppress(psycopg.Error, StopIteration):
            if self.connection is None or self.connection.closed:
                self.connection = self.server.connect(self.database)
                self.connection.execute("SET statement_timeout = '20s'")
                self._look()
            self._write(len(self.links), self.chance.randbytes(8).hex())
            return
        if self.connection is not None:
            self.connection.close()

    def _write(self, n: int, token: str) -> None:
        assert self.connection is not None
        self.doubtful = token
        with self.connection.transaction():
            self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (n, token))
            self.connection.execute(
                "UPDATE account SET balance = balance + %s, moved = moved + 1 WHERE id = %s",
                (amount(token), n % ACCOUNTS),
            )
            self.connection.execute("INSERT INTO event (n, body) VALUES (%s, %s)", (n, token[::-1]))
            self.connection.execute("DELETE FROM event WHERE n <= %s", (n - KEPT_EVENTS,))
        self.links.append(linked(self.links[-1], token))
        self.doubtful = ""

    def _look(self) -> None:
        """Whether the transaction in doubt was committed, and whether any that was acknowledged is not there."""
        assert self.connection is not None
        row = self.connection.execute("SELECT n, token FROM ledger ORDER BY n DESC LIMIT 1").fetchone()
        n, token = row or (0, "")
        if n == len(self.links) and token == self.doubtful:
            self.links.append(linked(self.links[-1], token))
        elif n != len(self.links) - 1:
            self.lost(f"{len(self.links) - 1} transactions were acknowledged, the live database has {n}")
            self.adopt(self.server)
        self.doubtful = ""

    def adopt(self, server: Server) -> None:
        """Go on from what is live: it was restored, and has been compared."""
        with server.connect(self.database) as connection:
            rows = connection.execute("SELECT token FROM ledger ORDER BY n").fetchall()
        self.links, self.doubtful = chain([token for (token,) in rows]), ""


class Files(Writer):
    """Files made, rewritten, appended to, renamed and removed. `state` is what there is, `window` what there was."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(chance, 0.03)
        self.folder = folder
        self.state: dict[str, str | None] = {}
        self.window: dict[str, set[str | None]] | None = None
        # Of the window, those that nobody has changed or removed, by the names that they have now.
        self.kept: dict[str, str] = {}
        self.number = 0

    def step(self) -> None:
        """One change, in a directory that may be new."""
        there = [path for path, mark in self.state.items() if mark]
        kinds = ["made"] * (6 if len(there) < 100 else 1) + ["rewritten", "appended", "renamed", "removed"] * bool(
            there
        )
        kind = self.chance.choice(kinds)
        fresh, data = self._fresh(), self.chance.randbytes(self.chance.choice([0, 10, 5_000, 30_000]))
        if kind == "made":
            self._write(fresh, "wb", b"", data, self.chance.choice([0o644, 0o600]))
            return
        path = self.chance.choice(there)
        mode = (self.folder / path).stat().st_mode & 0o7777
        if kind == "renamed":
            self.renamed(path)
            return
        self.kept.pop(path, None)
        if kind == "rewritten":
            self._write(path, "wb", b"", data, mode)
        elif kind == "appended":
            self._write(path, "ab", (self.folder / path).read_bytes(), data, mode)
        else:
            self._note(path, None)
            (self.folder / path).unlink()

    def renamed(self, path: str = "") -> None:
        """A file gets another name, in any directory."""
        path = path or self.chance.choice([each for each, mark in self.state.items() if mark] or [""])
        if not path:
            return
        fresh, mark = self._fresh(), self.state[path]
        self._note(path, None), self._note(fresh, mark)
        if path in self.kept:
            self.kept[fresh] = self.kept.pop(path)
        (self.folder / fresh).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).rename(self.folder / fresh)

    def _fresh(self) -> str:
        self.number += 1
        return f"uploads/{self.chance.randrange(6)}/é {self.number}.bin"

    def _write(self, path: str, how: str, before: bytes, data: bytes, mode: int) -> None:
        """In two pieces: all that it is on its way counts as having been there."""
        half = len(data) // 2
        for default in {mode, 0o644}:
            for seen in (before, before + data[:half], before + data):
                self._note(path, marked(seen, default))
        self._note(path, marked(before + data, mode))
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder / path, how, buffering=0) as stream:
            stream.write(data[:half])
            stream.write(data[half:])
        (self.folder / path).chmod(mode)

    def _note(self, path: str, mark: str | None) -> None:
        if self.window is not None:
            self.window.setdefault(path, {self.state.get(path)}).add(mark)
        self.state[path] = mark
        if mark is None and self.window is None:
            del self.state[path]

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, set[str | None]]]:
        """What each file was, or that it was not there, from before the body until after it; filled at the end."""
        allowed: dict[str, set[str | None]] = {}
        with self.gate:
            self.window, begun = {}, dict(self.state)
            self.kept = {path: mark for path, mark in begun.items() if mark}
        try:
            yield allowed
        finally:
            with self.gate:
                allowed |= {path: {mark} for path, mark in begun.items()} | self.window
                self.window = None
                self.state = {path: mark for path, mark in self.state.items() if mark}

    def adopt(self) -> None:
        """Go on from what is there."""
        self.state = dict(tree(self.folder))


def marked(data: bytes, mode: int) -> str:
    """What stands for a file: its mode and its SHA-256."""
    return f"{mode:04o} {hashlib.sha256(data).hexdigest()}"


def tree(folder: Path) -> dict[str, str]:
    """All files below, but for what a restore keeps beside the live ones."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".obcms-restore-") and (path.is_symlink() or path.is_file()):
            data = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            found[name] = marked(data, path.lstat().st_mode & 0o7777)
    return found
