"""The import graph points one way: tools -> engine -> {methods, pipelines} -> shards."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "shards": {"shards"},
    "methods": {"methods"},
    "pipelines": {"pipelines", "shards"},
    "engine": {"engine", "methods", "pipelines", "shards"},
    "tools": {"tools", "engine", "methods", "pipelines", "shards"},
}
# A heavy dependency enters by one door, and some rooms know nothing of it.
DOORS = {
    "nvidia": {
        "pipelines/executors/dali/kernel_graph.py",
        "pipelines/executors/dali/operator_graph.py",
        "tools/bench/random_graph.py",
    },
    "deepspeed": {"engine/zero.py"},
    "timm": {"engine/backbones.py"},
}
FORBIDDEN = {
    "shards": {"torch"},
    "methods": {"timm", "nvidia", "deepspeed", "pathlib", "os", "pydantic", "yaml"},
}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


@cache
def imported_names(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the absolute import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def test_there_are_files_to_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    names = imported_names(path)
    bare = {name for name in names if name.split(".")[0] in MAY_IMPORT}
    assert not bare, f"import {bare} as viewmill.*, or the module loads twice"
    rooms = {name.split(".")[1] for name in names if name.startswith("viewmill.")}
    assert rooms <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_dependencies_enter_by_their_door(path: Path) -> None:
    place = path.relative_to(ROOT)
    tops = {name.split(".")[0] for name in imported_names(path)}
    for package, doors in DOORS.items():
        assert package not in tops or str(place) in doors, f"{place} imports {package}; its door is {doors}"
    assert not tops & FORBIDDEN.get(place.parts[0], set())
