"""What tests/conftest.py does to a run, seen from outside: small runs of pytest with files of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import processes_for
from tests.support.processes import ROOT

SKIPPED = (
    "import pytest\n\n@pytest.mark.skip(reason='not here')\ndef test_one():\n    pass\n\ndef test_two():\n    pass\n"
)
SURROGATES = """
import logging

def test_one():
    logging.warning("half a %s", "\\ud83d")

def test_two():
    assert "half a \\ud83d" == ""
"""
CLOSING = re.compile(r"=+ (?:\d+ \w+, )*\d+ \w+ in [\d.]+s =+")


def run_pytest(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the directory's tests under our conftest, without our pyproject.toml."""
    plugins = [word for name in ("xdist", "tests.conftest", "no:cacheprovider") for word in ("-p", name)]
    options = [*plugins, "-c", os.devnull, "--rootdir", str(directory)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize(("environ", "status"), [({"CI": "true"}, 1), ({}, 0)])
def test_a_skipped_test_fails_the_run_in_ci_only(
    tmp_path: Path, environ: dict[str, str], status: int, processes: str
) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED)

    done = run_pytest(tmp_path, "-n", processes, str(tmp_path), **environ)

    assert done.returncode == status
    assert ("1 tests were skipped, and in CI each must run" in done.stdout) == (status == 1)
    assert CLOSING.fullmatch(done.stdout.splitlines()[-1])


def test_a_lone_surrogate_in_a_report_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_surrogate.py").write_text(SURROGATES)

    done = run_pytest(tmp_path, "-n", "1", str(tmp_path))

    assert "1 failed, 1 passed" in done.stdout.splitlines()[-1], done.stdout


@pytest.mark.parametrize(
    ("paths", "cores", "processes"),
    [
        (["tests"], 2, 4),
        (["tests"], 64, 8),
        (["tests/web", "tests/jobs"], 1, 2),
        (["tests/web/test_door.py"], 2, 0),
        (["tests/web/test_door.py::test_one", "tests/web/test_door.py::test_two"], 2, 0),
        (["tests/web/test_door.py", "tests/web/test_fuzz.py"], 2, 4),
    ],
)
def test_one_file_is_run_by_the_process_that_was_started(paths: list[str], cores: int, processes: int) -> None:
    assert processes_for(paths, cores=cores) == processes


BUSY = """
import os, pytest
from pathlib import Path

BUSY = Path(os.environ["BUSY"])

@pytest.mark.parametrize("number", range(30))
@ALONE
def test_it(number):
    mine = BUSY / f"{os.getpid()}-NAME"
    mine.touch()
    try:
        for _ in range(50):
            assert list(BUSY.iterdir()) == [mine]
    finally:
        mine.unlink()
"""


def test_a_test_marked_alone_has_no_other_beside_it(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    for file, name, mark in (
        ("test_a.py", "alone", "pytest.mark.alone"),
        ("test_b.py", "together", "pytest.mark.usefixtures()"),
    ):
        (tmp_path / file).write_text(BUSY.replace("NAME", name).replace("ALONE", mark))

    words = ["-n", "2", "--dist", "loadfile", str(tmp_path)]
    done = run_pytest(tmp_path, *words, BUSY=str(tmp_path / "busy"))

    assert "60 passed" in done.stdout.splitlines()[-1], done.stdout
