"""Runs the revisions in one transaction, one host at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from core.schema import metadata

MIGRATION_LOCK = 7_240_001  # any constant: the advisory lock that serialises migrating hosts


def run() -> None:
    engine = sa.create_engine(context.config.attributes["url"], poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=metadata)
            with context.begin_transaction():
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
                context.run_migrations()
    finally:
        engine.dispose()


run()
