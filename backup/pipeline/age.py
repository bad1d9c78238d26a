"""Encryption to age recipients, as a stream (age-encryption.org/v1). The only home of `pyrage`.

pyrage pulls from a reader and pushes to a writer, so it runs in a thread of its own between bounded queues. What a
reader or writer of ours raises it turns into a text, so the error itself is kept here. The last chunk of an age file
is marked and written only after the reader's good end: what is cut anywhere, also between chunks, does not decrypt.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pyrage

from backup.errors import BackupError, IntegrityError, KeyMissing
from backup.formatting import printable
from backup.pipeline.bounded_queue import BoundedQueue
from backup.pipeline.chunks import Sink, Writer, through, work_through

# How every age file begins, and what its name ends in.
MAGIC: Final = b"age-encryption.org/v1"
SUFFIX: Final = ".age"
# Of the header, with more recipients than anybody names; and what each chunk of an age file is longer by.
_HEADER: Final = 1 << 20
_CHUNK, _TAG = 64 << 10, 16
_BLOCK: Final = 1 << 20
_QUEUED: Final = 4
_LONGEST_IDENTITY: Final = 64 << 10
_SECRET: Final = re.compile(r"AGE-SECRET-KEY-|AGE-PLUGIN-|PRIVATE KEY", re.IGNORECASE)
_MAKE: Final = "`age-keygen -o key.txt` makes a key pair; its public key begins with age1."

# Types of pyrage's own, which say nothing to a type checker.
Recipient = Any
Identity = Any


def split_recipients(text: str) -> tuple[str, ...]:
    """The recipients in one setting: by commas or newlines, without comments."""
    lines = (line.strip() for line in re.split(r"[,\r\n]", text))
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def recipient_problem(recipient: str) -> str:
    """Why this cannot be a recipient; nothing if it can be. A private key is never shown, nor anything unknown."""
    if _SECRET.search(recipient):
        return "is a PRIVATE key, which must not be here: give its public key, and keep this one elsewhere"
    # One classic key in a thousand begins with age1pq: the 1 behind it is what no key of these has.
    if recipient.startswith("age1pq1"):
        return f"is a post-quantum recipient (age1pq1…), which is not supported: give a classic one. {_MAKE}"
    try:
        _recipient(recipient)
    except (ValueError, pyrage.RecipientError):
        return f"is neither an age recipient (age1…) nor an SSH public key (ssh-ed25519 …, ssh-rsa …). {_MAKE}"
    return ""


def recipients(texts: Iterable[str]) -> list[Recipient]:
    """What to encrypt to. The texts were judged by `problem` before."""
    return [_recipient(text) for text in texts]


def short_recipient(recipient: str) -> str:
    """A recipient's name for people: enough of it to tell it from others."""
    kind, _, rest = recipient.partition(" ")
    if kind.startswith("ssh-"):
        return f"{kind} …{rest.split(' ')[0][-8:]}"
    return f"{recipient[:10]}…{recipient[-4:]}"


def identities(path: Path) -> list[Identity]:
    """The private keys in a file of age-keygen, or an SSH key without a passphrase. KeyMissing shows no content."""
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_IDENTITY + 1)
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from None
    if len(data) > _LONGEST_IDENTITY:
        raise _unusable(path, "it is too large")
    if data.startswith(MAGIC):
        raise _unusable(path, "it is encrypted with a passphrase; decrypt it first, on a machine that may hold it")
    if data.startswith(b"-----BEGIN"):
        return [_ssh_identity(path, data)]
    found = []
    for line in data.decode(errors="replace").splitlines():
        if not (text := line.strip()) or text.startswith("#"):
            continue
        try:
            found.append(pyrage.x25519.Identity.from_str(text))
        except pyrage.IdentityError:
            raise _unusable(path, "it holds more than AGE-SECRET-KEY-1… lines and comments") from None
    if not found:
        raise _unusable(path, "it holds no key")
    return found


def public(identity: Identity) -> str:
    """The recipient that belongs to an identity; nothing where that cannot be told (SSH)."""
    return str(identity.to_public()) if hasattr(identity, "to_public") else ""


def encrypt(chunks: Iterable[bytes], to: Sequence[Recipient]) -> Generator[bytes, None, None]:
    """`chunks`, encrypted. Their error is raised, and what came before it does not decrypt as a whole."""
    return through(chunks, lambda reader, writer: pyrage.encrypt_io(reader, writer, to))


