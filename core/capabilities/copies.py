"""
The copy of each provider's list in Redis: `{instance}provider_capabilities_{providerName}`, a string of JSON, 24 h.

An older list never replaces a newer one, and the rows are the truth: a reader takes a copy only when it is the version
that the rows name. With Redis away everything is read from rows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress

from core.cache.counters import Counters
from core.capabilities.model import ModelList
from core.connections import RedisAway, RedisLink, run_script
from core.events.capabilities import CapabilityEvent, channel

logger = logging.getLogger(__name__)

LIFE_S = 24 * 3600

# KEYS: the copy. ARGV: version, JSON, life in seconds. The version stands first in the JSON, so the copy that is there
# need not be parsed.
_PUT = """
local there = string.match(redis.call('GETRANGE', KEYS[1], 0, 40), '^{"version":(%d+),')
if there and tonumber(there) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
_PUT_SHA = hashlib.sha1(_PUT.encode(), usedforsecurity=False).hexdigest()


class CapabilityCopies:
    """An outage of Redis is a miss. Thread-safe."""

    def __init__(self, link: RedisLink, instance: str, counters: Counters | None = None) -> None:
        self.counters = counters or Counters("provider_capabilities")
        self._link = link
        self._instance = instance
        self.channel = channel(instance)

    def key(self, provider: str) -> str:
        return f"{self._instance}provider_capabilities_{provider}"

    def put(self, models: ModelList) -> None:
        """Copy the list for 24 h, unless a newer one is there."""
        with suppress(RedisAway), self._link.errors() as client:
            run_script(client, _PUT, _PUT_SHA, [self.key(models.provider)], [models.version, models.to_json(), LIFE_S])

    def get(self, provider: str, version: int) -> ModelList | None:
        """The copy, when it is of exactly this version."""
        found = self._get(provider, version)
        (self.counters.misses if found is None else self.counters.redis).add()
        return found

    def _get(self, provider: str, version: int) -> ModelList | None:
        try:
            with self._link.errors() as client:
                text: object = client.get(self.key(provider))
        except RedisAway:
            return None
        if not isinstance(text, bytes) or not text.startswith(b'{"version":%d,' % version):
            return None
        try:
            return ModelList.of_json(text)
        except (ValueError, KeyError, TypeError):
            self.counters.corrupt.add()
            logger.warning("a copy of capabilities is damaged; reading rows", extra={"provider": provider})
            return None

    def drop(self, provider: str) -> None:
        with suppress(RedisAway), self._link.errors() as client:
            client.delete(self.key(provider))
        self.counters.invalidated("provider")

    def drop_all(self, providers: Sequence[str]) -> None:
        """
        Raises:
            RedisAway: none was dropped.
        """
        with self._link.errors() as client:
            client.delete(*map(self.key, providers))

    def publish(self, event: CapabilityEvent) -> None:
        """Tell every process; who does not hear it finds out within five seconds."""
        with suppress(RedisAway), self._link.errors() as client:
            client.publish(self.channel, event.to_json())  # pyright: ignore[reportUnknownMemberType] (partly typed)
