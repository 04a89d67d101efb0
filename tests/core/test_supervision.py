from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path

import pytest

from core.output import PrefixedOutput
from core.supervision import Backoff
from tests.support.processes import ROOT, is_running
from tests.support.waiting import wait_until

# Each test runs a supervisor in a process of its own, as in life; its children write what happens to them into a file.
SUPERVISOR = """
import json, logging, os, sys
from datetime import timedelta
from pathlib import Path
from core.output import PrefixedOutput
from core.supervision import Backoff, ChildSpec, Supervisor

log = Path(sys.argv[1])
options = json.loads(sys.argv[2])

def note(text):
    with log.open("a") as file:
        file.write(text + "\\n")

def ended(spec, pid, status):
    note(f"exit {spec.name} {pid} {status}")

children = [
    ChildSpec(
        name=name,
        argv=[sys.executable, "-u", "-c", code, str(log), name],
        stop_timeout=timedelta(seconds=options.get("timeout", 10)),
        stop_rank=rank,
    )
    for name, code, rank in options["children"]
]
output = PrefixedOutput(sys.stdout.buffer, [spec.name for spec in children]) if options.get("prefix") else None
backoff = Backoff(first=timedelta(seconds=0.05), most=timedelta(seconds=options.get("most", 1)))
supervisor = Supervisor(children, on_exit=ended, output=output, backoff=backoff)
note(f"supervisor {os.getpid()}")
sys.exit(supervisor.run())
"""

CHILD = """
import os, signal, sys
log, name = sys.argv[1:3]
def note(text):
    with open(log, "a") as file:
        file.write(f"{text} {name} {os.getpid()}\\n")
"""
OBEDIENT = CHILD + textwrap.dedent("""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    note("start")
    got = signal.sigwait([signal.SIGTERM, signal.SIGINT])
    note(signal.Signals(got).name)
    again = signal.sigtimedwait([signal.SIGTERM, signal.SIGINT], 0.3)
    if again:
        note("again")
    note("stop")
""")
DEAF = CHILD + 'signal.signal(signal.SIGTERM, signal.SIG_IGN); note("start")\nwhile True: signal.pause()'
SHORT_LIVED = CHILD + 'note("start"); os._exit(5)'
MISCONFIGURED = CHILD + 'note("start"); os._exit(2)'


class Supervised:
    """A supervisor in a process group of its own, and what its children noted."""

    def __init__(self, path: Path, children: list[tuple[str, str, int]], **options: object) -> None:
        self._log = path / "notes"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(self._log), json.dumps({"children": children, **options})],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def notes(self, word: str = "") -> list[str]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line for line in lines if line.startswith(word)]

    def started(self, name: str, times: int = 1) -> list[int]:
        """pids of a child's lives, once there were so many."""

        def enough() -> list[int]:
            pids = [int(line.split()[2]) for line in self.notes(f"start {name} ")]
            return pids if len(pids) >= times else []

        return wait_until(enough, 15, what=f"{times} starts of {name}")

    def ended(self) -> int:
        self.process.communicate(timeout=20)
        return self.process.returncode


Start = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Generator[Start]:
    """Start a supervisor over children given as (name, code, stop rank)."""
    begun: list[Supervised] = []

    def start(*children: tuple[str, str, int], **options: object) -> Supervised:
        begun.append(Supervised(tmp_path, list(children), **options))
        return begun[-1]

    yield start
    for supervised in begun:
        supervised.process.kill()
        supervised.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_group_stops_each_child_once_and_exits_0(supervise: Start, number: signal.Signals) -> None:
    supervised = supervise(("web", OBEDIENT, 0), ("worker", OBEDIENT, 1))
    supervised.started("web")
    supervised.started("worker")

    os.killpg(supervised.process.pid, number)

    assert supervised.ended() == 0
    assert len(supervised.notes("SIGTERM")) == 2
    assert not supervised.notes("again")
    assert not supervised.notes("SIGINT")


def test_children_are_started_in_order_and_stopped_by_rank(supervise: Start) -> None:
    supervised = supervise(("one", OBEDIENT, 1), ("two", OBEDIENT, 0))
    supervised.started("one")
    supervised.started("two")

    supervised.process.terminate()

    assert supervised.ended() == 0
    stops = [line.split()[:2] for line in supervised.notes() if line.startswith(("SIGTERM", "stop"))]
    assert stops == [["SIGTERM", "two"], ["stop", "two"], ["SIGTERM", "one"], ["stop", "one"]]


