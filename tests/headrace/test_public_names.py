from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from core.app import App
from core.settings import Settings

HEAVY = ("dramatiq", "fastapi", "openai", "rich", "sqlalchemy", "pydantic", "typer", "apscheduler")


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded by a fresh interpreter that ran `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(headrace.__file__).parents[1],
    )
    return set(ran.stdout.split())


def test_every_public_name_can_be_imported() -> None:
    for name in headrace.__all__:
        assert getattr(headrace, name).__name__ == name


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse(Path(headrace.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))

    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert seen == headrace._HOME  # the lazy table has no public form
    assert sorted(seen) == sorted(headrace.__all__) == sorted(dir(headrace))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no public name 'Supervisor'"):
        _ = headrace.Supervisor  # type: ignore[attr-defined]  # that it is missing is the point


def test_importing_the_package_loads_nothing_else() -> None:
    assert not modules_after("import headrace") & {*HEAVY, "core"}


def test_a_producer_loads_neither_the_web_framework_nor_the_broker() -> None:
    loaded = modules_after("from headrace import open_app, ChatCompletion, VideoGeneration, TaskClient")

    assert "sqlalchemy" in loaded
    assert not loaded & {"dramatiq", "fastapi", "starlette", "openai", "rich", "typer", "apscheduler"}


def test_the_example_of_the_contract_works(settings: Settings, app: App) -> None:
    from headrace import ChatCompletion, TaskNotFound, open_app  # noqa: PLC0415 (as a producer writes it)

    key_id = app.keys.create("producer").key_id
    chat = ChatCompletion(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])

    with open_app(settings) as opened:
        task = opened.tasks.enqueue(chat, owner=key_id)
        many = opened.tasks.enqueue_many([chat, chat], owner=key_id)
        assert opened.tasks.get(task.public_id)["state"] == "pending"
        assert opened.tasks.cancel(many[0].public_id, owner=key_id).took_effect
        with pytest.raises(TaskNotFound):
            opened.tasks.get(task.public_id, owner="somebody")
