from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.schedulers import Jobs


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")
