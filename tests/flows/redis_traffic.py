"""Requests through a trusted proxy, which is the test: what fills Redis in the tests of its names."""

from __future__ import annotations

from typing import Any

from core.access.keys.virtual_keys import NewVirtualKey
from core.events.access import Limits
from tests.web.proxied import from_address
from tests.web.serving import Reply, Site

CHAT = {
    "type": "chat.completion",
    # A fifth of the bucket: it is not full again before somebody looked.
    "input": {"model": "m", "messages": [{"role": "user", "content": "canary-prompt"}], "max_tokens": 20_000},
}
ONE, OTHER = "198.51.100.7", "203.0.113.9"
SIX, SIX_NETWORK = "2001:db8:1:2:3::4", "2001:db8:1:2::/64"
ALL = Limits(rpm=100, rpd=1000, tpm=100_000, concurrency=4)
EVERY = "/v1/tasks"


def asked(site: Site, key: NewVirtualKey, address: str = ONE) -> Reply:
    return site.caller.with_key(key.clear_key).get(EVERY, **from_address(address))


def accepted(site: Site, key: NewVirtualKey, body: Any = CHAT, address: str = ONE) -> str:
    return site.caller.with_key(key.clear_key).enqueue(body, **from_address(address))
