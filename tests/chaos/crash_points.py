"""
A process that dies by SIGKILL at its k-th word to a server, before or after it takes effect.

Statements and commits to PostgreSQL and commands to Redis are counted at the drivers, so whatever our code sends is a
crash point. Without a point the run is counted and lives.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psycopg
import redis

from core.app import App, build_app
from core.settings import Settings

Scenario = Callable[[App, Callable[[object], None]], None]


@dataclass(frozen=True)
class Point:
    """The `number`-th call, counted from 1; `after`: it takes effect, and its answer is never seen."""

    number: int
    after: bool


class Counter:
    def __init__(self, point: Point | None) -> None:
        self.point = point
        self.number = 0
        self.lock = threading.Lock()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                self.number += 1
                mine = self.point is not None and self.number == self.point.number
            if mine and self.point is not None and not self.point.after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*args, **kwargs)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return counted


def _child(scenario: Scenario, settings: Settings, point: Point | None, pipe: Connection) -> None:
    app = build_app(settings)
    with app.engine.connect() as connection:  # connecting is not what is tried here
        connection.exec_driver_sql("SELECT 1")
    counter = Counter(point)
    for owner, name in ((psycopg.Cursor, "execute"), (psycopg.Connection, "commit"), (redis.Redis, "execute_command")):
        setattr(owner, name, counter.around(getattr(owner, name)))
    scenario(app, pipe.send)
    pipe.send(("calls", counter.number))


@dataclass(frozen=True)
class Run:
    """`said`: what the scenario told before it died; `calls`: how many there were, None when it was killed."""

    said: list[object]
    calls: int | None
    killed: bool


_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["core.app", "core.tasks.writer", "tests.chaos.crash_points"])


def run(scenario: Scenario, settings: Settings, point: Point | None) -> Run:
    ours, theirs = _forkserver.Pipe()
    process = _forkserver.Process(target=_child, args=(scenario, settings, point, theirs))
    process.start()
    theirs.close()
    said: list[object] = []
    calls: int | None = None
    try:
        while True:
            word: object = ours.recv()
            match word:
                case ("calls", int(number)):
                    calls = number
                case _:
                    said.append(word)
    except EOFError:
        process.join(10)
    return Run(said, calls, killed=process.exitcode == -signal.SIGKILL)
