"""The provider of a worker process: one for all its handlers, built when the first of them asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.settings import Settings

if TYPE_CHECKING:
    from core.providers.openai_compatible import Provider


def provider_of(settings: Settings) -> Callable[[], Provider]:
    """The configured provider, built when a handler first asks for it."""
    lock = threading.Lock()
    built: list[Provider] = []

    def get() -> Provider:
        with lock:
            if not built:
                from core.providers.openai_compatible import Provider  # noqa: PLC0415 (only when a handler needs it)

                key = settings.provider_api_key
                built.append(
                    Provider(
                        settings.provider_url,
                        None if key is None else key.get_secret_value(),
                        answer_limit_bytes=settings.result_limit_bytes,
                    )
                )
            return built[0]

    return get