def test_a_killed_child_is_started_again_and_its_sibling_does_not_notice(supervise: Start) -> None:
    supervised = supervise(("web", OBEDIENT, 0), ("worker", OBEDIENT, 0))
    (web,) = supervised.started("web")
    (worker,) = supervised.started("worker")

    os.kill(worker, signal.SIGKILL)

    again = supervised.started("worker", times=2)
    assert again[0] != again[1]
    assert supervised.notes("exit") == [f"exit worker {worker} -9"]
    assert is_running(web)
    assert len(supervised.started("web")) == 1


def test_a_child_that_dies_at_once_is_started_ever_more_slowly(supervise: Start) -> None:
    supervised = supervise(("worker", SHORT_LIVED, 0), most=60)
    supervised.started("worker", times=4)

    supervised.process.terminate()

    assert supervised.ended() == 0
    assert len(supervised.notes("start")) < 10


def test_pauses_double_up_to_the_most() -> None:
    backoff = Backoff(first=timedelta(seconds=1), most=timedelta(seconds=30))

    for deaths, middle in ((1, 1), (2, 2), (4, 8), (6, 30), (1000, 30)):
        assert middle * 0.8 <= backoff.pause_s(deaths) <= middle * 1.2


def test_a_child_that_does_not_listen_is_killed_at_its_deadline(supervise: Start) -> None:
    supervised = supervise(("deaf", DEAF, 0), ("worker", OBEDIENT, 1), timeout=0.5)
    (deaf,) = supervised.started("deaf")
    supervised.started("worker")

    supervised.process.terminate()

    assert supervised.ended() == 0
    assert f"exit deaf {deaf} -9" in supervised.notes("exit")
    assert supervised.notes("stop worker")


def test_a_child_with_settings_that_cannot_work_ends_the_supervisor_with_2(supervise: Start) -> None:
    supervised = supervise(("web", OBEDIENT, 0), ("worker", MISCONFIGURED, 0))

    assert supervised.ended() == 2
    assert len(supervised.notes("start worker")) == 1


def test_a_program_that_does_not_exist_is_tried_again_and_stops_nobody(tmp_path: Path) -> None:
    code = """
import sys
from datetime import timedelta
from core.supervision import Backoff, ChildSpec, Supervisor
ticks = []
def tick():
    ticks.append(supervisor.pids())
    if len(ticks) == 3:
        supervisor.stop()
specs = [ChildSpec(name="none", argv=[sys.argv[1]]), ChildSpec(name="sleeper", argv=["/bin/sleep", "60"])]
fast = timedelta(seconds=0.05)
supervisor = Supervisor(specs, on_tick=tick, tick=timedelta(seconds=0.1), backoff=Backoff(first=fast, most=fast))
status = supervisor.run()
print(status, [list(pids) for pids in ticks])
"""
    words = [sys.executable, "-c", code, str(tmp_path / "none")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.strip() == "0 [['sleeper'], ['sleeper'], ['sleeper']]"


def test_kill_9_of_the_supervisor_leaves_no_child(supervise: Start) -> None:
    supervised = supervise(("web", OBEDIENT, 0), ("deaf", DEAF, 0))
    pids = [*supervised.started("web"), *supervised.started("deaf")]

    supervised.process.kill()

    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


def test_lines_of_children_carry_their_name_and_are_never_mixed(supervise: Start) -> None:
    talker = CHILD + 'for n in range(400): print(name, n, "x" * 200)\nnote("start"); signal.pause()'
    supervised = supervise(("web", talker, 0), ("scheduler", talker, 0), prefix=True, timeout=1)
    output: list[bytes] = []
    assert supervised.process.stdout is not None
    reader = threading.Thread(target=output.extend, args=(supervised.process.stdout,))
    reader.start()
    supervised.started("web")
    supervised.started("scheduler")

    supervised.process.terminate()
    supervised.process.wait(20)
    reader.join(10)

    expected = [f"{name:<9} | {name} {n} {'x' * 200}\n".encode() for name in ("web", "scheduler") for n in range(400)]
    assert sorted(output) == sorted(expected)


def test_a_child_goes_on_when_nobody_reads_our_output(supervise: Start) -> None:
    talker = CHILD + 'note("start")\nfor n in range(5000): print("x" * 100)\nnote("talked"); signal.pause()'
    supervised = supervise(("web", talker, 0), prefix=True, timeout=1)
    assert supervised.process.stdout is not None

    supervised.process.stdout.close()

    wait_until(lambda: supervised.notes("talked"), 15)


def test_an_endless_line_is_broken_and_not_kept_in_memory() -> None:
    shown = io.BytesIO()

    PrefixedOutput(shown, ["web"]).follow("web", io.BytesIO(b"y" * 40_000 + b"\nend"))

    lines = shown.getvalue().splitlines()
    assert [len(line) for line in lines] == [6 + 16_384, 6 + 16_384, 6 + 7_232, 6 + 3]
    assert lines[-1] == b"web | end"
