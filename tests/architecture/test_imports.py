"""The laws of the tree: imports go one way, each library is at home in one place, nobody else reads the environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "headrace", "jobs", "web", "workers")
MAY_IMPORT = {
    "core": {"core"},
    "workers": {"core", "workers"},
    "jobs": {"core", "jobs"},
    "web": {"core", "web"},
    "headrace": {"core", "web", "jobs", "workers", "headrace"},
}
HOMES = {
    "dramatiq": ("workers",),
    "apscheduler": ("jobs",),
    "fastapi": ("web",),
    "starlette": ("web",),
    "uvicorn": ("web",),
    "typer": ("headrace",),
    "rich": ("headrace",),
    "openai": ("core/providers",),
    "genai_prices": ("core/capabilities",),
    "pickle": (),
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(top-level name, whether the import runs when the module is imported)."""
    tree = ast.parse(path.read_text())
    at_import = {id(node) for node in _module_level(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            yield name.partition(".")[0], id(node) in at_import


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.Try):
            yield from node.body


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_place_allows(path: Path) -> None:
    relative = path.relative_to(ROOT)
    package = relative.parts[0]
    for name, _ in imported(path):
        if name in PACKAGES:
            assert name in MAY_IMPORT[package], f"{relative} imports {name}"
        if name in HOMES:
            assert str(relative).startswith(HOMES[name]) if HOMES[name] else False, f"{relative} imports {name}"


@pytest.mark.parametrize("name", ["openai", "genai_prices"])
def test_what_costs_megabytes_is_never_imported_with_its_module(name: str) -> None:
    for path in sources():
        assert (name, True) not in set(imported(path)), f"{path} imports {name} when it is imported"


def test_only_the_settings_read_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in sources()
        if any(
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "getenv")
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert readers == ["core/settings.py"]


def test_no_source_file_is_longer_than_an_idea() -> None:
    long = {str(path.relative_to(ROOT)): n for path in sources() if (n := len(path.read_text().splitlines())) > 350}
    assert long == {}
