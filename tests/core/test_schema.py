from __future__ import annotations

from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from core import schema
from core.app import App
from core.errors import Misconfigured


def test_the_code_needs_the_newest_revision_there_is() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))

    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_a_database_at_another_revision_is_refused_with_what_to_do(app: App) -> None:
    app.check()
    with app.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")

    with pytest.raises(Misconfigured, match=r"run `python -m core\.schema upgrade`"):
        app.check()


def test_a_database_without_our_tables_is_refused_with_what_to_do(app: App) -> None:
    with app.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")

    with pytest.raises(Misconfigured, match="revision none"):
        app.check()
