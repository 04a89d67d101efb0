"""
The providers of this deployment: rows, and the one that HEADRACE_PROVIDER_URL makes while no row has its name.

Keys are sealed before they reach the database, and nothing shows them again. Each change is one transaction; then the
processes are told, and those that were not told find it out by themselves (core/providers/roster.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from core.connections import autocommit
from core.errors import InvalidRequest, ProviderExists, ProviderNotFound, ProviderOfSettings
from core.events.providers import ProviderChanged
from core.providers.model import (
    DEFAULT_NAME,
    LAST_PRIORITY,
    KeySource,
    NewProvider,
    ProviderChange,
    ProviderRow,
    origin_of,
)
from core.schema import provider_discoveries, provider_models, providers
from core.sealing import Sealing, Unsealable

logger = logging.getLogger(__name__)

_CHANGED: dict[str, Any] = {"version": providers.c.version + 1, "changed_at": sa.func.now()}

# One statement, with what was discovered of the provider that has no row.
_ALL = (
    sa.select(providers, provider_discoveries.c.discovered_at.label("seen_at"))
    .select_from(providers.join(provider_discoveries, provider_discoveries.c.provider == providers.c.name, full=True))
    .where(sa.or_(providers.c.name.is_not(None), provider_discoveries.c.provider == DEFAULT_NAME))
)


def _tell_nobody(_: ProviderChanged) -> None:
    return


class Providers:
    """
    Callers turn an outage of the database into StoreUnavailable (`database_errors`), as with the virtual keys.

    Args:
        environ_lookup: the value of an environment variable by its name.
        default_url: HEADRACE_PROVIDER_URL.
        default_key: HEADRACE_PROVIDER_API_KEY.
        announce: called after each change was committed. It may fail to reach anybody.
    """

    def __init__(
        self,
        engine: sa.Engine,
        sealing: Sealing,
        environ_lookup: Callable[[str], str | None],
        *,
        default_url: str | None = None,
        default_key: str | None = None,
        announce: Callable[[ProviderChanged], None] = _tell_nobody,
    ) -> None:
        self._engine = engine
        self._direct = autocommit(engine)
        self._sealing = sealing
        self._environ_lookup = environ_lookup
        self._default_url = default_url
        self._default_key = default_key
        self._announce = announce

    def get(self, name: str) -> ProviderRow:
        """Raises: ProviderNotFound."""
        with self._direct.connect() as connection:
            row = connection.execute(sa.select(providers).where(providers.c.name == name)).first()
        if row is not None:
            return _of_row(row)
        for found in self._of_settings():
            if found.name == name:
                return found
        raise _not_found(name)

    def add(self, new: NewProvider) -> ProviderRow:
        """
        Raises:
            InvalidRequest: names the field; `api_key` when there is no HEADRACE_ENCRYPTION_KEY to seal it with.
            ProviderExists: the name is taken.
        """
        new.check()
        values = {
            "name": new.name,
            "kind": new.kind,
            "base_url": new.base_url.rstrip("/"),
            "api_key_sealed": None if new.api_key is None else self._seal(new.api_key),
            "api_key_env": new.api_key_env,
            "enabled": new.enabled,
            "priority": new.priority,
            "models": list(dict.fromkeys(new.models)),
            "version": 1,
            "created_at": sa.func.now(),
            "changed_at": sa.func.now(),
        }
        statement = insert(providers).values(**values).on_conflict_do_nothing(index_elements=[providers.c.name])
        with self._engine.begin() as connection:
            found = connection.execute(statement.returning(*providers.c)).first()
        if found is None:
            raise ProviderExists(f"there is a provider {new.name}; update it, or choose another name")
        return self._told(_of_row(found))

    def update(self, name: str, change: ProviderChange) -> ProviderRow:
        """
        Raises:
            InvalidRequest: names the field; `api_key` when a kept key would go to another host than before.
            ProviderNotFound, ProviderOfSettings: there is no row to change.
        """
        change.check()
        values = {
            "base_url": None if change.base_url is None else change.base_url.rstrip("/"),
            "enabled": change.enabled,
            "priority": change.priority,
            "models": None if change.models is None else list(dict.fromkeys(change.models)),
        }
        given: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
        if change.sets_key:
            given["api_key_sealed"] = None if change.api_key is None else self._seal(change.api_key)
            given["api_key_env"] = change.api_key_env
        with self._engine.begin() as connection:
            before = connection.execute(sa.select(providers).where(providers.c.name == name).with_for_update()).first()
            if before is None:
                raise self._no_row(name)
            _check_destination(_of_row(before), change)
            statement = providers.update().where(providers.c.name == name).values(**given, **_CHANGED)
            row = connection.execute(statement.returning(*providers.c)).one()
        return self._told(_of_row(row))

    def enable(self, name: str) -> ProviderRow:
        """Raises: ProviderNotFound, ProviderOfSettings."""
        return self.update(name, ProviderChange(enabled=True))

    def disable(self, name: str) -> ProviderRow:
        """No new call after five seconds at the latest. Raises: ProviderNotFound, ProviderOfSettings."""
        return self.update(name, ProviderChange(enabled=False))

    def remove(self, name: str) -> None:
        """
        Forget it, its key and what was discovered of it. Videos it still renders can no longer be fetched.

        Raises:
            ProviderNotFound, ProviderOfSettings: there is no row to remove.
        """
        with self._engine.begin() as connection:
            removed = connection.execute(providers.delete().where(providers.c.name == name))
            if removed.rowcount == 0:
                raise self._no_row(name)
            connection.execute(provider_discoveries.delete().where(provider_discoveries.c.provider == name))
            connection.execute(provider_models.delete().where(provider_models.c.provider == name))
        logger.info("provider removed", extra={"provider": name})
        self._announce(ProviderChanged(name, 0))

    def api_key(self, row: ProviderRow) -> str | None:
        """
        The key in clear, for a call to this provider and nothing else; None: it is called without one.

        Raises:
            Unsealable: the sealed key cannot be opened, or its variable is not set in this process.
        """
        match row.key_source:
            case KeySource.NONE:
                return None
            case KeySource.SETTINGS:
                return self._default_key
            case KeySource.ENVIRONMENT:
                value = self._environ_lookup(row.api_key_env or "")
                if value is None:
                    raise Unsealable(f"the environment variable {row.api_key_env} is not set in this process")
                return value
            case KeySource.SEALED:
                return self._sealing.open(row.sealed_key or b"")

    def reseal(self) -> int:
        """
        Seal every key anew with the first HEADRACE_ENCRYPTION_KEY; how many there were. The old one may go then.

        Raises:
            Unsealable: one of them cannot be opened; nothing was changed.
        """
        c = providers.c
        query = sa.select(c.name, c.api_key_sealed).where(c.api_key_sealed.is_not(None)).order_by(c.name)
        with self._engine.begin() as connection:
            rows = connection.execute(query.with_for_update()).all()
            for name, sealed in rows:
                anew = self._sealing.seal_anew(bytes(sealed))
                connection.execute(providers.update().where(c.name == name).values(api_key_sealed=anew))
        return len(rows)

    def _seal(self, key: str) -> bytes:
        try:
            return self._sealing.seal(key)
        except Unsealable as error:
            raise InvalidRequest(f"api_key: it cannot be kept: {error}; or use api_key_env", field="api_key") from None

    def _told(self, row: ProviderRow) -> ProviderRow:
        logger.info("provider changed", extra={"provider": row.name, "version": row.version, "enabled": row.enabled})
        self._announce(ProviderChanged(row.name, row.version))
        return row

    def _of_settings(self) -> list[ProviderRow]:
        if not self._default_url:
            return []
        key_source = KeySource.NONE if self._default_key is None else KeySource.SETTINGS
        return [
            ProviderRow(
                name=DEFAULT_NAME,
                base_url=self._default_url,
                key_source=key_source,
                priority=LAST_PRIORITY,
                source="settings",
            )
        ]

    def _no_row(self, name: str) -> ProviderNotFound | ProviderOfSettings:
        if name == DEFAULT_NAME and self._default_url:
            return ProviderOfSettings(
                f"provider {name} comes from HEADRACE_PROVIDER_URL; change that, or add a provider of the same name: "
                "it takes its place"
            )
        return _not_found(name)

    def list(self) -> list[ProviderRow]:
        """All of them, enabled or not, in the order in which they are asked."""
        with self._direct.connect() as connection:
            found = connection.execute(_ALL).all()
        rows = [_of_row(row) for row in found if row.name is not None]
        if not any(row.name == DEFAULT_NAME for row in rows):
            discovered_at = next((row.seen_at for row in found if row.name is None), None)
            rows += [replace(row, discovered_at=discovered_at) for row in self._of_settings()]
        return sorted(rows, key=lambda row: (row.priority, row.name))


def _check_destination(before: ProviderRow, change: ProviderChange) -> None:
    """A key that nobody can read again must not be readable by sending it elsewhere."""
    if change.base_url is None or change.sets_key or before.key_source is KeySource.NONE:
        return
    if origin_of(change.base_url) != origin_of(before.base_url):
        raise InvalidRequest(
            "api_key: another host needs its key given again (or api_key_env, or none)", field="api_key"
        )


def _not_found(name: str) -> ProviderNotFound:
    return ProviderNotFound(f"no provider {name[:63]}; `headrace providers list` shows them")


def _of_row(row: sa.Row[Any]) -> ProviderRow:
    sealed, variable = row.api_key_sealed, row.api_key_env
    return ProviderRow(
        name=row.name,
        kind=row.kind,
        base_url=row.base_url,
        key_source=KeySource.SEALED if sealed is not None else KeySource.ENVIRONMENT if variable else KeySource.NONE,
        api_key_env=variable,
        sealed_key=None if sealed is None else bytes(sealed),
        enabled=row.enabled,
        priority=row.priority,
        models=tuple(row.models),
        version=row.version,
        created_at=row.created_at,
        changed_at=row.changed_at,
        discovered_at=row.discovered_at,
        discovery_error=row.discovery_error,
        discovery_failed_at=row.discovery_failed_at,
    )
