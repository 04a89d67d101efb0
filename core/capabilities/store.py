"""
The rows of capabilities: the truth that every copy is made from, on a connection that the caller gives.

A good list replaces the one before in one transaction, unless that was asked for later; a failed discovery only leaves
its reason. Models that went from the list stay as rows that are not listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from core.capabilities.model import ListedModel, ModelList, findings_document, findings_of_json
from core.schema import provider_discoveries, provider_models, providers

_UPSERT = """
INSERT INTO provider_models AS m (provider, model, abilities, context_tokens, prices, created, owned_by, listed,
    first_seen_at, last_seen_at)
SELECT %(provider)s, n.model, n.abilities, n.context_tokens, n.prices, n.created, n.owned_by, true, %(at)s, %(at)s
FROM unnest(%(models)s::text[], %(abilities)s::text[], %(contexts)s::int[], %(prices)s::text[], %(created)s::bigint[],
    %(owners)s::text[]) AS n(model, abilities, context_tokens, prices, created, owned_by)
ORDER BY n.model
ON CONFLICT (provider, model) DO UPDATE SET abilities = excluded.abilities, context_tokens = excluded.context_tokens,
    prices = excluded.prices, created = excluded.created, owned_by = excluded.owned_by, listed = true,
    last_seen_at = excluded.last_seen_at
"""


@dataclass(frozen=True, slots=True)
class Discovery:
    """
    How the discoveries of one provider stand.

    Args:
        discovered_at: when the list that is served was asked for; None: there never was a good one.
        error: of a later discovery that failed.
    """

    provider: str
    discovered_at: datetime | None = None
    error: str | None = None
    failed_at: datetime | None = None
    requested_at: datetime | None = None
    task_id: UUID | None = None


def now(connection: sa.Connection) -> datetime:
    """The database's clock."""
    moment: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return moment


def discoveries(connection: sa.Connection) -> dict[str, Discovery]:
    """All of them, by the provider's name."""
    rows = connection.execute(sa.select(provider_discoveries)).mappings()
    return {row["provider"]: Discovery(**row) for row in rows}


def save(
    connection: sa.Connection, provider: str, models: Sequence[ListedModel], *, asked_at: datetime, row_version: int
) -> bool:
    """
    Make this the provider's list; False when it is not its list any more: a later one is there, or the provider was
    changed or removed since it was asked.

    Args:
        models: sorted by id.
        asked_at: the database's time before the provider was asked.
        row_version: of the provider's row then; 0: it has none.
    """
    if not _is_still(connection, provider, row_version) or not _take_place(connection, provider, asked_at):
        return False
    values = {
        "provider": provider,
        "at": asked_at,
        "models": [model.id for model in models],
        "abilities": [orjson.dumps(findings_document(model.findings)).decode() for model in models],
        "contexts": [model.context_tokens for model in models],
        "prices": [None if model.prices is None else orjson.dumps(model.prices).decode() for model in models],
        "created": [model.created for model in models],
        "owners": [model.owned_by for model in models],
    }
    connection.exec_driver_sql(_UPSERT, values)
    m = provider_models.c
    gone = sa.and_(m.provider == provider, m.listed, m.last_seen_at < asked_at)
    connection.execute(provider_models.update().where(gone).values(listed=False))
    _note(connection, provider, discovered_at=asked_at, discovery_error=None, discovery_failed_at=None)
    return True


def fail(connection: sa.Connection, provider: str, error: str, *, asked_at: datetime, row_version: int) -> None:
    """Leave the reason beside the list that is served on."""
    if not _is_still(connection, provider, row_version):
        return
    connection.exec_driver_sql(
        """INSERT INTO provider_discoveries AS d (provider, error, failed_at) VALUES (%(provider)s, %(error)s, %(at)s)
        ON CONFLICT (provider) DO UPDATE SET error = excluded.error, failed_at = excluded.failed_at
        WHERE d.discovered_at IS NULL OR d.discovered_at < excluded.failed_at""",
        {"provider": provider, "error": error, "at": asked_at},
    )
    _note(connection, provider, discovery_error=error, discovery_failed_at=asked_at)


def load(connection: sa.Connection, provider: str, discovered_at: datetime) -> ModelList:
    """The listed models of a provider from their rows."""
    m = provider_models.c
    query = (
        sa.select(m.model, m.abilities, m.context_tokens, m.prices, m.created, m.owned_by, m.first_seen_at)
        .where(m.provider == provider, m.listed)
        .order_by(m.model)
    )
    models = (_of_row(row) for row in connection.execute(query).mappings())
    return ModelList(provider, discovered_at, {model.id: model for model in models})


