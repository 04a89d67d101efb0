"""What operators say about models: wins over whatever was discovered, until it is taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from core.capabilities.listing import LONGEST_ID, is_model_id
from core.capabilities.model import Ability, Answer
from core.connections import autocommit
from core.errors import InvalidRequest, NotFound
from core.events.capabilities import CapabilityOverridden
from core.schema import capability_overrides

EVERY_PROVIDER = ""
LONGEST_NOTE = 500

_KEY = [capability_overrides.c.provider, capability_overrides.c.model, capability_overrides.c.ability]


class OverrideNotFound(NotFound):
    code = "override_not_found"


@dataclass(frozen=True, slots=True)
class Override:
    """
    Args:
        provider: the one it is about; empty: every provider.
    """

    provider: str
    model: str
    ability: Ability
    answer: Answer
    note: str
    created_at: datetime

    def to_document(self) -> dict[str, object]:
        return {
            "provider": self.provider or None,
            "model": self.model,
            "ability": self.ability.value,
            "answer": self.answer.value,
            "note": self.note,
            "created_at": self.created_at,
        }


class Overrides:
    """
    Callers turn an outage of the database into StoreUnavailable (`database_errors`).

    Args:
        get_provider: raises ProviderNotFound.
        announce: called after each commit. It may fail to reach anybody.
    """

    def __init__(
        self,
        engine: sa.Engine,
        get_provider: Callable[[str], object],
        announce: Callable[[CapabilityOverridden], None],
    ) -> None:
        self._direct = autocommit(engine)
        self._get_provider = get_provider
        self._announce = announce

    def list(self) -> list[Override]:
        with self._direct.connect() as connection:
            return load(connection)

    def set(self, model: str, ability: Ability, answer: Answer, *, provider: str = "", note: str = "") -> Override:
        """
        Say what a model can do, known or not; a later word replaces the earlier.

        Raises:
            InvalidRequest: names the field.
            ProviderNotFound: no such provider.
        """
        check_model(model)
        if provider != EVERY_PROVIDER:
            self._get_provider(provider)
        if len(note) > LONGEST_NOTE or not (note.isprintable() or not note):
            raise InvalidRequest(f"note: printable text, at most {LONGEST_NOTE} characters", field="note")
        values = {"answer": answer.value, "note": note, "created_at": sa.func.now()}
        key = {"provider": provider, "model": model, "ability": ability.value}
        statement = insert(capability_overrides).values(**key, **values)
        with self._direct.connect() as connection:
            row = (
                connection.execute(
                    statement.on_conflict_do_update(index_elements=_KEY, set_=values).returning(*capability_overrides.c)
                )
                .mappings()
                .one()
            )
        self._announce(CapabilityOverridden(provider, model, ability.value))
        return _of_row(row)

    def remove(self, model: str, ability: Ability, *, provider: str = "") -> None:
        """Raises: OverrideNotFound."""
        c = capability_overrides.c
        statement = capability_overrides.delete().where(
            c.provider == provider, c.model == model, c.ability == ability.value
        )
        with self._direct.connect() as connection:
            if connection.execute(statement).rowcount == 0:
                where = f" at provider {provider[:63]}" if provider else ""
                raise OverrideNotFound(f"no override of {ability.value} for {model[:LONGEST_ID]}{where}")
        self._announce(CapabilityOverridden(provider, model, ability.value))


def check_model(model: str) -> None:
    """Raises: InvalidRequest."""
    if not is_model_id(model):
        raise InvalidRequest(f"model: 1 to {LONGEST_ID} printable characters, no blanks", field="model")


def load(connection: sa.Connection) -> list[Override]:
    """All of them."""
    rows = connection.execute(sa.select(capability_overrides).order_by(*_KEY)).mappings()
    return [_of_row(row) for row in rows]


def _of_row(found: sa.RowMapping) -> Override:
    return Override(
        found["provider"],
        found["model"],
        Ability(found["ability"]),
        Answer(found["answer"]),
        found["note"],
        found["created_at"],
    )
