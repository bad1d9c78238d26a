"""Takes messages to their targets: the only home of apprise. Runs in a process of its own (`Post`), which may hang:
what hangs, leaks or crashes there is gone with it, and no address stays here.

Each target has a thread and its own errors. Nothing that a library or a service says about an address is passed on
before the address and its parts are struck out.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import queue
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from backup import __version__
from backup.config import notify_url
from backup.errors import ConfigError
from backup.formatting import printable
from backup.logging import redacted
from backup.monitoring.alerts.model import HEARTBEAT, Letter, Letters, Receipt, Receipts, Target

if TYPE_CHECKING:
    from apprise import Apprise

_DEADLINE: Final = 60.0
# To start, to load the library, and to end.
_MORE: Final = 30.0
# One answer of a server, in seconds; an SMTP delivery is several.
_ANSWER: Final = 15.0
_REASON: Final = 300
_READ: Final = 1024
# After so many in a row a target is left alone: each may cost the whole time of an answer.
_GIVE_UP: Final = 2
_TELLING: Final = re.compile(r"(?:Socket Exception|Response Details|SMTP recipient)")
# Chat services make a call to everybody of these, whoever wrote them.
_CALLS: Final = re.compile(r"@(?=everyone|here|channel|all\b)|<(?=[!@#])", re.IGNORECASE)


class Post:
    """Sends letters through `command`, which reads them from stdin and prints receipts. One at a time."""

    def __init__(self, command: Sequence[str], deadline: float = _DEADLINE) -> None:
        self._command, self._deadline = list(command), deadline
        self._child: subprocess.Popen[bytes] | None = None
        self._over = False

    def __call__(self, letters: Sequence[Letter]) -> list[Receipt]:
        """What came of each letter that was tried; never an exception for what went wrong with the delivery."""
        given = Letters(letters=tuple(letters), deadline=self._deadline)
        try:
            with subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
                self._child = child
                try:
                    out, _ = child.communicate(given.model_dump_json().encode(), timeout=self._deadline + _MORE)
                except subprocess.TimeoutExpired:
                    child.kill()
                    return _all(letters, "the delivering process hung and was killed")
        except OSError as error:
            return _all(letters, f"the delivering process cannot be started: {error.strerror}")
        if self._over:
            return []
        try:
            return list(Receipts.model_validate_json(out).receipts)
        except ValidationError:
            return _all(letters, f"the delivering process ended with code {child.returncode}; see the log")

    def stop(self) -> None:
        """End what is under way: the service ends."""
        self._over = True
        if child := self._child:
            with contextlib.suppress(OSError):
                child.kill()


def deliver(letters: Sequence[Letter], targets: Sequence[Target], deadline: float) -> list[Receipt]:
    """Deliver within `deadline` seconds. A target that does not answer, or is not known any more, says so.

    Letters that were not tried, because others failed at the same target, have no receipt. Threads may be left that
    hang: the process is to end.
    """
    addresses = {target.name: target.url.get_secret_value() for target in targets}
    done: queue.SimpleQueue[Receipt | str] = queue.SimpleQueue()
    by_target: dict[str, list[Letter]] = {}
    for letter in letters:
        by_target.setdefault(letter.target, []).append(letter)
    for name, mine in by_target.items():
        work = threading.Thread(
            target=_serve, args=(mine, addresses.get(name, ""), deadline, done), name=f"to {name}", daemon=True
        )
        work.start()
    receipts, busy = _collect(done, set(by_target), time.monotonic() + deadline)
    had = {(receipt.target, receipt.id) for receipt in receipts}
    for name in sorted(busy):
        hanging = next((letter for letter in by_target[name] if (name, letter.id) not in had), None)
        if hanging:
            error = f"no answer within {deadline:.0f} s"
            receipts.append(Receipt(target=name, id=hanging.id, error=error, seconds=deadline))
    return receipts


def check(targets: Sequence[Target]) -> None:
    """ConfigError that lists every address which apprise does not understand; none is shown."""
    problems = []
    for target in targets:
        if target.name != HEARTBEAT and (why := _service(target.url.get_secret_value())[1]):
            problems.append(f"{target.name}: {why}")
    if problems:
        listing = "".join(f"\n  - {each}" for each in problems)
        raise ConfigError(
            f"messages cannot be sent to {len(problems)} of {len(targets)} addresses:{listing}",
            "Correct BACKUP_NOTIFY_URLS or the mail settings; the URLs are those of the library apprise.",
        )


def _all(letters: Sequence[Letter], error: str) -> list[Receipt]:
    return [Receipt(target=letter.target, id=letter.id, error=error) for letter in letters]


def _collect(done: queue.SimpleQueue[Receipt | str], busy: set[str], until: float) -> tuple[list[Receipt], set[str]]:
    receipts: list[Receipt] = []
    while busy:
        try:
            item = done.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(item, str):
            busy.discard(item)
        else:
            receipts.append(item)
    return receipts, busy


def _serve(letters: Sequence[Letter], url: str, deadline: float, done: queue.SimpleQueue[Receipt | str]) -> None:
    failed = 0
    for letter in letters:
        begun = time.monotonic()
        error = _one(letter, url, deadline)
        seconds = round(time.monotonic() - begun, 3)
        done.put(Receipt(target=letter.target, id=letter.id, error=error, seconds=seconds))
        failed = failed + 1 if error else 0
        if failed >= _GIVE_UP:
            break
    done.put(letters[0].target)


def _one(letter: Letter, url: str, deadline: float) -> str:
    """Why it was not delivered, or nothing."""
    if not url:
        return "this target is not in the settings any more"
    try:
        if letter.target == HEARTBEAT:
            return _struck(_beat(url), url)
        return _notify(letter, url, deadline)
    except Exception as error:  # noqa: BLE001 - a library's bug with one target must not cost the others theirs
        return _struck(f"{type(error).__name__}: {error}", url)


def _notify(letter: Letter, url: str, deadline: float) -> str:
    service, why = _service(url)
    if service is None:
        return why
    result = service.notify(
        title=_uncalled(letter.title),
        body=_uncalled(letter.body),
        body_format="text",
        notify_type={"failure": "failure", "reminder": "failure", "recovery": "success", "warning": "warning"}.get(
            letter.kind, "info"
        ),
        log_level=logging.DEBUG,
        timeout=deadline,
    )
    if result:
        return ""
    said = [
        entry.message
        for entry in result.logs()
        if entry.level in ("WARNING", "ERROR", "CRITICAL") or _TELLING.match(entry.message)
    ]
    return _struck("; ".join(dict.fromkeys(said)) or "the service did not take it and gave no reason", url)


def _service(url: str) -> tuple[Apprise | None, str]:
    """The one service behind an address, or why there is none."""
    apprise = _library()
    asset = apprise.AppriseAsset(app_id="OBCMS backup", storage_mode="memory", allow_templates=False)
    try:
        plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
    except Exception as error:  # noqa: BLE001 - what plugins raise about an address of theirs is their own
        return None, _struck(str(error), url) or "not understood"
    if plugin is None:
        return None, f"{url.partition('://')[0]}:// is no service that is known, or something is missing in the address"
    plugin.socket_connect_timeout = plugin.socket_read_timeout = _ANSWER
    if "overflow=" not in url:
        # One message, cut where the service cuts: what matters most stands first.
        plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
    service = apprise.Apprise(asset=asset)
    service.add(plugin)
    return service, ""


def _library() -> Any:
    """apprise, when it is needed: every command would wait for it."""
    library = importlib.import_module("apprise")
    log = logging.getLogger("apprise")
    # Its lines hold addresses and tokens; they are read from the result, and struck out there.
    log.setLevel(logging.DEBUG)
    log.propagate = False
    return library


def _beat(url: str) -> str:
    """Ask for the heartbeat's URL. Redirects lead to http and https alone, answers are read to their first bytes."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    request = urllib.request.Request(url, headers={"User-Agent": f"obcms-backup/{__version__}"})  # noqa: S310
    try:
        with opener.open(request, timeout=_ANSWER) as answer:
            answer.read(_READ)
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{error.reason}"
    return ""


def _uncalled(text: str) -> str:
    return _CALLS.sub("\\g<0>\u200b", text)


def _struck(text: str, url: str) -> str:
    """One harmless line without the address, its parts and the known secrets."""
    for part in notify_url.fragments(url):
        text = text.replace(part, "***")
    line = printable(" ".join(redacted(text).split()))
    # What failed stands at the beginning, why at the end.
    return line if len(line) <= _REASON else f"{line[:100]} … {line[103 - _REASON :]}"
