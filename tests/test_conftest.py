from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SKIPPED = (
    "import pytest\n\n@pytest.mark.skip(reason='not here')\ndef test_one():\n    pass\n\ndef test_two():\n    pass\n"
)


@pytest.mark.parametrize(("environ", "status"), [({"CI": "true"}, 1), ({}, 0)])
def test_a_skipped_test_fails_the_run_in_ci_only(tmp_path: Path, environ: dict[str, str], status: int) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    words = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", str(tmp_path)]

    done = subprocess.run(
        [*words, str(tmp_path)],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status
    assert ("1 tests were skipped, and in CI each must run" in done.stdout) == (status == 1)
