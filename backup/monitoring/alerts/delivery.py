"""Take messages to their targets: the only home of apprise. It runs in a process of its own, which may hang.

What hangs, leaks or crashes there is gone with it, and no address stays here. Each target has a thread and its own
errors. Nothing that a library or a service says about an address is passed on before its parts are struck out.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
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
from backup.monitoring.alerts.model import HEARTBEAT, RECEIPTS, Deliveries, Delivery, Receipt, Target

if TYPE_CHECKING:
    from apprise import Apprise

_DEADLINE: Final = 60.0
# To start, to load the library, and to end.
_MORE: Final = 30.0
# One answer of a server, in seconds; an SMTP delivery is several.
_ANSWER: Final = 15.0
_REASON: Final = 300
_READ: Final = 1024
_TYPES: Final = {"failure": "failure", "reminder": "failure", "recovery": "success", "warning": "warning"}
_TELLING: Final = re.compile(r"(?:Socket Exception|Response Details|SMTP recipient)")
# Chat services make a call to everybody of these, whoever wrote them.
_CALLS: Final = re.compile(r"@(?=everyone|here|channel|all\b)|<(?=[!@#])", re.IGNORECASE)


class DeliveryProcess:
    """Deliver through `command`, which reads deliveries from stdin and prints receipts; once at a time."""

    def __init__(self, command: Sequence[str], deadline: float = _DEADLINE) -> None:
        self._command, self._deadline = list(command), deadline
        self._child: subprocess.Popen[bytes] | None = None
        self._over = False

    def __call__(self, deliveries: Sequence[Delivery]) -> list[Receipt]:
        """What came of each; never an exception for what went wrong with it."""
        given = Deliveries(deliveries=tuple(deliveries), deadline=self._deadline).model_dump_json().encode()
        try:
            with subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
                self._child = child
                try:
                    out, _ = child.communicate(given, timeout=self._deadline + _MORE)
                finally:
                    child.kill()
            return list(RECEIPTS.validate_json(out))
        except subprocess.TimeoutExpired:
            error = "the delivering process hung and was killed"
        except OSError as reason:
            error = f"the delivering process cannot be started: {reason.strerror}"
        except ValidationError:
            error = f"the delivering process ended with code {child.returncode}; see the log"
        return [Receipt(target=each.target, id=each.id, error=error) for each in deliveries if not self._over]

    def stop(self) -> None:
        """End what is under way: the service ends."""
        self._over = True
        if child := self._child:
            with contextlib.suppress(OSError):
                child.kill()


def deliver(deliveries: Sequence[Delivery], targets: Sequence[Target], deadline: float) -> list[Receipt]:
    """Deliver within `deadline` seconds, one message to each target. What does not answer, or is not known, says so.

    Threads may be left that hang: the process is to end.
    """
    urls = {target.name: target.url.get_secret_value() for target in targets}
    receipts: dict[str, Receipt] = {}

    def serve(each: Delivery) -> None:
        begun = time.monotonic()
        error = _attempt(each, urls.get(each.target, ""), deadline)
        seconds = round(time.monotonic() - begun, 3)
        receipts[each.target] = Receipt(target=each.target, id=each.id, error=error, seconds=seconds)

    threads = [threading.Thread(target=serve, args=(each,), daemon=True) for each in deliveries]
    until = time.monotonic() + deadline
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    error = f"no answer within {deadline:.0f} s"
    return [
        receipts.get(each.target) or Receipt(target=each.target, id=each.id, error=error, seconds=deadline)
        for each in deliveries
    ]


def check_targets(targets: Sequence[Target]) -> None:
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


def _attempt(each: Delivery, url: str, deadline: float) -> str:
    """Why it was not delivered, or nothing."""
    if not url:
        return "this target is not in the settings any more"
    try:
        return _struck(_beat(url) if each.target == HEARTBEAT else _notify(each, url, deadline), url)
    except Exception as error:  # noqa: BLE001 - a library's bug with one target must not cost the others theirs
        return _struck(f"{type(error).__name__}: {error}", url)


def _notify(each: Delivery, url: str, deadline: float) -> str:
    service, why = _service(url)
    if service is None:
        return why
    result = service.notify(
        title=_CALLS.sub("\\g<0>\u200b", each.title),
        body=_CALLS.sub("\\g<0>\u200b", each.body),
        body_format="text",
        notify_type=_TYPES.get(each.kind, "info"),
        log_level=logging.DEBUG,
        timeout=deadline,
    )
    said = [
        entry.message
        for entry in result.logs()
        if entry.level in ("WARNING", "ERROR", "CRITICAL") or _TELLING.match(entry.message)
    ]
    return "" if result else "; ".join(dict.fromkeys(said)) or "the service did not take it and gave no reason"


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


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Redirects that lead to http and https alone."""

    def redirect_request(self, *given: Any) -> urllib.request.Request | None:
        new = super().redirect_request(*given)
        return new if new and new.type in ("http", "https") else None


def _beat(url: str) -> str:
    """Ask for the heartbeat's URL. Of an answer the first bytes are read."""
    request = urllib.request.Request(url, headers={"User-Agent": f"obcms-backup/{__version__}"})  # noqa: S310
    try:
        with urllib.request.build_opener(_WebOnly).open(request, timeout=_ANSWER) as answer:
            answer.read(_READ)
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{error.reason}"
    return ""


def _struck(text: str, url: str) -> str:
    """One harmless line without the address, its parts and the known secrets."""
    for part in notify_url.fragments(url):
        text = text.replace(part, "***")
    line = printable(" ".join(redacted(text).split()))
    # What failed stands at the beginning, why at the end.
    return line if len(line) <= _REASON else f"{line[:100]} … {line[103 - _REASON :]}"
