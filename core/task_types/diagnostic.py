"""`diagnostic.*`: tasks that do nothing, wait, fail, kill their worker or answer at length: for trials and tests."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from core.task_types.spec import TaskInput, TaskSpec

Times = Annotated[int, Field(ge=1)] | None


class DiagnosticNoop(TaskInput):
    """Completes at once with null. `payload` is carried and ignored."""

    task_type: ClassVar[str] = "diagnostic.noop"

    payload: str | None = None


class DiagnosticSleep(TaskInput):
    """Completes after `seconds`, showing its progress; can be cancelled at any time."""

    task_type: ClassVar[str] = "diagnostic.sleep"

    seconds: Annotated[float, Field(ge=0, le=86_400)]


class DiagnosticFail(TaskInput):
    """
    Fails its first `times` attempts, then completes.

    Args:
        times: None: every attempt.
        retryable: whether another attempt is worth it.
    """

    task_type: ClassVar[str] = "diagnostic.fail"

    message: Annotated[str, Field(max_length=500)] = "failed as asked"
    retryable: bool = True
    times: Times = None


class DiagnosticExit(TaskInput):
    """
    Ends the worker process in its first `times` attempts, without any clean-up; then completes.

    Args:
        code: the exit code of the process.
        times: None: every attempt.
    """

    task_type: ClassVar[str] = "diagnostic.exit"

    code: Annotated[int, Field(ge=0, le=255)] = 1
    times: Times = None


class DiagnosticResult(TaskInput):
    """Completes with a result of exactly `size_bytes` bytes of JSON (a text of x)."""

    task_type: ClassVar[str] = "diagnostic.result"

    size_bytes: Annotated[int, Field(ge=2, le=64 * 1024 * 1024)]


def _spec(model: type[TaskInput], function: str) -> TaskSpec:
    return TaskSpec(name=model.task_type, input=model, handler=f"workers.handlers.diagnostic:{function}")


SPECS = [
    _spec(DiagnosticNoop, "noop"),
    _spec(DiagnosticSleep, "sleep"),
    _spec(DiagnosticFail, "fail"),
    _spec(DiagnosticExit, "leave"),
    _spec(DiagnosticResult, "result"),
]
