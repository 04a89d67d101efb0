from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from core.settings import PREFIX, Settings, child_environment
from headrace.cli.output import Exit
from tests.headrace.settings_table import settings_table

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_the_table_of_settings_is_what_the_code_says() -> None:
    """To bring it up to date: `python -m tests.headrace.settings_table`."""
    assert settings_table() in OPERATIONS


def test_every_setting_named_in_a_document_exists() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]

    named = {name for path in documents for name in re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b", path.read_text())}

    assert named <= {name.upper() for name in Settings.model_fields}


def test_every_exit_code_is_documented() -> None:
    for code in Exit:
        assert re.search(rf"^\| {code.value} \| ", OPERATIONS, re.MULTILINE)


def test_a_release_without_its_database_is_one_line(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://me:hunter2@127.0.0.1:1/none")})

    ran = subprocess.run(
        [sys.executable, "-m", "core.schema", "upgrade"],
        cwd=ROOT,
        env=child_environment(away),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 1
    assert "nothing was migrated" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert "hunter2" not in ran.stderr
