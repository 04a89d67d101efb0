"""
Task types of tests: they leave a trace in a file, block, park, misbehave. Given to workers by HEADRACE_TASK_MODULES.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from core.task_types.spec import TaskInput, TaskSpec
from tests.support.waiting import wait_until
from workers.context import HandlerContext, PollAgain, RetryableFailure, poll_again

MODULE = "tests.support.probe_tasks"


class Trace(TaskInput):
    """Write `begin` and `end` lines around `seconds`; `how`: "steps" (with ctx.check()), "block" or "spin"."""

    task_type: ClassVar[str] = "probe.trace"

    path: str
    seconds: float = 0.0
    how: str = "steps"


class AsyncTrace(TaskInput):
    """The same on the event loop; `how`: "await", or "deaf" (swallows its cancellation)."""

    task_type: ClassVar[str] = "probe.async_trace"

    path: str
    seconds: float = 0.0
    how: str = "await"


class Park(TaskInput):
    """Park `polls` times for `after_s`, counting in the poll state; then the count is the result."""

    task_type: ClassVar[str] = "probe.park"

    path: str
    polls: int = 1
    after_s: float = 0.1
    fail_poll: int | None = None


class Misbehave(TaskInput):
    """`what`: raise:NAME, return:NAME."""

    task_type: ClassVar[str] = "probe.misbehave"

    what: str


class KillThread(TaskInput):
    """End a thread of the worker process, on the first attempt only."""

    task_type: ClassVar[str] = "probe.kill_thread"

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a trace."""

    word: str
    task_id: str
    attempt: int
    pid: int
    at: float


def read_trace(path: Path) -> list[Line]:
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return [Line(word, task_id, int(attempt), int(pid), float(at)) for word, task_id, attempt, pid, at in lines]


def trace(input: Trace, ctx: HandlerContext) -> str:
    _write(input.path, "begin", ctx)
    until = time.monotonic() + input.seconds
    if input.how == "block":
        time.sleep(input.seconds)
    elif input.how == "spin":
        while time.monotonic() < until:
            pass
    else:
        while time.monotonic() < until:
            ctx.check()
            time.sleep(min(0.02, input.seconds))
    _write(input.path, "end", ctx)
    return "traced"


async def async_trace(input: AsyncTrace, ctx: HandlerContext) -> str:
    _write(input.path, "begin", ctx)
    try:
        await asyncio.sleep(input.seconds)
    except asyncio.CancelledError:
        _write(input.path, "cancelled", ctx)
        if input.how != "deaf":
            raise
        await asyncio.sleep(input.seconds)
    _write(input.path, "end", ctx)
    return "traced"


def park(input: Park, ctx: HandlerContext) -> PollAgain | dict[str, int]:
    _write(input.path, "poll" if ctx.poll_state else "begin", ctx)
    seen = 0 if ctx.poll_state is None else ctx.poll_state["seen"]
    if input.fail_poll is not None and seen == input.fail_poll:
        looks = sum(line.word == "poll" and line.task_id == ctx.task_id for line in read_trace(Path(input.path)))
        if looks == input.fail_poll:
            raise RetryableFailure("could not look", code="probe")
    if seen >= input.polls:
        return {"seen": seen, "attempt": ctx.attempt}
    ctx.progress(100 * seen / input.polls, f"looked {seen} times")
    return poll_again(timedelta(seconds=input.after_s), {"seen": seen + 1})


def misbehave(input: Misbehave, ctx: HandlerContext) -> Any:
    kind, _, name = input.what.partition(":")
    if kind == "raise":
        raise _RAISED[name]
    return _RETURNED[name]


def kill_thread(input: KillThread, ctx: HandlerContext) -> str:
    _write(input.path, "begin", ctx)
    if ctx.attempt == 1:
        # The process may still be starting the thread: a task can come before the last of them.
        victim = wait_until(lambda: _other_threads(input.name), 20, what=f"{input.name} runs")[0]
        while victim.is_alive():  # again: what it was doing may have caught the first
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(victim.ident or 0), ctypes.py_object(SystemExit))
            time.sleep(0.05)
        time.sleep(30)
    return "survived"


def _other_threads(name: str) -> list[threading.Thread]:
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return [thread for thread in others if name in (thread.name, type(thread).__name__)]


class OddBaseException(BaseException):
    """Nobody knows it."""


class Unreadable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text for you")


_RAISED: dict[str, BaseException] = {
    "value": ValueError("bad \x00 and \ud800 with hr_abcdefghijkl_" + "s" * 43 + "_abcdef"),
    "exit": SystemExit(3),
    "odd": OddBaseException("odd"),
    "unreadable": Unreadable(),
    "cancelled": asyncio.CancelledError(),
}
_RETURNED: dict[str, Any] = {
    "set": {1, 2},
    "big_int": {"n": 2**70, 1: "key"},
    "surrogate": "\ud83d",
    "nan": float("nan"),
    "park_badly": PollAgain("soon", {}),  # type: ignore[arg-type]  # what a careless handler returns
}


def _write(path: str, word: str, ctx: HandlerContext) -> None:
    line = f"{word} {ctx.task_id} {ctx.attempt} {os.getpid()} {time.time():.6f}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())  # one write of an appending file is never mixed with another's
    finally:
        os.close(descriptor)


def _spec(model: type[TaskInput], function: str) -> TaskSpec:
    return TaskSpec(name=model.task_type, input=model, handler=f"{MODULE}:{function}")


TASK_TYPES = [
    _spec(Trace, "trace"),
    _spec(AsyncTrace, "async_trace"),
    _spec(Park, "park"),
    _spec(Misbehave, "misbehave"),
    _spec(KillThread, "kill_thread"),
]
