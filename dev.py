#!/usr/bin/env python3
"""
Every development command, on a machine that has only Python 3.11 or newer.

    python3 dev.py demo [ARGS]        run a mixed batch of tasks on servers of its own
    python3 dev.py test [ARGS]        the tests, in several processes; ARGS go to pytest (-n 0: in one)
    python3 dev.py check              ruff, mypy, pyright
    python3 dev.py bench NAME [ARGS]  a benchmark, e.g. tasks
    python3 dev.py run -- CMD [ARGS]  any command in the project's environment
    python3 dev.py setup              only make the environment

The environment is `.venv` beside this file, made from requirements-dev.txt (locked by hash) at the first command and
again whenever the lock or the Python changes. With `uv` on PATH it takes seconds, with pip about a minute.
Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from typing import IO

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOCK = os.path.join(ROOT, "requirements-dev.txt")
STAMP = os.path.join(VENV, "headrace-setup")
MEMORY = "/dev/shm"  # on Linux a file system in memory
MEMORY_BYTES = 4 << 30  # the tests use at most a quarter of it; kept files of failed runs and other programs the rest
SETUP_VERSION = "1"  # raise it when the steps below change: every environment is then made again


def main(arguments: list[str]) -> int:
    if sys.version_info < OLDEST:
        return fail(f"Headrace needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")
    if os.name != "posix":
        return fail("Headrace runs on Linux and macOS (on Windows: in WSL)")
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command not in COMMANDS:
        print(__doc__.strip(), file=sys.stderr)
        return 0 if command in ("-h", "--help", "help") else 2
    if not make_environment():
        return 1
    return COMMANDS[command](rest)


def demo(rest: list[str]) -> int:
    os.chdir(ROOT)
    return replace([PYTHON, "-m", "headrace.cli.main", "demo", *rest])


def test(rest: list[str]) -> int:
    """In memory where there is room: each test makes and drops a database, which a disk makes slow."""
    os.chdir(ROOT)
    more = {"PYTEST_DEBUG_TEMPROOT": MEMORY} if memory_has_room() else {}
    return replace([PYTHON, "-m", "pytest", *rest], environ=more | environment())


def memory_has_room() -> bool:
    if not os.path.ismount(MEMORY) or not os.access(MEMORY, os.W_OK):
        return False
    system = os.statvfs(MEMORY)
    runs_programs = not system.f_flag & getattr(os, "ST_NOEXEC", 0)  # tests write programs and run them
    return runs_programs and system.f_bavail * system.f_frsize >= MEMORY_BYTES


def check(rest: list[str]) -> int:
    """All four side by side, also when one fails; what they say comes in order, the names of those that failed last."""
    os.chdir(ROOT)
    steps = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pyright"],
    ]
    failed = []
    with contextlib.ExitStack() as stack:
        running = [(step, *start_step([*step, *rest], stack)) for step in steps]
        for step, process, output in running:
            say("check: " + " ".join(step))
            if process.wait() != 0:
                failed.append(" ".join(step))
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout)
            sys.stdout.flush()
    say("check: failed: " + ", ".join(failed) if failed else "check: all passed")
    return 1 if failed else 0


def start_step(words: list[str], stack: contextlib.ExitStack) -> tuple[subprocess.Popen[bytes], IO[str]]:
    """Start a program of the environment; with the file that takes what it says, so that no pipe can fill up."""
    output = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))  # noqa: SIM115 (the caller's stack closes it)
    argv = [os.path.join(VENV, "bin", words[0]), *words[1:]]
    process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=environment())
    return stack.enter_context(process), output


def bench(rest: list[str]) -> int:
    if not rest:
        return fail("usage: python3 dev.py bench NAME [ARGS], e.g. bench tasks")
    os.chdir(ROOT)
    return replace([PYTHON, "-m", "bench", *rest])


def run(rest: list[str]) -> int:
    words = rest[1:] if rest[:1] == ["--"] else rest
    if not words:
        return fail("usage: python3 dev.py run -- CMD [ARGS]")
    program = shutil.which(words[0], path=environment()["PATH"])
    if program is None:
        say(f"dev.py: {words[0]}: command not found")
        return 127
    return replace([program, *words[1:]], shown=words[0])


def setup(rest: list[str]) -> int:
    say("environment ready: " + VENV)
    return 0


COMMANDS = {"demo": demo, "test": test, "check": check, "bench": bench, "run": run, "setup": setup}


def replace(argv: list[str], shown: str | None = None, environ: dict[str, str] | None = None) -> int:
    """Become the command, so that signals and the exit status are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], [shown or argv[0], *argv[1:]], environ or environment())


