"""Imports point one way, each foreign library has one home, modules and functions stay small."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "backup").rglob("*.py"))

# From the top to the ground. A module imports only from layers below its own.
LAYERS = [
    {"cli"},
    {"wiring_doctor", "wiring_setup"},
    {"wiring_doctor_offsite"},
    {"wiring_age", "wiring_alerts", "wiring_restore", "wiring_offsite", "mediatree"},
    {"display", "wiring"},
    {"wiring_volume"},
    {"operations"},
    {"alerts", "web", "supervise", "probe"},
    {"trees", "elsewhere", "ledger", "offsite"},
    {"catalog", "records", "journal", "lock", "sources", "config"},
    {"settings", "engine", "database", "stores", "stream"},
    {"settings_offsite", "settings_age"},
    {"config_types"},
    {"overview"},
    {
        "retention",
        "plan",
        "notifyurl",
        "schedule",
        "health",
        "forecast",
        "restorepage",
        "progress",
        "log",
        "encryption",
    },
    {"sets"},
    {"manifest", "containers"},
    {"secretfile"},
    {"errors", "text"},
]
# Siblings and steps up that the design allows, each with its reason.
ALLOWED = {
    ("settings", "settings_age"): "a part of the settings in a module of its own",
    ("settings_age", "stream"): "a recipient is judged by the library that encrypts to it",
    ("lock", "stores"): "one translation of OSError",
    ("health", "records"): "the facts that health judges; data classes only",
    ("overview", "records"): "the facts that are told; data classes only",
    ("stream", "stores"): "an artifact is written into a staged file",
    ("database", "stream"): "one table of remedies for what PostgreSQL clients say",
}
HOMES = {
    "docker": {
        "engine/__init__",
        "engine/asking",
        "engine/helper",
        "engine/own",
        "engine/servers",
        "engine/application",
    },
    "requests": {"engine/asking", "engine/helper"},
    "psycopg": {
        f"database/{name}"
        for name in (
            *("session", "facts", "server", "admin", "exchange", "logins", "availability", "content", "rights"),
            *("name_resolution", "dependencies", "deferred"),
        )
    },
    "isal": {"stream/gzip"},
    "pyrage": {"stream/age"},
    "typer": {"cli"},
    "rich": {"cli", "display"},
    "loguru": {"log"},
    "apprise": {"alerts/deliver"},
    "cronsim": {"schedule"},
    "jinja2": {"web/page"},
    "prometheus_client": {"web/metrics"},
    "starlette": {"web/app", "web/server"},
    "uvicorn": {"web/server"},
    "h11": {"web/server"},
    "boto3": {"stores/s3/client"},
    "botocore": {"stores/s3/client", "stores/s3/words"},
    "urllib3": {"stores/s3/client", "engine/asking", "engine/helper"},
}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            if node.module == "backup" or node.module.startswith("backup."):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno


def room(dotted: str) -> str:
    return dotted.split(".")[1] if dotted.count(".") else ""


def layer(name: str) -> int:
    return next((number for number, names in enumerate(LAYERS) if name in names), -1)


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "backup").with_suffix("").as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    own = relative(path).split("/")[0]
    if own == "__init__":
        return
    assert layer(own) >= 0, f"{own} has no layer: give it one in LAYERS"
    for name, line in imports(path):
        other = room(name) if name.startswith("backup.") else ""
        if not other or other == own or layer(other) < 0 or (own, other) in ALLOWED:
            continue
        assert layer(other) > layer(own), f"{path}:{line}: {own} may not import {other}: it stands above or beside it"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_library_has_one_home(path: Path) -> None:
    for name, line in imports(path):
        homes = HOMES.get(name.split(".")[0])
        own = {relative(path), relative(path).split("/")[0]}
        assert homes is None or homes & own, f"{path}:{line}: {name} belongs in {homes}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_and_functions_are_small(path: Path) -> None:
    assert path.read_text().count("\n") <= 400, f"{path} is over 400 lines: is there a second thing inside?"
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= 50, f"{path}:{node.lineno}: {node.name} has {length} lines"


def test_the_package_keeps_its_budget() -> None:
    """A commit lowers the budget, or its message names what users get for the rise."""
    lines = sum(path.read_text().count("\n") for path in MODULES)
    budget = int((Path(__file__).parent / "budget.txt").read_text())
    assert lines <= budget, f"{lines} lines of package, {budget} in tests/budget.txt: which of them can leave?"
    assert lines > budget - 200, f"{lines} lines of package: tests/budget.txt can be lowered from {budget}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if relative(path).split("/")[0] in ("cli", "probe", "mediatree"):
        return
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "sys.exit", "exit", "os._exit"), f"{path}:{node.lineno} calls {called}"
