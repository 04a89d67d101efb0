"""The example of docs/task-types.md, run through its handler."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.errors import InvalidRequest, Misconfigured
from core.providers.openai_compatible import Provider
from core.task_types.spec import TaskTypes, load_task_types
from core.tasks.validation import validate_input
from core.testing import FakeProvider, Fault
from tests.support.contexts import LocalContext
from tests.support.handlers import handler_of
from workers.context import RetryableFailure

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
INPUT = {"model": "m", "language": "French", "texts": ["good morning", "good night"]}


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> TaskTypes:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return load_task_types(modules=("acme.tasks",))


def test_example_does_its_work_and_shows_its_progress(types: TaskTypes) -> None:
    spec = types.get("acme.translation")
    with FakeProvider() as fake:
        ctx = LocalContext(Provider(fake.url, None))

        result = asyncio.run(handler_of(spec)(validate_input(spec, INPUT), ctx))

        keys = [call.headers["idempotency-key"] for call in fake.calls]
    assert result == {"texts": ["GOOD MORNING", "GOOD NIGHT"]}
    assert ctx.shown == [(0, "text 1 of 2"), (50, "text 2 of 2")]
    assert keys == [f"{ctx.task_id}-0", f"{ctx.task_id}-1"]


def test_failure_of_the_provider_reaches_the_retry_decision(types: TaskTypes) -> None:
    spec = types.get("acme.translation")
    with FakeProvider() as fake:
        fake.fail("/chat", Fault(status=503))

        with pytest.raises(RetryableFailure):
            asyncio.run(handler_of(spec)(validate_input(spec, INPUT), LocalContext(Provider(fake.url, None))))


def test_bad_input_names_the_field(types: TaskTypes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_input(types.get("acme.translation"), {**INPUT, "texts": ["a", 1]})

    assert caught.value.field == "input.texts[1]"


def test_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(Misconfigured, match="no_such_module"):
        load_task_types(modules=("no_such_module",))
