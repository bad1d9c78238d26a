"""Commands about the messages that the service sends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from backup.cli import base
from backup.cli.base import Json
from backup.config.loader import Settings
from backup.errors import BackupError, ConfigError, NotDelivered
from backup.formatting import local_time, plural, printable
from backup.monitoring.alerts.delivery import deliver
from backup.monitoring.alerts.destinations import WHAT_TO_SET, everything, targets
from backup.monitoring.alerts.model import HEARTBEAT, RECEIPTS, Deliveries, Message, Receipt
from backup.monitoring.alerts.outbox import recall
from backup.monitoring.alerts.undelivered import refused

_TEST_SECONDS: Final = 30.0
_TAKEN: Final = 1 << 20
_SECONDS: Final = "%Y-%m-%d %H:%M:%S"


def notify(
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message to every target and show each result.")
    ] = False,
    pending: Annotated[
        bool, typer.Option("--pending", help="List messages that wait for delivery or are held back.")
    ] = False,
    delivers: Annotated[bool, typer.Option("--deliver", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Test the targets of alerts, or list waiting messages. `--test` ends with 62 unless all accept the message.

    Examples: `notify --test`, `notify --pending`, `notify --test --json`.
    """
    if [test, pending, delivers].count(True) != 1:
        raise typer.BadParameter("pass --test or --pending")
    settings = base.prepare_command(as_json or delivers)
    if delivers:
        _deliver(settings)
    elif pending:
        _pending(settings, as_json)
    else:
        _test(settings, as_json)


def _deliver(settings: Settings) -> None:
    """What the service starts to deliver: deliveries on stdin, receipts on stdout."""
    try:
        given = Deliveries.model_validate_json(sys.stdin.buffer.read(_TAKEN))
    except ValidationError:
        raise BackupError("stdin holds no messages", "Only the service calls `notify --deliver`.") from None
    receipts = deliver(given.deliveries, everything(settings), given.deadline)
    sys.stdout.write(RECEIPTS.dump_json(tuple(receipts)).decode())
    sys.stdout.flush()
    # A thread may hang in a server that does not answer; a regular end would wait for it.
    os._exit(0)


def _test(settings: Settings, as_json: bool) -> None:
    if not targets(settings):
        raise ConfigError("no target is set; nothing was sent", WHAT_TO_SET)
    # Only a test asks the engine for the stack's name; the service delivers each message by a process of its own.
    from backup.app.alerts import send_test  # noqa: PLC0415
    from backup.app.composition import App  # noqa: PLC0415

    found = send_test(App(settings), base.COMMAND, _TEST_SECONDS)
    if as_json:
        base.print_json("receipts", receipts=found)
    else:
        base.print_lines(_outcome(receipt) for receipt in found)
        if settings.heartbeat_url:
            base.print_lines([f"{HEARTBEAT}\tnot tried: a call would report a verified backup"])
    if failed := [receipt.target for receipt in found if receipt.error]:
        raise NotDelivered(
            f"{plural(len(failed), 'target')} of {len(found)} did not accept the test message: {', '.join(failed)}",
            "Correct the setting or the service it names, then run `notify --test` again.",
        )


def _outcome(receipt: Receipt) -> str:
    if receipt.error:
        return f"{receipt.target}\tfailed after {receipt.seconds:.1f} s: {receipt.error}"
    return f"{receipt.target}\tdelivered in {receipt.seconds:.1f} s"


def _pending(settings: Settings, as_json: bool) -> None:
    memory = recall(settings.root)
    messages, held = memory.messages, memory.state.waiting
    if as_json:
        later = [{"kind": "held", "title": each.text, "created": each.since} for each in held]
        return base.print_json("messages", messages=[*messages, *later])
    base.print_lines(line for message in messages for line in _waiting(settings, message))
    return base.print_lines(
        f"{local_time(each.since, settings.zone, _SECONDS)}\theld back for the next message\t{printable(each.text)}"
        for each in held
    )


def _waiting(settings: Settings, message: Message) -> Sequence[str]:
    created = local_time(message.created, settings.zone, _SECONDS)
    lines = [f"{created}\t{message.kind}\t{printable(message.title)}"]
    for target, tries in refused(message).items():
        again, why = tries.next.astimezone(settings.zone), printable(tries.error)
        lines.append(f"\t{printable(target)}\tfailed {tries.count}×, next try {again:%H:%M:%S}: {why}")
    return lines