def gone(connection: sa.Connection) -> list[tuple[str, str, datetime]]:
    """Provider, model and when it was listed last, of models that went from their provider's list."""
    m = provider_models.c
    query = sa.select(m.provider, m.model, m.last_seen_at).where(~m.listed).order_by(m.provider, m.model)
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def request(
    connection: sa.Connection, provider: str, task_id: UUID, *, older_than: timedelta, pause: timedelta
) -> UUID | None:
    """
    Take the right to make a discovery task; None when it is not needed or somebody else took it. One of any number of
    callers gets it: they wait for each other's transaction.

    Args:
        older_than: not needed while the list is younger, unless the provider was changed since.
        pause: nor so soon after the newest request, or failure.
    """
    statement = """
    INSERT INTO provider_discoveries AS d (provider, requested_at, task_id) VALUES (%(provider)s, now(), %(task)s)
    ON CONFLICT (provider) DO UPDATE SET requested_at = excluded.requested_at, task_id = excluded.task_id
    WHERE (d.requested_at IS NULL OR d.requested_at <= now() - %(pause)s::interval)
        AND (d.discovered_at IS NULL OR d.discovered_at <= now() - %(older_than)s::interval
            OR d.discovered_at < (SELECT p.changed_at FROM providers p WHERE p.name = d.provider))
    RETURNING d.task_id
    """
    values = {"provider": provider, "task": task_id, "pause": pause, "older_than": older_than}
    taken: UUID | None = connection.exec_driver_sql(statement, values).scalar()
    return taken


def waiting(connection: sa.Connection, provider: str) -> str | None:
    """
    The public id of the provider's discovery task that nobody began yet; its row is locked until the transaction ends,
    so two who ask for one at once do not both miss it.
    """
    connection.exec_driver_sql(
        "INSERT INTO provider_discoveries (provider) VALUES (%(provider)s) ON CONFLICT DO NOTHING",
        {"provider": provider},
    )
    locked = "SELECT task_id FROM provider_discoveries WHERE provider = %(provider)s FOR UPDATE"
    task_id: UUID | None = connection.exec_driver_sql(locked, {"provider": provider}).scalar_one()
    # A statement of its own: who waited for the lock would join that row with the tasks as they were before the wait.
    waits = "SELECT public_id FROM tasks WHERE id = %(task)s AND state = 'pending' AND attempt = 0"
    found: str | None = connection.exec_driver_sql(waits, {"task": task_id}).scalar()
    return found


def requested(connection: sa.Connection, provider: str, task_id: UUID) -> None:
    """After `waiting`: this is the provider's newest task."""
    statement = provider_discoveries.update().where(provider_discoveries.c.provider == provider)
    connection.execute(statement.values(requested_at=sa.func.now(), task_id=task_id))


def _is_still(connection: sa.Connection, provider: str, row_version: int) -> bool:
    """Whether the provider is what it was; its row is locked, so that it stays so until the commit."""
    query = sa.select(providers.c.version).where(providers.c.name == provider).with_for_update()
    version: int | None = connection.execute(query).scalar()
    return (version or 0) == row_version


def _take_place(connection: sa.Connection, provider: str, asked_at: datetime) -> bool:
    """Write down the new list's time, unless the one there is newer."""
    taken = connection.exec_driver_sql(
        """INSERT INTO provider_discoveries AS d (provider, discovered_at) VALUES (%(provider)s, %(at)s)
        ON CONFLICT (provider) DO UPDATE SET discovered_at = excluded.discovered_at, error = NULL, failed_at = NULL
        WHERE d.discovered_at IS NULL OR d.discovered_at < excluded.discovered_at
        RETURNING 1""",
        {"provider": provider, "at": asked_at},
    )
    return taken.first() is not None


def _note(connection: sa.Connection, provider: str, **values: object) -> None:
    """The same on the provider's own row, where routing and operators look; the settings' provider has none."""
    connection.execute(providers.update().where(providers.c.name == provider).values(**values))


def _of_row(row: sa.RowMapping) -> ListedModel:
    prices: Mapping[str, Any] | None = None if row["prices"] is None else orjson.loads(row["prices"])
    return ListedModel(
        id=row["model"],
        created=int(row["first_seen_at"].timestamp()) if row["created"] is None else row["created"],
        owned_by=row["owned_by"],
        findings=findings_of_json(row["abilities"]),
        context_tokens=row["context_tokens"],
        prices=prices,
    )
