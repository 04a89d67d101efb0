"""
A virtual key as copies of it are kept: an immutable snapshot with its row's version.

No counters and no spend are in it, so that nothing but a change of the row makes a copy old.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from core.events.access import Limits
from core.ids import KeyId

NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """
    Args:
        allowed_types: task types, a trailing `*` stands for any ending; empty: all.
        allowed_models: the same for models.
        version: of the row; of two copies the higher is the newer.
        secret_until: the secret that was shown was replaced by a rotation, and is refused from then on; None: it is
            the newest. The only member that is of the secret and not of the row.
    """

    key_id: KeyId
    name: str
    created_at: datetime
    disabled_at: datetime | None = None
    group: str | None = None
    expires_at: datetime | None = None
    allowed_types: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    limits: Limits = field(default=NO_LIMITS)
    version: int = 1
    secret_until: datetime | None = None

    @property
    def is_enabled(self) -> bool:
        return self.disabled_at is None

    @property
    def ends_at(self) -> datetime | None:
        """From then on the key, or the secret that was shown, is refused."""
        if self.expires_at is None or self.secret_until is None:
            return self.expires_at or self.secret_until
        return min(self.expires_at, self.secret_until)

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def grants(self, now: datetime) -> bool:
        """Whether it opens the door with the secret that was shown."""
        if self.disabled_at is not None:
            return False
        ends_at = self.ends_at
        return ends_at is None or now < ends_at

    def allows_type(self, task_type: str) -> bool:
        return allows(self.allowed_types, task_type)

    def allows_model(self, model: str) -> bool:
        return allows(self.allowed_models, model)


def allows(patterns: tuple[str, ...], word: str) -> bool:
    """An empty list allows everything. Case matters: so it does to the providers."""
    if not patterns:
        return True
    return any(word.startswith(p[:-1]) if p.endswith("*") else word == p for p in patterns)
