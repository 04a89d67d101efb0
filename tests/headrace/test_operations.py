from __future__ import annotations

import re
from pathlib import Path

from core.settings import PREFIX, Settings
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
