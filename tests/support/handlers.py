"""A handler as the worker finds it: by the name in its spec."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from core.task_types.spec import TaskInput, TaskSpec
from workers.context import HandlerContext


def handler_of(spec: TaskSpec) -> Callable[[TaskInput, HandlerContext], Coroutine[Any, Any, Any]]:
    module, _, name = spec.handler.partition(":")
    function = getattr(importlib.import_module(module), name)

    async def call(input: TaskInput, ctx: HandlerContext) -> Any:
        outcome = function(input, ctx)
        return await outcome if inspect.isawaitable(outcome) else outcome

    return call
