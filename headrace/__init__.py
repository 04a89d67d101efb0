"""
The public names: everything a producer needs, and nothing else.

    from headrace import ChatCompletion, open_app

Importing this module costs nothing; a name is loaded when it is first used. Names that are not here may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.app import App as App
    from core.app import open_app as open_app
    from core.errors import Conflict as Conflict
    from core.errors import HeadraceError as HeadraceError
    from core.errors import IdempotencyMismatch as IdempotencyMismatch
    from core.errors import InvalidRequest as InvalidRequest
    from core.errors import Misconfigured as Misconfigured
    from core.errors import NotFound as NotFound
    from core.errors import StoreUnavailable as StoreUnavailable
    from core.errors import TaskIsFinal as TaskIsFinal
    from core.errors import TaskNotFound as TaskNotFound
    from core.errors import TaskNotRetryable as TaskNotRetryable
    from core.errors import Unavailable as Unavailable
    from core.errors import UnknownQueue as UnknownQueue
    from core.errors import UnknownTaskType as UnknownTaskType
    from core.settings import Settings as Settings
    from core.settings import load_settings as load_settings
    from core.task_types.chat_completion import ChatCompletion as ChatCompletion
    from core.task_types.embedding import Embedding as Embedding
    from core.task_types.image_generation import ImageGeneration as ImageGeneration
    from core.task_types.spec import TaskInput as TaskInput
    from core.task_types.spec import TaskSpec as TaskSpec
    from core.task_types.video_generation import VideoGeneration as VideoGeneration
    from core.tasks.client import TaskClient as TaskClient
    from core.tasks.validation import TaskOptions as TaskOptions

__all__ = [
    "App",
    "ChatCompletion",
    "Conflict",
    "Embedding",
    "HeadraceError",
    "IdempotencyMismatch",
    "ImageGeneration",
    "InvalidRequest",
    "Misconfigured",
    "NotFound",
    "Settings",
    "StoreUnavailable",
    "TaskClient",
    "TaskInput",
    "TaskIsFinal",
    "TaskNotFound",
    "TaskNotRetryable",
    "TaskOptions",
    "TaskSpec",
    "Unavailable",
    "UnknownQueue",
    "UnknownTaskType",
    "VideoGeneration",
    "load_settings",
    "open_app",
]

_HOME = {
    "App": "core.app",
    "ChatCompletion": "core.task_types.chat_completion",
    "Conflict": "core.errors",
    "Embedding": "core.task_types.embedding",
    "HeadraceError": "core.errors",
    "IdempotencyMismatch": "core.errors",
    "ImageGeneration": "core.task_types.image_generation",
    "InvalidRequest": "core.errors",
    "Misconfigured": "core.errors",
    "NotFound": "core.errors",
    "Settings": "core.settings",
    "StoreUnavailable": "core.errors",
    "TaskClient": "core.tasks.client",
    "TaskInput": "core.task_types.spec",
    "TaskIsFinal": "core.errors",
    "TaskNotFound": "core.errors",
    "TaskNotRetryable": "core.errors",
    "TaskOptions": "core.tasks.validation",
    "TaskSpec": "core.task_types.spec",
    "Unavailable": "core.errors",
    "UnknownQueue": "core.errors",
    "UnknownTaskType": "core.errors",
    "VideoGeneration": "core.task_types.video_generation",
    "load_settings": "core.settings",
    "open_app": "core.app",
}


if not TYPE_CHECKING:  # else every misspelt name would pass a type checker

    def __getattr__(name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module 'headrace' has no public name {name!r}")
        value: object = getattr(import_module(home), name)
        globals()[name] = value  # the next use is an ordinary attribute
        return value


def __dir__() -> list[str]:
    return list(__all__)
