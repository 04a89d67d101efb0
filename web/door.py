"""
Who is calling, and whether they may: address, ban, IP filter, key, the key's own filter, limits. See docs/door.md.

For a caller who was here lately everything but the limits is decided in memory, and the limits of a request are one
call to Redis. Refusal needs proof (law 7): when the truth cannot be read, the answer is 503.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import orjson
from starlette.types import Scope

from core.access.addresses.addresses import Client, TrustedProxies
from core.access.addresses.bans import Bans
from core.access.addresses.ip_filters import IpFilters
from core.access.addresses.networks import parse_address
from core.access.keys.authenticator import Authentication, Authenticator
from core.access.keys.key_limits import KeyLimits
from core.access.keys.model import VirtualKey
from core.access.limits.limiter import Ended, Limiter
from core.access.limits.limits_of import Caller, LimitKeys, Planned, ask_of_address, ask_of_key, ask_to_verify
from core.access.limits.model import Ask, Decision
from core.access.limits.refusal import refusal_of
from core.access.limits.token_estimate import estimate
from core.errors import Unavailable
from core.events.access import Limits
from core.ids import KeyId
from core.tasks.model import NewTask
from web.answers import Headers
from web.bodies import header
from web.client_address import client_of
from web.limits import WebLimits, headers
from web.problems import AddressRefused, Banned, Unauthenticated
from web.threads import Threads

_BEARER = b"bearer "
_LONGEST_TOKEN = 200  # ours have 77 characters


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request says of itself: where it comes from, and the credential, if it shows any."""

    client: Client
    authorization: bytes | None


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who came in."""

    key: VirtualKey
    client: Client

    @property
    def owner(self) -> KeyId:
        return self.key.key_id


class Door:
    """
    Args:
        threads: for keys that were valid a moment ago.
        strangers: for all others; few, so that a flood of invented keys does not keep out those who belong here.
        ip_rpm: requests a minute of one address to one route; 0: no limit.
    """

    def __init__(
        self,
        *,
        proxies: TrustedProxies,
        bans: Bans,
        filters: IpFilters,
        authenticator: Authenticator,
        key_limits: KeyLimits,
        limiter: Limiter,
        limits: WebLimits,
        limit_keys: LimitKeys,
        ip_rpm: int,
        threads: Threads,
        strangers: Threads,
    ) -> None:
        self._proxies = proxies
        self._bans = bans
        self._filters = filters
        self._authenticator = authenticator
        self._key_limits = key_limits
        self._limiter = limiter
        self._limits = limits
        self._limit_keys = limit_keys
        self._ip_rpm = ip_rpm
        self._threads = threads
        self._strangers = strangers

    async def enter(self, scope: Scope) -> Visitor:
        """
        The key on whose behalf the request acts.

        Raises:
            Banned, AddressRefused: whoever it is, not from there.
            Unauthenticated: no key, or proof that it is not valid.
            Unavailable: could not find out.
        """
        shown = self.look(scope)
        token = _token(shown.authorization)
        if token is None:
            if shown.authorization is not None:
                await self.fail(shown.client)
            raise Unauthenticated
        key = self._authenticator.peek(token) or await self._prove(token, shown.client)
        self.check_key_filter(shown.client, key)
        return Visitor(key, shown.client)

    def look(self, scope: Scope) -> Shown:
        """
        The request's address and credential; memory only.

        Raises:
            Banned, AddressRefused: it may not come in, whatever it shows.
            Unavailable: the IP filters were never read.
        """
        client = client_of(scope, self._proxies)
        self.check_address(client)
        return Shown(client, header(scope, b"authorization"))

    def client_at(self, address: str, *, field: str) -> Client:
        """
        The client that somebody who is believed says there is.

        Raises:
            InvalidRequest: no address.
        """
        return self._proxies.client(str(parse_address(address, field=field)))

    def check_address(self, client: Client) -> None:
        """
        Raises:
            Banned, AddressRefused, Unavailable: as `look`.
        """
        ban = self._bans.is_banned(client)
        if ban is not None:
            raise Banned(ban.left_s)
        if not self._filters.check(client.address).allowed:
            raise AddressRefused

    def check_key_filter(self, client: Client, key: VirtualKey) -> None:
        """
        Raises:
            AddressRefused: this key may not be used from there.
        """
        if not self._filters.check(client.address, key.key_id).allowed:
            raise AddressRefused

    async def authenticate(self, clear_key: str) -> Authentication:
        """
        Whose key it is, or what proves that it opens nothing.

        Raises:
            Unavailable: could not find out.
        """
        refused = self._authenticator.known_refused(clear_key)
        if refused is not None:
            return refused
        return await self._threads_for(clear_key).run(
            lambda: self._authenticator.authenticate(clear_key), failure="the key was not checked"
        )

    async def fail(self, client: Client, reason: str = "virtual key") -> None:
        """
        A log-in failed; it counts before the answer is sent, so that the next one meets the ban.

        Raises:
            Unavailable: it was not counted. closed: a guess that cannot be counted is not answered.
        """
        if client.counts_failures:
            await self._strangers.run(
                lambda: self._bans.fail(client, reason), failure="the failed log-in was not counted"
            )

    async def _prove(self, clear_key: str, client: Client) -> VirtualKey:
        """
        As `authenticate`; a failure is counted in the thread that proved it: in a flood the way back to a free one is
        long, and who floods would not be counted.

        Raises:
            Unauthenticated, Unavailable: as `enter`.
        """

        def prove() -> VirtualKey | None:
            key = self._authenticator.authenticate(clear_key).key
            if key is None and client.counts_failures:
                self._bans.fail(client, "virtual key")
            return key

        if self._authenticator.known_refused(clear_key) is not None:
            await self.fail(client)
            raise Unauthenticated
        key = await self._threads_for(clear_key).run(prove, failure="the key was not checked")
        if key is None:
            raise Unauthenticated
        return key

    def _threads_for(self, clear_key: str) -> Threads:
        return self._threads if self._authenticator.is_familiar(clear_key) else self._strangers

    async def admit(self, visitor: Visitor, route: str, *, requests: int = 1, tasks: Sequence[NewTask] = ()) -> Headers:
        """
        Count a request against all its limits, or against none when one refuses.

        Args:
            route: its template.
            requests: how many it counts for; a batch counts each task.
            tasks: what it will have accepted.

        Returns the headers of the answer: what is left.

        Raises:
            RateLimited, LimitTooSmall, LimitsUnavailable: nothing was counted.
        """
        limits = self._key_limits.get(visitor.key)
        ask = ask_of_key(
            self._limit_keys,
            self.caller(visitor.client, route),
            key_id=visitor.owner,
            limits=limits,
            requests=requests,
            tasks=_planned(limits, tasks),
        )
        return await self.take(ask)

    async def give_back(self, visitor: Visitor, tasks: Sequence[NewTask]) -> None:
        """Tasks that were admitted were not accepted: their tokens and places are free again, their request counts."""
        limits = self._key_limits.get(visitor.key)
        if limits.tpm is None and limits.concurrency is None:
            return
        tokens, slots = self._limit_keys.tokens(visitor.owner), self._limit_keys.concurrency(visitor.owner)
        ended = [Ended(tokens, slots, task.public_id, _nothing) for task in tasks]
        with suppress(Unavailable):  # leases end by themselves, and the bucket fills by itself
            await self._threads.run(lambda: self._limiter.end(ended), failure="limits were not given back")

    async def admit_address(self, client: Client, route: str) -> None:
        """
        As `admit`, where a key has no limits: for status reads and cancels.

        Raises:
            RateLimited, LimitsUnavailable: nothing was counted.
        """
        if self._ip_rpm and not client.is_loopback:
            await self.take(ask_of_address(self._limit_keys, self.caller(client, route)))

    async def decide_for_other(self, key: VirtualKey, caller: Caller, *, tokens: int) -> Decision:
        """
        As `admit`, for a request that another gateway serves: the decision, refusals too.

        Raises:
            LimitsUnavailable: nobody can count now.
        """
        limits = self._key_limits.get(key)
        ask = ask_to_verify(self._limit_keys, caller, key_id=key.key_id, limits=limits, tokens=tokens)
        decision = await self._limits.decide(ask)
        if not decision.allowed and decision.refused is None:
            raise refusal_of(decision)
        return decision

    async def take(self, ask: Ask) -> Headers:
        """
        Everything the ask wants, or nothing; the headers of the answer.

        Raises:
            RateLimited, LimitTooSmall, LimitsUnavailable: nothing was counted.
        """
        decision = await self._limits.decide(ask)
        if not decision.allowed:
            raise refusal_of(decision)
        return headers(decision)

    def caller(self, client: Client, route: str) -> Caller:
        return Caller(route, None if client.is_loopback else client.limit_word, self._ip_rpm)


def _planned(limits: Limits, tasks: Sequence[NewTask]) -> list[Planned]:
    """What is asked of tokens and places; inputs are read only where tokens are limited."""
    if limits.tpm is None:
        return [] if limits.concurrency is None else [Planned(task.public_id) for task in tasks]
    return [Planned(task.public_id, estimate(task.type, orjson.loads(task.input_json))) for task in tasks]


def _nothing() -> int:
    return 0


def _token(authorization: bytes | None) -> str | None:
    """None: there is none, or it cannot be one of ours."""
    if authorization is None or authorization[:7].lower() != _BEARER:
        return None
    token = authorization[7:].strip()
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        return None
    return token.decode("ascii")
