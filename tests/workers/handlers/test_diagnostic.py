from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from core.task_types.diagnostic import (
    DiagnosticExit,
    DiagnosticFail,
    DiagnosticNoop,
    DiagnosticResult,
    DiagnosticSleep,
)
from core.task_types.spec import TaskInput, load_task_types
from tests.support.contexts import LocalContext
from tests.support.handlers import handler_of
from workers.context import PermanentFailure, RawJson, RetryableFailure

ROOT = Path(__file__).parents[3]
TYPES = load_task_types(diagnostics=True)


def run(input: TaskInput, ctx: LocalContext | None = None) -> object:
    return asyncio.run(handler_of(TYPES.get(input.task_type))(input, ctx or LocalContext()))


def test_noop_ignores_its_payload() -> None:
    assert run(DiagnosticNoop(payload="x" * 200)) is None


def test_sleep_shows_its_progress() -> None:
    ctx = LocalContext()

    assert run(DiagnosticSleep(seconds=1.2), ctx) == {"slept_s": 1.2}

    shown = [percent for percent, _ in ctx.shown if percent is not None]
    assert shown == sorted(shown)
    assert len(shown) >= 2


def test_fail_fails_the_attempts_it_was_told_to() -> None:
    twice = DiagnosticFail(message="no", times=2)

    for attempt in (1, 2):
        with pytest.raises(RetryableFailure, match="no"):
            run(twice, LocalContext(attempt=attempt))
    assert run(twice, LocalContext(attempt=3)) == {"attempt": 3}


def test_fail_without_times_fails_always() -> None:
    with pytest.raises(PermanentFailure):
        run(DiagnosticFail(retryable=False), LocalContext(attempt=99))


def test_exit_ends_the_process_with_its_code() -> None:
    program = (
        "from core.task_types.diagnostic import DiagnosticExit\n"
        "from tests.support.contexts import LocalContext\n"
        "from workers.handlers.diagnostic import leave\n"
        "try:\n    leave(DiagnosticExit(code=7, times=1), LocalContext())\n"
        "finally:\n    print('cleaned up')\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False, cwd=ROOT)

    assert (ended.returncode, ended.stdout) == (7, b"")


def test_exit_completes_once_its_times_are_over() -> None:
    assert run(DiagnosticExit(times=1), LocalContext(attempt=2)) == {"attempt": 2}


def test_result_has_the_size_asked_for() -> None:
    result = run(DiagnosticResult(size_bytes=1024))

    assert isinstance(result, RawJson)
    assert len(result.text) == 1024
