"""
Child processes of a run: tied to this one, always ended, and weighed.

A child's output goes to a file; its end is shown when the child fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.orphans import TiedProcess

STOP_S = 30.0


class ChildFailed(Exception):
    """A child ended, or did not become ready in time; the message holds the end of its output."""


class Child:
    """A running child process."""

    def __init__(self, process: TiedProcess, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, condition: Callable[[], bool], *, what: str, timeout_s: float = 60.0) -> None:
        """
        Raises:
            ChildFailed: the child ended or the time passed before `condition` held.
        """
        give_up = time.monotonic() + timeout_s
        while not condition():
            self.check()
            if time.monotonic() > give_up:
                raise ChildFailed(f"{what}: not within {timeout_s:g} s\n{self.tail()}")
            time.sleep(0.02)

    def check(self) -> None:
        """
        Raises:
            ChildFailed: the child has ended.
        """
        code = self.process.poll()
        if code is not None:
            raise ChildFailed(f"{self.log.stem} ended with {code}\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2_000:]


@contextmanager
def running(name: str, argv: Sequence[str], *, env: Mapping[str, str], logs: Path) -> Iterator[Child]:
    """Run a child for the length of the block; SIGTERM to it at the end, SIGKILL to its group if it stays."""
    log = logs / f"{name}.log"
    with log.open("wb") as out:
        process = TiedProcess(
            argv, death_signal=signal.SIGTERM, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield Child(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill_group()
            process.wait()
        _end_group(process.pid)


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody was left behind


def output_of(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout_s: float = 300,
    given: str | None = None,
) -> str:
    """
    Run to the end and return what was printed.

    Args:
        given: on its standard input.

    Raises:
        ChildFailed: exit code other than 0.
    """
    done = subprocess.run(
        list(argv), env=dict(env), cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False, input=given
    )
    if done.returncode != 0:
        raise ChildFailed(f"{' '.join(argv[:4])} ended with {done.returncode}\n{done.stderr[-2_000:]}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def memory_mb(root: int) -> dict[int, float]:
    """Resident memory in MB (10**6 bytes) of a process and all its descendants, by pid, as `ps` tells it."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True).stdout
    rows = [[int(word) for word in line.split()] for line in listing.splitlines()]
    family = {root}
    for _ in rows:  # as deep as there are processes, at most
        grown = family | {pid for pid, parent, _ in rows if parent in family}
        if grown == family:
            break
        family = grown
    return {pid: kib * 1024 / 1e6 for pid, _, kib in rows if pid in family}
