"""
How late a revocation takes effect: from the commit of a disable until the last of three processes has dropped its copy.

The processes keep the key in a cache of two tiers, as every process does; the clock is the machine's monotonic one,
which all processes share.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import Empty, Queue
from threading import Thread

import sqlalchemy as sa

from bench.figures import Report, percentile
from bench.processes import ChildFailed
from bench.system import CHECKOUT, Servers
from core.access.tables import virtual_keys
from core.app import App, open_app
from core.connections import autocommit
from core.events.access import KeysChanged
from core.settings import Settings, child_environment, load_settings

PROCESSES = 3
TARGET_MS = 50
_HEARD_S = 10.0
_PAUSE_S = 0.01  # between two disables: each meets processes that wait, as it would in life


def expect(report: Report) -> None:
    report.expect("invalidation_p99_ms", "<", TARGET_MS)


def run(servers: Servers, report: Report, *, rounds: int) -> None:
    settings = servers.fresh("bench_invalidation")
    heard: Queue[tuple[str, float]] = Queue()
    with open_app(settings) as app, ExitStack() as stack:
        for _ in range(PROCESSES):
            stack.enter_context(_process(settings, heard))
        for _ in range(PROCESSES):
            _next(heard)  # each says that it listens
        each: list[float] = []
        last: list[float] = []
        for _ in range(rounds):
            lags = _disable(app, heard)
            each.extend(lags)
            last.append(max(lags))
            # The length of the pause is the scenario.
            time.sleep(_PAUSE_S)
    for name, lags in (("invalidation", each), ("invalidation_last_process", last)):
        report.add(f"{name}_p50_ms", 1000 * percentile(lags, 0.5))
        report.add(f"{name}_p99_ms", 1000 * percentile(lags, 0.99))
        report.add(f"{name}_max_ms", 1000 * max(lags))


def _disable(app: App, heard: Queue[tuple[str, float]]) -> list[float]:
    """The lag of each process, seconds from the commit; relaying is part of it."""
    key_id = app.keys.create("bench").key_id
    app.access.changes.relay()
    for _ in range(PROCESSES):
        _next(heard)
    statement = virtual_keys.update().where(virtual_keys.c.key_id == key_id).values(disabled_at=sa.func.now())
    with autocommit(app.engine).connect() as connection:
        connection.execute(statement)
    committed_at = time.monotonic()
    app.access.changes.relay()
    lags: list[float] = []
    while len(lags) < PROCESSES:
        name, at = _next(heard)
        if name == f"{key_id}-2":
            lags.append(at - committed_at)
    return lags


def _next(heard: Queue[tuple[str, float]]) -> tuple[str, float]:
    try:
        return heard.get(timeout=_HEARD_S)
    except Empty:
        raise ChildFailed("a process did not hear of a change within 10 s") from None


@contextmanager
def _process(settings: Settings, heard: Queue[tuple[str, float]]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.invalidation"],
        env=child_environment(settings),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            name, at = line.split()
            heard.put((name, float(at)))

    Thread(target=read, daemon=True).start()
    try:
        yield
    finally:
        process.communicate()  # its end: nobody speaks to it any more


def main() -> None:
    """One of the processes: says what it heard, and when its copy was dropped."""
    with open_app(load_settings()) as app:

        def hear(change: KeysChanged) -> None:
            at = time.monotonic()
            for key in change.keys:
                sys.stdout.write(f"{key.key_id}-{key.version} {at}\n")
            sys.stdout.flush()

        app.access.watch.listen(KeysChanged, hear)
        app.access.watch.start()
        while not (app.access.watch.epoch() and app.access.watch.is_current()):
            time.sleep(0.01)
        sys.stdout.write(f"ready {time.monotonic()}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
