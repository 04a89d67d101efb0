"""
Child processes that are kept running, and ended in order.

Promised: a child that dies is started again (exponential backoff, back to the start once it stayed up); its siblings
do not notice. Each child has a session of its own, so Ctrl-C and signals to our process group reach only us, and each
child gets its stop signal once. Children die with us even when we are killed with SIGKILL. A second SIGTERM or SIGINT
within 5 s is the same one (platforms signal twice); a later one kills what is left.

`run` installs the signal handlers and must be called from the main thread; it is also the thread that forks, so that
the children's tie to this process holds (see `core/orphans.py`).
"""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import FrameType

from core.orphans import TiedProcess
from core.output import PrefixedOutput

logger = logging.getLogger(__name__)

SAME_SIGNAL_S = 5.0
MISCONFIGURED = 2  # exit status of a process whose settings cannot work: starting it again cannot help


def stop_signals() -> list[signal.Signals]:
    """What asks a process of ours to stop. SIGHUP (the terminal was closed) only when nohup did not switch it off."""
    stops = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stops.append(signal.SIGHUP)
    return stops


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """
    One child.

    Args:
        name: shown before its lines and in our log.
        env: its whole environment; None: ours.
        stop_timeout: from the stop signal to SIGKILL.
        stop_rank: lower ranks are stopped first; children of one rank together.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: timedelta = timedelta(seconds=20)
    stop_rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses between starts: `first`, doubled up to `most`, each with jitter; `first` again after `settled` alive."""

    first: timedelta = timedelta(seconds=0.25)
    most: timedelta = timedelta(seconds=30)
    settled: timedelta = timedelta(seconds=20)

    def pause_s(self, quick_deaths: int) -> float:
        """Args: quick_deaths: deaths in a row, this one included."""
        doubled = self.first.total_seconds() * 2.0 ** min(quick_deaths - 1, 30)
        return min(doubled, self.most.total_seconds()) * random.uniform(0.8, 1.2)  # noqa: S311 (jitter)


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: TiedProcess | None = None
    started_at: float = 0.0
    start_at: float | None = None  # when to start it next; None: it runs, or is to stay down
    quick_deaths: int = 0
    ever_settled: bool = False
    kill_at: float | None = None  # while it is stopping
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread])


@dataclass(frozen=True, slots=True)
class _Ended:
    child: _Child
    process: TiedProcess


@dataclass(frozen=True, slots=True)
class _Asked:
    """Somebody wants us to stop; `status` is what `run` is to return."""

    status: int
    at: float


