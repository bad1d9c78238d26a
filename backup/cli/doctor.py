"""The command for the first hour: is all there that is needed?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from backup.app.doctor_checks import diagnose
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.set_tables import plain_table
from backup.formatting import plural
from backup.model.finding import Finding
from backup.operations.doctor import EXIT, worst
from backup.operations.doctor.settings import DEFAULT, Setting

_WORDS: Final = {"pass": "ok", "warn": "warning", "fail": "failed"}
_STYLES: Final = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_VERDICTS: Final = {
    "pass": "All is well.",
    "warn": "It works, with warnings.",
    "fail": "Something does not work: each failed line says what to do.",
}


def doctor(
    notify: Annotated[bool, typer.Option("--notify", help="Send a test message to every target of alerts.")] = False,
    offsite: Annotated[
        bool, typer.Option("--offsite", help="Put a small object into the bucket, get it back, try to delete it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check all that backups and restores need, and say how to fix what is wrong. Changes nothing.

    Ends with 0 if all is well, 60 after a warning, 61 if something does not work.

    Examples: `doctor`, `doctor --notify`, `doctor --offsite`, `doctor --json`.
    """
    settings = base.prepare_command(as_json)
    lines, given = diagnose(settings, base.COMMAND, notify=notify, put=offsite)
    if as_json:
        base.print_json("doctor", status=worst(lines), findings=lines, settings=given)
    else:
        base.show(lambda: doctor_page(lines, given), lambda: doctor_lines(lines, given), soft_wrap=False)
    raise typer.Exit(EXIT[worst(lines)])


def doctor_page(lines: Sequence[Finding], settings: Sequence[Setting]) -> RenderableType:
    """A table of the checks, one of the settings that are not defaults, and the verdict."""
    checks = plain_table(Column(no_wrap=True), Column(no_wrap=True), Column(ratio=1), header=False)
    before = ""
    for line in lines:
        style = _STYLES[line.level]
        text = Text(line.text)
        if line.hint:
            text.append(f"\n→ {line.hint}", style="bold")
        checks.add_row(Text(_WORDS[line.level], style=style), Text("" if line.topic == before else line.topic), text)
        before = line.topic
    table = plain_table(Column("setting", no_wrap=True), "value", "from")
    given = _given(settings)
    for each in given:
        table.add_row(Text(each.name), Text(each.value), Text(each.source))
    level = worst(lines)
    rest = f"{plural(len(settings) - len(given), 'other setting')} at the default; --json shows all"
    return Group(checks, Text(), table, Text(rest), Text(), Text(_VERDICTS[level], style=_STYLES[level]))


def doctor_lines(lines: Sequence[Finding], settings: Sequence[Setting]) -> list[str]:
    """The same for other programs' eyes: level, topic, text and hint by tabs; then settings, then the verdict."""
    rows = [f"{_WORDS[each.level]}\t{each.topic}\t{each.text}\t{each.hint}".rstrip() for each in lines]
    rows += [f"setting\t{each.name}\t{each.value}\t{each.source}" for each in _given(settings)]
    return [*rows, _VERDICTS[worst(lines)]]


def _given(settings: Sequence[Setting]) -> list[Setting]:
    return [each for each in settings if each.source != DEFAULT]
