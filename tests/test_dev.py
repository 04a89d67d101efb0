"""
dev.py in checkouts of its own, with the real pip and a small lock: making the whole environment is CI's first step.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import ROOT

Dev = Callable[..., subprocess.CompletedProcess[str]]


def make_checkout(path: Path) -> Path:
    """A checkout whose lock asks for nothing, so that its environment takes a second or two."""
    path.mkdir()
    shutil.copy(ROOT / "dev.py", path)
    (path / "requirements-dev.txt").write_text("")
    (path / "headrace/cli").mkdir(parents=True)
    (path / "headrace/cli/main.py").write_text("import sys\nprint('headrace', *sys.argv[1:])\n")
    (path / "pytest.py").write_text("import os, sys\nprint(sys.argv[1:], os.environ['PYTEST_DEBUG_TEMPROOT'])\n")
    return path


def dev_of(checkout: Path, directory: Path) -> Dev:
    """Run a command of its dev.py in this directory; without uv on PATH unless asked."""
    (directory / "home").mkdir()

    def run(*words: str, python: str = sys.executable, **environ: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(directory / "home"), "TMPDIR": str(directory), **environ}
        argv = [python, str(checkout / "dev.py"), *words]
        return subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True, timeout=100, check=False)

    return run


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "a checkout")


@pytest.fixture
def dev(checkout: Path, tmp_path: Path) -> Dev:
    return dev_of(checkout, tmp_path)


@pytest.fixture(scope="module")
def made_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose environment is there."""
    directory = tmp_path_factory.mktemp("made")
    made = make_checkout(directory / "a checkout")
    assert dev_of(made, directory)("setup").returncode == 0
    return made


@pytest.fixture
def made_dev(made_checkout: Path, tmp_path: Path) -> Dev:
    return dev_of(made_checkout, tmp_path)


def test_run_makes_the_environment_once_and_prints_only_what_the_command_prints(dev: Dev, checkout: Path) -> None:
    first = dev("run", "--", "python", "-c", "import sys; print(sys.prefix)")
    second = dev("run", "--", "python", "-c", "import sys; print(sys.prefix)")

    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout == f"{checkout}/.venv\n"
    assert "making" in first.stderr
    assert second.stderr == ""


def test_run_hands_on_arguments_exit_status_and_directory(made_dev: Dev, tmp_path: Path) -> None:
    done = made_dev("run", "--", "sh", "-c", 'echo "$1" "$PWD"; exit 7', "sh", "two  words")

    assert done.stdout == f"two  words {tmp_path}\n"
    assert done.returncode == 7


def test_the_headrace_command_works_in_a_directory_with_a_space(made_dev: Dev) -> None:
    done = made_dev("run", "--", "headrace", "up", "--port", "1")

    assert done.stdout == "headrace up --port 1\n"


def test_an_unknown_program_is_127_and_one_line(made_dev: Dev) -> None:
    done = made_dev("run", "--", "no-such-program")

    assert done.returncode == 127
    assert done.stderr.splitlines() == ["dev.py: no-such-program: command not found"]


def test_a_changed_lock_makes_the_environment_again(dev: Dev, checkout: Path) -> None:
    dev("setup")
    (checkout / "requirements-dev.txt").write_text("# changed\n")

    assert "making" in dev("setup").stderr
    assert "making" not in dev("setup").stderr


def test_an_environment_left_half_made_is_made_again(dev: Dev, checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text("half a program")

    assert dev("run", "--", "python", "-c", "print(1)").stdout == "1\n"


def test_a_requirement_without_a_hash_is_refused(dev: Dev, checkout: Path) -> None:
    (checkout / "requirements-dev.txt").write_text("typer==0.29.2\n")
    done = dev("setup")

    assert done.returncode == 1
    assert not (checkout / ".venv/headrace-setup").exists()


def test_two_at_once_make_one_environment(dev: Dev) -> None:
    outputs: list[subprocess.CompletedProcess[str]] = []
    begin = threading.Barrier(3)

    def start() -> None:
        begin.wait()
        outputs.append(dev("run", "--", "python", "-c", "print(1)"))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [done.stdout for done in outputs] == ["1\n"] * 3
    assert len([done for done in outputs if "making" in done.stderr]) == 1


def test_a_python_without_venv_gets_one_line_that_says_what_to_install(dev: Dev, tmp_path: Path) -> None:
    # As on Debian without python3-venv: the module that venv needs is not there.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "ensurepip.py").write_text("raise ModuleNotFoundError('No module named ensurepip')")

    done = dev("setup", PYTHONPATH=str(broken))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "apt install python3-venv" in done.stderr.splitlines()[1]


def test_uv_on_path_is_used(dev: Dev, tmp_path: Path) -> None:
    # A uv that only notes how it was called and makes the environment with venv; the real one may not be here.
    uv = tmp_path / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = pip ] || {sys.executable} -m venv --without-pip "$7"\n'
    )
    uv.chmod(0o755)

    done = dev("run", "--", "python", "-c", "print(1)", PATH=f"{uv.parent}:{os.defpath}")

    assert done.stdout == "1\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert "--require-hashes" in calls[1]


def test_test_hands_arguments_to_pytest_and_where_its_files_go_is_the_callers_to_say(made_dev: Dev) -> None:
    done = made_dev("test", "-n", "0", "tests/test_one.py", PYTEST_DEBUG_TEMPROOT="/elsewhere")

    assert done.stdout == "['-n', '0', 'tests/test_one.py'] /elsewhere\n"


def test_check_runs_its_programs_side_by_side_and_names_those_that_failed(
    made_dev: Dev, made_checkout: Path, tmp_path: Path
) -> None:
    # mypy waits for pyright, which comes after it.
    for name, script in (
        ("ruff", 'echo "ruff $1"'),
        ("mypy", f"until [ -e {tmp_path}/met ]; do sleep 0.05; done; echo mypy; exit 1"),
        ("pyright", f"echo pyright; touch {tmp_path}/met"),
    ):
        program = made_checkout / ".venv/bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    done = made_dev("check")

    assert done.returncode == 1
    assert done.stdout.splitlines() == ["ruff check", "ruff format", "mypy", "pyright"]
    assert done.stderr.splitlines()[-1] == "check: failed: mypy"


@pytest.mark.parametrize(("words", "status"), [((), 2), (("--help",), 0), (("nonsense",), 2)])
def test_without_a_command_the_usage_is_shown(dev: Dev, words: tuple[str, ...], status: int) -> None:
    done = dev(*words)

    assert done.returncode == status
    assert done.stdout == ""
    assert "dev.py test" in done.stderr


def test_an_older_python_is_told_which_one_is_needed(checkout: Path) -> None:
    code = """
import runpy, sys
sys.version_info = (3, 9, 2)
sys.argv = ["dev.py", "test"]
runpy.run_path(sys.orig_argv[-1], run_name="__main__")
"""
    words = [sys.executable, "-c", code, str(checkout / "dev.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("dev.py: Headrace needs Python 3.11 or newer")


def test_no_lock_names_a_host() -> None:
    for lock in ROOT.glob("requirements*.txt"):
        assert "://" not in lock.read_text()