def encrypted_bound(size: int) -> int:
    """The most bytes that so many become when they are encrypted."""
    return size + (size // _CHUNK + 1) * _TAG + _HEADER


def decrypt(chunks: Iterable[bytes], keys: Sequence[Identity]) -> Generator[bytes, None, None]:
    """What age-encrypted `chunks` hold. KeyMissing when no key fits, IntegrityError for what is cut or changed.

    Bytes are given before the end is known to be good: who acts on them must wait for the end.
    """

    def work(reader: io.BufferedReader, writer: Writer) -> None:
        try:
            pyrage.decrypt_io(reader, writer, keys)
        except (pyrage.DecryptError, OSError) as error:
            raise _translated(str(error)) from error

    return through(chunks, work)


def decrypted_chunks(chunks: Iterable[bytes], identity: Path | None) -> Generator[bytes, None, None]:
    """`chunks` as they are, or decrypted with `identity` if they are encrypted. The chunks themselves stay open."""
    source = iter(chunks)
    first = next(source, b"")
    whole = itertools.chain([first], source)
    if not first.startswith(MAGIC):
        for chunk in whole:  # noqa: UP028 - closing this must leave the chunks open
            yield chunk
        return
    with contextlib.closing(decrypt(whole, require_identities(identity))) as pieces:
        yield from pieces


def read_head(file: BinaryIO, identity: Path | None, count: int) -> tuple[bytes, bool]:
    """The first bytes of what a file holds, and whether it is encrypted."""
    found, first = b"", file.read(count)
    with contextlib.closing(
        decrypted_chunks(itertools.chain([first], iter(lambda: file.read(_BLOCK), b"")), identity)
    ) as pieces:
        for piece in pieces:
            found += piece
            if len(found) >= count:
                break
    return found[:count], first.startswith(MAGIC)


def require_identities(identity: Path | None) -> list[Identity]:
    """The keys in the identity file; KeyMissing, with what is to be done, when none is named."""
    if identity is None:
        raise KeyMissing(
            "it is encrypted, and no identity is here to open it",
            "Name the file with the private key: --identity FILE, or BACKUP_AGE_IDENTITY_FILE.",
        )
    return identities(identity)


class AgeWriter:
    """Encrypts into `target`, which it does not close. Use as GzipWriter: `write`, then `close` or `abandon`."""

    def __init__(self, target: Sink, to: Sequence[Recipient]) -> None:
        self._error: BaseException | None = None
        self._queue = BoundedQueue[bytes | None](_QUEUED)
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, args=(target, to), name="age", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Queue bytes that nobody changes afterwards."""
        if self._error:
            raise self._error
        self._queue.put(data)
        return len(data)

    def close(self) -> None:
        """Encrypt the rest and write the marked last chunk; raises what went wrong."""
        self._queue.put_last(None)
        self._thread.join()
        if self._error:
            raise self._error

    def abandon(self) -> None:
        """End the thread without the last chunk; what was written does not decrypt."""
        self._abandoned = True
        self._queue.put_last(None)
        self._thread.join()

    def _work(self, target: Sink, to: Sequence[Recipient]) -> None:
        ended = False

        def queued() -> Iterator[bytes]:
            nonlocal ended
            while (item := self._queue.get()) is not None:
                yield item
            ended = True
            if self._abandoned:
                raise EOFError("abandoned")

        try:
            work_through(queued(), target.write, lambda reader, writer: pyrage.encrypt_io(reader, writer, to))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._error = error
        # After an error the queue is emptied on, so that nobody waits for ever.
        while not ended:
            ended = self._queue.get() is None


def _recipient(text: str) -> Recipient:
    kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
    return cast(Any, kind).from_str(text)


def _ssh_identity(path: Path, data: bytes) -> Identity:
    try:
        return pyrage.ssh.Identity.from_buffer(data)
    except (ValueError, pyrage.IdentityError):
        raise _unusable(path, "it is not a usable SSH key: does it have a passphrase?") from None


def _unusable(path: Path, why: str) -> KeyMissing:
    return KeyMissing(
        f"the identity file {printable(str(path))} cannot be used: {why}",
        "BACKUP_AGE_IDENTITY_FILE or --identity must name a file as `age-keygen -o FILE` writes it.",
    )


def _translated(said: str) -> BackupError:
    if "No matching keys" in said:
        return KeyMissing(
            "it is encrypted to other keys than the given identity, or its header is damaged",
            "Name the identity file that belongs to the recipients of that time: --identity FILE.",
        )
    if said == "decryption error":
        said = "it is damaged or truncated"
    return IntegrityError(f"it cannot be decrypted: {printable(said)}")
