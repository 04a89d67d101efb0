"""Processes as the system shows them, and a Python process that does as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command_lines() -> dict[int, str]:
    """pid -> command line of every process but zombies."""
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["/bin/ps", "-axwwo", "pid=,stat=,args="], capture_output=True, text=True, check=True)
        rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
        return {int(row[0]): row[2] for row in rows if len(row) == 3 and not row[1].startswith("Z")}
    found: dict[int, str] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                words = (directory / "cmdline").read_bytes().split(b"\0")
                found[int(directory.name)] = " ".join(word.decode(errors="replace") for word in words)
    return found


def processes_naming(text: str) -> dict[int, str]:
    """pid -> command line of every other process whose command line holds `text`."""
    return {pid: line for pid, line in command_lines().items() if text in line and pid != os.getpid()}


def is_running(pid: int) -> bool:
    """Alive, and no zombie."""
    return pid in command_lines()


def python(code: str, *arguments: str, stdin: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    """Run code from the checkout; its stdin closes when the test ends."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )
