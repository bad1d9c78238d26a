"""Imports point one way, each foreign library has one home, modules and functions stay small."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

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
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


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


def none(offences: Iterable[str]) -> None:
    """A rule holds for every module; all that break it are told at once."""
    found = list(offences)
    assert not found, "\n".join(["", *found])


def pointing_up(path: Path) -> Iterator[str]:
    own = relative(path).split("/")[0]
    if own == "__init__":
        return
    if layer(own) < 0:
        yield f"{own} has no layer: give it one in LAYERS"
    for name, line in imports(path):
        other = room(name) if name.startswith("backup.") else ""
        if other and other != own and 0 <= layer(other) <= layer(own):
            yield f"{path}:{line}: {own} may not import {other}: it stands above or beside it"


def test_imports_point_down() -> None:
    none(each for path in MODULES for each in pointing_up(path))


def far_from_home(path: Path) -> Iterator[str]:
    own = {relative(path), relative(path).split("/")[0]}
    for name, line in imports(path):
        homes = HOMES.get(name.split(".")[0])
        if homes is not None and not homes & own:
            yield f"{path}:{line}: {name} belongs in {homes}"


def test_each_library_has_one_home() -> None:
    none(each for path in MODULES for each in far_from_home(path))


def too_long(path: Path) -> Iterator[str]:
    if path.read_text().count("\n") > 400:
        yield f"{path} is over 400 lines: is there a second thing inside?"
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno) > 50:
            yield f"{path}:{node.lineno}: {node.name} has {length} lines"


def test_modules_and_functions_are_small() -> None:
    none(each for path in MODULES for each in too_long(path))


def test_the_package_keeps_its_budget() -> None:
    """A commit lowers the budget, or its message names what users get for the rise."""
    lines = sum(path.read_text().count("\n") for path in MODULES)
    budget = int((Path(__file__).parent / "budget.txt").read_text())
    assert lines <= budget, f"{lines} lines of package, {budget} in tests/budget.txt: which of them can leave?"
    assert lines > budget - 200, f"{lines} lines of package: tests/budget.txt can be lowered from {budget}"


def printing(path: Path) -> Iterator[str]:
    if relative(path).startswith(("cli/", "service/probe", "media/helper_main")):
        return
    for node in nodes(path):
        # What is called by a name, or by one of a module.
        if isinstance(node, ast.Call) and isinstance(getattr(node.func, "value", node.func), ast.Name):
            called = ast.unparse(node.func)
            if called in ("print", "sys.exit", "exit", "os._exit"):
                yield f"{path}:{node.lineno} calls {called}"


def test_only_the_command_line_prints_and_exits() -> None:
    none(each for path in MODULES for each in printing(path))


def public(path: Path) -> Iterator[str]:
    for node in tree(path).body:
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
