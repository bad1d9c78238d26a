"""A restore's plan for people and for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backup.operations.restore.plan import Plan, Remark


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
    blocks += [_remark("warning", remark, "yellow") for remark in plan.warnings]
    blocks += [_remark("refused", remark, "bold red") for remark in plan.refusals]
    return Group(*blocks)


def plan_lines(plan: Plan) -> list[str]:
    """The plan for a log or a pipe."""
    return list(_lines(plan))


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as `--json` prints it."""
    return {
        "possible": plan.possible,
        "sections": [{"heading": s.heading, "rows": [list(row) for row in s.rows]} for s in plan.sections],
        "warnings": [asdict(remark) for remark in plan.warnings],
        "refusals": [asdict(remark) for remark in plan.refusals],
        "needs": [asdict(need) for need in plan.needs],
    }


def _remark(word: str, remark: Remark, style: str) -> Text:
    return Text.assemble((f"\n{word}: ", style), remark.text, f"\n  {remark.hint}")


def _lines(plan: Plan) -> Iterator[str]:
    for section in plan.sections:
        yield section.heading
        yield from (f"  {label}: {text}" for label, text in section.rows)
    for word, remarks in (("warning", plan.warnings), ("refused", plan.refusals)):
        for remark in remarks:
            yield f"{word}: {remark.text}"
            yield f"  {remark.hint}"