class Supervisor:
    """
    Runs children until it is told to stop.

    Args:
        on_exit: told of every end of a child (also of those we stopped), from the thread that runs `run`.
        on_tick: called there about every `tick`, e.g. to look after something that is no child.
        output: where the children's lines go, with their names before them; None: they inherit our output.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        on_exit: Callable[[ChildSpec, int, int], None] | None = None,
        on_tick: Callable[[], None] | None = None,
        tick: timedelta = timedelta(seconds=1),
        output: PrefixedOutput | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._children = [_Child(spec) for spec in children]
        self._on_exit = on_exit
        self._on_tick = on_tick
        self._tick_s = tick.total_seconds()
        self._output = output
        self._backoff = backoff or Backoff()
        self._events: SimpleQueue[_Ended | _Asked] = SimpleQueue()

    def run(self) -> int:
        """
        Start the children in order and keep them running; returns after the last one was stopped.

        Returns:
            0 after a stop; 2 when a child ended with status 2 before it ever stayed up (its settings cannot work).
        """
        previous = {number: signal.signal(number, self._hear) for number in stop_signals()}
        status = 1  # whatever else ends this block is a fault of ours
        try:
            for child in self._children:
                self._start(child)
            status = self._keep_running()
        finally:
            try:
                self._stop_in_order()
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        return status

    def stop(self, status: int = 0) -> None:
        """Ask `run` to end; callable from any thread and from signal handlers."""
        self._events.put(_Asked(status, time.monotonic()))

    def pids(self) -> dict[str, int]:
        """The children that run now."""
        running = ((child.spec.name, child.process) for child in self._children)
        return {name: process.pid for name, process in running if process is not None}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.stop()

    def _start(self, child: _Child) -> None:
        spec = child.spec
        child.start_at = None
        child.started_at = time.monotonic()
        piped = self._output is not None
        try:
            process = TiedProcess(
                spec.argv,
                env=spec.env,
                # SIGKILL: only a killed supervisor comes to this, and leases cover its children's work.
                death_signal=signal.SIGKILL,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else None,
                stderr=subprocess.STDOUT if piped else None,
            )
        except OSError as error:  # no such program, or no memory for another process
            logger.error("child did not start", extra={"child": spec.name, "reason": str(error)})
            self._plan_restart(child)
            return
        child.process = process
        logger.debug("child started", extra={"child": spec.name, "child_pid": process.pid})
        child.threads = [threading.Thread(target=self._await_end, args=(child, process), daemon=True)]
        if self._output is not None and process.process.stdout is not None:
            reader = self._output.follow
            child.threads.append(threading.Thread(target=reader, args=(spec.name, process.process.stdout), daemon=True))
        for thread in child.threads:
            thread.start()

    def _await_end(self, child: _Child, process: TiedProcess) -> None:
        process.wait()
        self._events.put(_Ended(child, process))

    def _keep_running(self) -> int:
        next_tick = time.monotonic() + self._tick_s
        while True:
            match self._next_event(next_tick):
                case _Asked(status=status):
                    return status
                case _Ended(child=child, process=process):
                    returncode = self._note_end(child, process)
                    if returncode == MISCONFIGURED and not child.ever_settled:
                        logger.error("child cannot work with these settings", extra={"child": child.spec.name})
                        return MISCONFIGURED
                    self._plan_restart(child)
                    logger.warning(
                        "child ended",
                        extra={
                            "child": child.spec.name,
                            "child_pid": process.pid,
                            "status": returncode,
                            "restart_in_s": round((child.start_at or 0) - time.monotonic(), 2),
                        },
                    )
                case None:
                    pass
            now = time.monotonic()
            for child in self._children:
                if child.start_at is not None and child.start_at <= now:
                    self._start(child)
            if now >= next_tick:
                next_tick = now + self._tick_s
                if self._on_tick is not None:
                    self._on_tick()

    def _next_event(self, until: float) -> _Ended | _Asked | None:
        wake_at = min([until, *(child.start_at for child in self._children if child.start_at is not None)])
        try:
            return self._events.get(timeout=max(0.0, wake_at - time.monotonic()))
        except Empty:
            return None

    def _note_end(self, child: _Child, process: TiedProcess) -> int:
        returncode = process.wait()
        if child.process is process:
            child.process = None
        lived_s = time.monotonic() - child.started_at
        settled = lived_s >= self._backoff.settled.total_seconds()
        child.ever_settled = child.ever_settled or settled
        child.quick_deaths = 1 if settled else child.quick_deaths + 1
        if self._on_exit is not None:
            self._on_exit(child.spec, process.pid, returncode)
        return returncode

    def _plan_restart(self, child: _Child) -> None:
        child.quick_deaths = max(child.quick_deaths, 1)
        child.start_at = time.monotonic() + self._backoff.pause_s(child.quick_deaths)

    def _stop_in_order(self) -> None:
        began = time.monotonic()
        for child in self._children:
            child.start_at = None
        for rank in sorted({child.spec.stop_rank for child in self._children}):
            running = [child for child in self._children if child.spec.stop_rank == rank and child.process is not None]
            for child in running:
                if child.process is not None:
                    child.process.send_signal(child.spec.stop_signal)
                    child.kill_at = time.monotonic() + child.spec.stop_timeout.total_seconds()
            while any(child.process is not None for child in running):
                self._await_stopping(running, began)
        for child in self._children:
            for thread in child.threads:
                thread.join(1.0)  # the last lines of its output

    def _await_stopping(self, running: list[_Child], began: float) -> None:
        event = self._next_event(time.monotonic() + 0.1)
        now = time.monotonic()
        if isinstance(event, _Ended):
            self._note_end(event.child, event.process)
        impatient = isinstance(event, _Asked) and event.at - began > SAME_SIGNAL_S
        for child in running:
            late = child.kill_at is not None and now > child.kill_at
            if child.process is not None and (late or impatient):
                logger.warning("child killed", extra={"child": child.spec.name, "child_pid": child.process.pid})
                child.process.kill_group()
                child.kill_at = now + 5.0
