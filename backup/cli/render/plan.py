"""A restore's plan for people and for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backup.model.finding import Finding
from backup.operations.restore.plan import Plan


def plan_page(plan: Plan) -> RenderableType:
    """The plan on a terminal: sections, then warnings, then what forbids it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for number, section in enumerate(plan.sections):
        if number:
            table.add_row()
        table.add_row(Text(section.heading.upper(), style="bold"))
        for label, text in section.rows:
            table.add_row(Text(f"  {label}"), Text(text))
    blocks: list[RenderableType] = [table]
    blocks += [_finding("warning", each, "yellow") for each in plan.warnings]
    blocks += [_finding("refused", each, "bold red") for each in plan.refusals]
    return Group(*blocks)


def plan_lines(plan: Plan) -> list[str]:
    """The plan for a log or a pipe."""
    return list(_lines(plan))


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as `--json` prints it."""
    return {
        "possible": plan.possible,
        "sections": [{"heading": s.heading, "rows": [list(row) for row in s.rows]} for s in plan.sections],
        "warnings": [{"text": each.text, "hint": each.hint} for each in plan.warnings],
        "refusals": [{"text": each.text, "hint": each.hint} for each in plan.refusals],
        "needs": [asdict(need) for need in plan.needs],
    }


def _finding(word: str, finding: Finding, style: str) -> Text:
    return Text.assemble((f"\n{word}: ", style), finding.text, f"\n  {finding.hint}")


def _lines(plan: Plan) -> Iterator[str]:
    for section in plan.sections:
        yield section.heading
        yield from (f"  {label}: {text}" for label, text in section.rows)
    for word, findings in (("warning", plan.warnings), ("refused", plan.refusals)):
        for finding in findings:
            yield f"{word}: {finding.text}"
            yield f"  {finding.hint}"
