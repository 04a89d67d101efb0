"""The handlers of this process's task types, imported and looked at once, when the worker starts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from core.app import App
from core.errors import Misconfigured
from core.task_types.spec import TaskInput, TaskSpec
from workers.context import HandlerContext


@dataclass(frozen=True, slots=True)
class Handler:
    """
    What runs a task of one type.

    Args:
        parse: the stored JSON to the input model; raises pydantic's ValidationError.
        call: the handler; for an `async def` it returns a coroutine.
    """

    type: str
    parse: Callable[[str], TaskInput]
    call: Callable[[Any, HandlerContext], Any]  # a handler takes its own model and returns any JSON value
    is_async: bool


def load_handlers(app: App) -> Mapping[str, Handler]:
    """
    Raises:
        Misconfigured: a handler cannot be imported, or is not a function.
    """
    return {spec.name: _load(spec, app) for spec in app.types.runnable}


def _load(spec: TaskSpec, app: App) -> Handler:
    module, _, name = spec.handler.partition(":")
    try:
        function: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Misconfigured(
            f"task type {spec.name}: its handler {spec.handler!r} cannot be imported: {error}"
        ) from error
    if not callable(function):
        raise Misconfigured(f"task type {spec.name}: its handler {spec.handler!r} is not a function")
    if spec.is_internal:
        function = function(app)
        if not callable(function):
            raise Misconfigured(f"task type {spec.name}: {spec.handler!r} makes no handler")
    return Handler(spec.name, spec.input.model_validate_json, function, iscoroutinefunction(function))
