"""Whose request it is: what the headers say of the client, as far as the peer is trusted. Every header is read once."""

from __future__ import annotations

from starlette.types import Scope

from core.access.addresses.addresses import Client, TrustedProxies

_FORWARDED_FOR = b"x-forwarded-for"
_ALSO_FORWARDING = frozenset({b"forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip"})
"""Never believed, whoever sends them: a proxy that adds to one header hands others on as its client wrote them. They
only tell that somebody is behind the peer."""


def client_of(scope: Scope, proxies: TrustedProxies) -> Client:
    """The client of an ASGI request; no error: see `TrustedProxies.client` for peers without an address."""
    forwarded_for: list[bytes] = []
    forwards = False
    for name, value in scope["headers"]:
        if name == _FORWARDED_FOR:
            forwarded_for.append(value)
        elif name in _ALSO_FORWARDING:
            forwards = True
    peer = scope.get("client")
    return proxies.client(peer[0] if peer else None, forwarded_for, forwards=forwards)
