"""Acme's task types: names, inputs and defaults. Producers, the web process and workers all import this module."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field

from core.task_types.spec import TaskInput, TaskSpec


class Translation(TaskInput):
    """Texts to translate, one after another."""

    task_type: ClassVar[str] = "acme.translation"

    model: str
    language: Annotated[str, Field(min_length=2, max_length=40)]
    texts: Annotated[list[str], Field(min_length=1, max_length=100)]


TASK_TYPES = [
    TaskSpec(
        name=Translation.task_type,
        input=Translation,
        handler="acme.handlers:translate",  # imported by workers only
        deadline=timedelta(minutes=30),
        max_attempts=5,
    )
]
