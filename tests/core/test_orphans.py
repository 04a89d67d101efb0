from __future__ import annotations

import signal
import sys

import pytest

from core.orphans import TiedProcess
from tests.support.processes import is_running, processes_naming, python
from tests.support.waiting import wait_until

PARENT = """
import signal, sys
from core.orphans import TiedProcess
sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
child = TiedProcess(sleeper, death_signal=signal.SIGTERM, by_kernel=sys.argv[1] == "kernel")
print(child.pid, flush=True)
sys.stdin.read()
"""

KINDS = ["kernel", "watcher"] if sys.platform == "linux" else ["watcher"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_dies_with_a_parent_that_is_killed(kind: str) -> None:
    parent = python(PARENT, kind)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())

    assert is_running(child)

    parent.kill()
    parent.wait()

    wait_until(lambda: not is_running(child), 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_that_ends_leaves_no_watcher(kind: str) -> None:
    child = TiedProcess(["/bin/sh", "-c", "exit 3"], death_signal=signal.SIGKILL, by_kernel=kind == "kernel")

    assert child.wait(10) == 3

    assert not processes_naming(f"kill -{int(signal.SIGKILL)} {child.pid}")
