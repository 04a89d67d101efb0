"""What operators are shown of discoveries, by API and command line alike."""

from __future__ import annotations

from core.capabilities.snapshot import Snapshot, age_s
from core.capabilities.store import Discovery


def discovery_documents(snapshot: Snapshot) -> list[dict[str, object]]:
    """
    One for each provider, in the order in which they are asked.

    Shape: `{"provider", "enabled", "models", "discovered_at", "age_s", "error", "failed_at", "requested_at"}`.
    """
    return [_document(snapshot, row.name, is_enabled=row.enabled) for row in snapshot.providers]


def _document(snapshot: Snapshot, name: str, *, is_enabled: bool) -> dict[str, object]:
    stands = snapshot.discoveries.get(name, Discovery(name))
    known = snapshot.lists.get(name)
    return {
        "provider": name,
        "enabled": is_enabled,
        "models": 0 if known is None else len(known.models),
        "discovered_at": stands.discovered_at,
        "age_s": age_s(snapshot, stands.discovered_at),
        "error": stands.error,
        "failed_at": stands.failed_at,
        "requested_at": stands.requested_at,
    }
