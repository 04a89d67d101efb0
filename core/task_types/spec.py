"""
What a task type is, and the set of those this process knows.

A type is a name, a pydantic model of its input and a few defaults. Producers need no more than that;
the worker adds a handler by `handler` = "module:function", imported when the worker starts.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, cast

from pydantic import BaseModel, ConfigDict

from core.errors import Misconfigured, UnknownTaskType
from core.tasks.model import DEFAULT_MAX_ATTEMPTS


class TaskInput(BaseModel):
    """
    The input of one task type. Subclasses name their type: `task_type = "chat.completion"`.

    Unknown fields are refused, so that a typo is told and not ignored.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    task_type: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """
    One task type.

    Args:
        name: dotted lower-case words, e.g. `chat.completion`.
        input: the model that validates `input`.
        handler: "package.module:function", imported only by workers.
        deadline: default of `deadline_s`.
        max_attempts: default of `max_attempts`.
        is_internal: made by Headrace itself only; to producers there is no such type. `handler` then names a function
            that makes the handler from the App.
    """

    name: str
    input: type[TaskInput]
    handler: str
    deadline: timedelta = timedelta(seconds=600)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    is_internal: bool = False


class TaskTypes:
    """The types this process knows; looked up by name. Producers see all but the internal ones."""

    def __init__(self, specs: Iterable[TaskSpec]) -> None:
        self._specs: dict[str, TaskSpec] = {}
        self._internal: dict[str, TaskSpec] = {}
        for spec in specs:
            if spec.name in self._specs or spec.name in self._internal:
                raise Misconfigured(f"task type {spec.name!r} is declared twice; rename one of them")
            (self._internal if spec.is_internal else self._specs)[spec.name] = spec

    def __iter__(self) -> Iterator[TaskSpec]:
        return iter(self._specs.values())

    @property
    def runnable(self) -> list[TaskSpec]:
        """What workers run: the internal types too."""
        return [*self._specs.values(), *self._internal.values()]

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def get(self, name: str) -> TaskSpec:
        """
        Raises:
            UnknownTaskType: names the types there are.
        """
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(sorted(self._specs))
            raise UnknownTaskType(f"unknown task type {name!r}; this server knows: {known}", field="type") from None


BUILT_IN = ("chat_completion", "embedding", "image_generation", "video_generation", "capability_discovery")


def load_task_types(*, modules: tuple[str, ...] = (), diagnostics: bool = False) -> TaskTypes:
    """
    The built-in types, the diagnostic ones if wanted, and those of the user's modules.

    A user's module declares `TASK_TYPES: list[TaskSpec]`.

    Raises:
        Misconfigured: a module cannot be imported or declares none.
    """
    specs: list[TaskSpec] = [importlib.import_module(f"core.task_types.{name}").SPEC for name in BUILT_IN]
    if diagnostics:
        specs.extend(importlib.import_module("core.task_types.diagnostic").SPECS)
    for name in modules:
        specs.extend(_declared_in(name))
    return TaskTypes(specs)


def _declared_in(name: str) -> list[TaskSpec]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise Misconfigured(f"HEADRACE_TASK_MODULES: cannot import {name!r}: {error}") from error
    specs: object = getattr(module, "TASK_TYPES", None)
    found = cast("list[object]", specs) if isinstance(specs, list) else [None]
    declared = [spec for spec in found if isinstance(spec, TaskSpec)]
    if len(declared) != len(found):
        raise Misconfigured(f"HEADRACE_TASK_MODULES: {name!r} must declare TASK_TYPES, a list of TaskSpec")
    return declared