def environment() -> dict[str, str]:
    """Ours with the environment's programs first, as if it were activated."""
    environ = dict(os.environ)
    environ.pop("PYTHONHOME", None)
    environ["VIRTUAL_ENV"] = VENV
    environ["PATH"] = os.path.join(VENV, "bin") + os.pathsep + environ.get("PATH", os.defpath)
    return environ


def make_environment() -> bool:
    """Make `.venv` unless it is what the lock asks for. Two at once: the second waits, then finds it made."""
    wanted = fingerprint()
    if read(STAMP) == wanted:
        return True
    import fcntl  # noqa: PLC0415 (not on Windows, where the message above is shown instead)

    with open(os.path.join(ROOT, "dev.py"), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another dev.py to finish the environment")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if read(STAMP) == wanted:
            return True
        uv = shutil.which("uv")
        say(f"making {VENV} with {'uv' if uv else 'pip'}; this happens once")
        try:
            install_with_uv(uv) if uv else install_with_pip()
            install_project()
        except NoVenv:
            return not fail(
                "this Python has no venv: install python3-venv (on Debian and Ubuntu: apt install python3-venv), "
                "or install uv and put it on PATH, then run this again"
            )
        except subprocess.CalledProcessError as error:
            return not fail(f"could not make the environment: {error.cmd[0]} ended with {error.returncode}")
        with open(STAMP + ".new", "w", encoding="ascii") as file:
            file.write(wanted)
        os.replace(STAMP + ".new", STAMP)  # last of all: a half-made environment has no stamp
    return True


def fingerprint() -> str:
    """What the environment depends on: the lock, the Python, and where it lies (its scripts hold that path)."""
    with open(LOCK, "rb") as file:
        digest = hashlib.sha256(file.read())
    for part in (sys.version, os.path.realpath(sys.executable), ROOT, SETUP_VERSION):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()


class NoVenv(Exception):
    """This Python was packaged without `venv` or `ensurepip`."""


def install_with_uv(uv: str) -> None:
    quietly([uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, VENV])
    quietly([uv, "pip", "sync", "--quiet", "--python", PYTHON, "--require-hashes", "--only-binary", ":all:", LOCK])


def install_with_pip() -> None:
    try:
        import ensurepip  # noqa: F401, PLC0415 (are they there?)
        import venv  # noqa: F401, PLC0415 (are they there?)
    except ImportError:
        raise NoVenv from None
    quietly([sys.executable, "-m", "venv", "--clear", VENV])
    words = ["install", "--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes"]
    quietly([PYTHON, "-m", "pip", *words, "--no-deps", "--only-binary=:all:", "-r", LOCK])


def install_project() -> None:
    """
    Put the checkout on the environment's path and the `headrace` command in its `bin`.

    Not `pip install -e`: that downloads a build backend which no lock covers, takes seconds, and gives us nothing more
    (we are deployed from the checkout; nothing asks for the project's metadata).
    """
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([PYTHON, "-I", "-c", query], text=True).strip()
    with open(os.path.join(packages, "headrace-checkout.pth"), "w", encoding="utf-8") as file:
        file.write(ROOT + "\n")
    launcher = os.path.join(VENV, "bin", "headrace")
    with open(launcher, "w", encoding="utf-8") as file:
        # By /bin/sh: a #! line breaks on long paths and on spaces.
        file.write('#!/bin/sh\nexec "$(dirname "$0")/python" -P -m headrace.cli.main "$@"\n')
    os.chmod(launcher, os.stat(launcher).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def quietly(argv: list[str]) -> None:
    """Run a step; whatever it says goes to stderr, because stdout belongs to the command."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), env=step_environment())


def step_environment() -> dict[str, str]:
    environ = dict(os.environ)
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"):
        environ.pop(name, None)
    return environ


def read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> int:
    say("dev.py: " + text)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
