"""What tests/conftest.py does to a run, seen from outside: small runs of pytest with files of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SKIPPED = (
    "import pytest\n\n@pytest.mark.skip(reason='not here')\ndef test_one():\n    pass\n\ndef test_two():\n    pass\n"
)
SURROGATE = "import logging\n\ndef test_one():\n    logging.warning('half a %s', '\\ud83d')\n"
FAILS = SURROGATE + "    assert 'half a \\ud83d' == ''\n"
CLOSING = re.compile(r"=+ (?:\d+ \w+, )*\d+ \w+ in [\d.]+s =+")


def run_pytest(directory: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the directory's tests under our conftest, without our pyproject.toml."""
    options = ["-p", "tests.conftest", "-c", os.devnull, "--rootdir", str(directory), "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environ},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize(("environ", "status"), [({"CI": "true"}, 1), ({}, 0)])
def test_a_skipped_test_fails_the_run_in_ci_only(
    tmp_path: Path, environ: dict[str, str], status: int, processes: str
) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED)

    done = run_pytest(tmp_path, "-n", processes, str(tmp_path), **environ)

    assert done.returncode == status
    assert ("1 tests were skipped, and in CI each must run" in done.stdout) == (status == 1)
    assert CLOSING.fullmatch(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("text", "outcome"), [(SURROGATE, "1 passed"), (FAILS, "1 failed")])
def test_a_lone_surrogate_in_a_report_does_not_end_the_run(tmp_path: Path, text: str, outcome: str) -> None:
    (tmp_path / "test_surrogate.py").write_text(text)

    done = run_pytest(tmp_path, "-n", "1", str(tmp_path))

    assert outcome in done.stdout.splitlines()[-1]
    assert "INTERNALERROR" not in done.stdout


def test_one_file_is_run_by_the_process_that_was_started(tmp_path: Path) -> None:
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text("import os\n\ndef test_it(worker_id):\n    assert worker_id == 'master'\n")

    one = run_pytest(tmp_path, "-n", "auto", f"{tmp_path}/test_one.py")
    both = run_pytest(tmp_path, "-n", "auto", str(tmp_path))

    assert "1 passed" in one.stdout.splitlines()[-1]
    assert "2 failed" in both.stdout.splitlines()[-1]
