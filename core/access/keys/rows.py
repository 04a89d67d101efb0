"""From a row of `virtual_keys` to its snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from core.access.keys.model import VirtualKey
from core.access.tables import virtual_keys
from core.events.access import Limits
from core.ids import KeyId

Row = Mapping[Any, Any]  # a row's values have the types of their columns

COLUMNS = tuple(
    virtual_keys.c[name]
    for name in (
        "key_id",
        "name",
        "created_at",
        "disabled_at",
        "group_name",
        "expires_at",
        "allowed_types",
        "allowed_models",
        "rpm",
        "rpd",
        "tpm",
        "concurrency",
        "version",
    )
)


def key_of(row: Row, *, secret_until: datetime | None = None) -> VirtualKey:
    return VirtualKey(
        key_id=KeyId(row["key_id"]),
        name=row["name"],
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
        group=row["group_name"],
        expires_at=row["expires_at"],
        allowed_types=tuple(row["allowed_types"]),
        allowed_models=tuple(row["allowed_models"]),
        limits=limits_of(row),
        version=row["version"],
        secret_until=secret_until,
    )


def limits_of(row: Row) -> Limits:
    return Limits(rpm=row["rpm"], rpd=row["rpd"], tpm=row["tpm"], concurrency=row["concurrency"])
