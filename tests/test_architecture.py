"""Imports point one way, each foreign library has one home, modules and functions stay small."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "backup").rglob("*.py"))
SHARED_NAMES = 15

# From the top to the ground. A module imports only from layers below its own.
LAYERS = [
    {"cli"},
    {"app", "service"},
    {"documents", "operations"},
    {"documents"},
    {"catalog", "monitoring"},
    {"config", "media", "postgres"},
    {"docker", "storage"},
    {"model", "pipeline"},
    # The ground: modules, no rooms.
    {"background", "logging", "progress"},
    {"errors", "formatting"},
]
HOMES = {
    "docker": {
        f"docker/{name}" for name in ("engine", "translate_errors", "helper", "throwaway_server", "recovery_server")
    },
    "requests": {"docker/translate_errors", "docker/helper"},
    "psycopg": {
        f"postgres/{name}"
        for name in (
            *("session", "inspect", "server", "admin", "swap", "login_lock", "availability", "row_counts"),
            *("name_resolution", "server_dependencies", "deferred_statements", "replication", "wal_slot"),
        )
    },
    "isal": {"pipeline/gzip"},
    "pyrage": {"pipeline/age"},
    "typer": {"cli"},
    "rich": {"cli"},
    "loguru": {"logging"},
    "apprise": {"monitoring/alerts/delivery"},
    "cronsim": {"model/schedule"},
    "jinja2": {"service/web/page"},
    "prometheus_client": {"service/web/metrics"},
    "starlette": {"service/web/app", "service/web/server"},
    "uvicorn": {"service/web/server"},
    "h11": {"service/web/server"},
    "boto3": {"storage/s3/client"},
    "botocore": {"storage/s3/client", "storage/s3/translate_errors"},
    "urllib3": {"storage/s3/client", "docker/translate_errors", "docker/helper"},
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
        if not other or other == own or layer(other) < 0:
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
    if relative(path).startswith(("cli/", "service/probe", "media/helper_main")):
        return
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "sys.exit", "exit", "os._exit"), f"{path}:{node.lineno} calls {called}"


def public(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_one_name_is_one_thing() -> None:
    """Public names that two rooms define. A commit lowers their number; fifteen are the aim."""
    homes = defaultdict[str, set[str]](set)
    for path in MODULES:
        for name in public(path):
            if not name.startswith("_"):
                homes[name].add(relative(path).split("/")[0])
    several = sorted(name for name, rooms in homes.items() if len(rooms) > 1)
    assert len(several) <= SHARED_NAMES, f"{len(several)} public names are of several rooms: {several}"
