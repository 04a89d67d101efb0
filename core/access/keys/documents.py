"""A virtual key as operators are shown it: over HTTP, and with `--json` on the command line. No hash is in it."""

from __future__ import annotations

from typing import Any

from core.access.keys.model import VirtualKey


def key_document(key: VirtualKey) -> dict[str, Any]:
    """
    `{"id", "name", "group", "enabled", "expires_at", "allowed_types", "allowed_models", "rpm", "rpd", "tpm",
    "concurrency", "created_at", "version"}`; null: no group, never, no limit. An empty list allows everything.
    """
    return {
        "id": key.key_id,
        "name": key.name,
        "group": key.group,
        "enabled": key.is_enabled,
        "expires_at": key.expires_at,
        "allowed_types": list(key.allowed_types),
        "allowed_models": list(key.allowed_models),
        "rpm": key.limits.rpm,
        "rpd": key.limits.rpd,
        "tpm": key.limits.tpm,
        "concurrency": key.limits.concurrency,
        "created_at": key.created_at,
        "version": key.version,
    }


def pepper_document(versions: dict[int, int]) -> dict[str, int]:
    """By the pepper's number, how many secrets that still work are hashed with it: `{"1": 3, "2": 40}`."""
    return {str(version): count for version, count in versions.items()}
