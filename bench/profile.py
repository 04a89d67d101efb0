"""Where a worker process spends a drain: samples of all its threads while it empties a queue, told as flat tables."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from bench.drain_tasks import COMPLETED
from bench.peer_environment import peer_environment
from bench.processes import ChildFailed, memory_mb
from bench.system import PAYLOAD, Servers, connect, noop_type, number, ready_worker
from headrace import open_app

SAMPLES_PER_S = 250
SHOWN = 40


@dataclass(slots=True)
class Samples:
    """Counts of samples that held the GIL: by thread, by innermost frame, and by frame anywhere in the stack."""

    total: int = 0
    threads: Counter[str] = field(default_factory=Counter[str])
    own: Counter[str] = field(default_factory=Counter[str])
    inclusive: Counter[str] = field(default_factory=Counter[str])


def run(servers: Servers, *, tasks: int, seconds: int, console: Console) -> None:
    """
    Raises:
        ChildFailed: the profiler could not attach (it may need the right to trace other processes).
    """
    settings = servers.fresh("bench_profile")
    noop = noop_type()
    with ready_worker(settings, servers.logs) as supervisor, connect(settings) as connection:
        family = memory_mb(supervisor.pid)
        worker_pid = max((pid for pid in family if pid != supervisor.pid), key=lambda pid: family[pid])
        with open_app(settings) as app:
            owner = app.keys.create(name="bench").key_id
            app.tasks.enqueue_many([noop.model_validate({"payload": PAYLOAD}) for _ in range(tasks)], owner=owner)
        raw = servers.logs / "profile.raw"
        argv = [str(peer_environment() / "py-spy"), "record", "--pid", str(worker_pid), "--output", str(raw)]
        argv += ["--format", "raw", "--duration", str(seconds), "--rate", str(SAMPLES_PER_S), "--threads", "--gil"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False, env=os.environ)
        if done.returncode != 0:
            raise ChildFailed(f"py-spy ended with {done.returncode}\n{done.stderr[-1_000:]}")
        finished = number(connection, COMPLETED)
    samples = read(raw.read_text().splitlines())
    share = samples.total / (seconds * SAMPLES_PER_S)
    console.print(f"{finished} of {tasks} tasks done; the GIL was held in {share:.0%} of the samples of {seconds} s")
    for title, counts in (("thread", samples.threads), ("own", samples.own), ("inclusive", samples.inclusive)):
        _show(console, title, counts, samples.total)


def read(lines: Iterable[str]) -> Samples:
    """Add up py-spy's raw form: `thread;outer;...;inner count` a line."""
    samples = Samples()
    for line in lines:
        stack, _, number_text = line.rpartition(" ")
        count, frames = int(number_text), stack.split(";")
        samples.total += count
        samples.threads[frames[0]] += count
        samples.own[frames[-1]] += count
        for frame in set(frames[1:]):
            samples.inclusive[frame] += count
    return samples


def _show(console: Console, title: str, counts: Counter[str], total: int) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("%", justify="right")
    table.add_column("where", no_wrap=True)
    for where, count in counts.most_common(SHOWN):
        table.add_row(f"{100 * count / total:.1f}", where)
    console.print(table)
