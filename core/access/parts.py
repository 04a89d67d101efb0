"""
The parts that decide who may come in, built together: keys and their copies, limits, bans, filters, and how a process
hears of their changes. `core/app.py` holds them as `app.access`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import SecretStr

from core.access.addresses import ip_filters
from core.access.addresses.addresses import TrustedProxies
from core.access.addresses.bans import Bans, exempt_networks
from core.access.addresses.ip_filters import IpFilters
from core.access.audit import AuditLog
from core.access.changes.changes import Changes
from core.access.changes.log import ChangeLog, LogKeys
from core.access.changes.watch import Watch
from core.access.keys.authenticator import Authenticator
from core.access.keys.key_limits import KeyLimits
from core.access.keys.limit_copies import LimitCopies
from core.access.keys.limits_refresh import LimitsRefresh
from core.access.keys.owners import Owners
from core.access.keys.peppers import Peppers
from core.access.keys.virtual_keys import VirtualKeys
from core.access.limits.limiter import Fallback, Limiter
from core.access.limits.limits_of import LimitKeys
from core.access.limits.local_limiter import LocalLimiter
from core.access.limits.renewal import ConcurrencyRenewal
from core.access.upkeep import Upkeep
from core.cache.caches import Caches
from core.connections import RedisLink, autocommit
from core.errors import Misconfigured
from core.events.access import BansChanged, EntriesDropped, IpFiltersChanged, KeysChanged, LimitsRefreshed
from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Access:
    """One process's. `start` makes it hear of changes; who only asks now and then need not."""

    changes: Changes
    watch: Watch
    caches: Caches
    proxies: TrustedProxies
    peppers: Peppers
    keys: VirtualKeys
    owners: Owners
    authenticator: Authenticator
    key_limits: KeyLimits
    limit_copies: LimitCopies
    limits_refresh: LimitsRefresh
    limit_keys: LimitKeys
    limiter: Limiter
    renewal: ConcurrencyRenewal
    upkeep: Upkeep
    bans: Bans
    ip_filters: IpFilters
    audit: AuditLog

    def start(self, *, is_door: bool = False) -> None:
        """Args: is_door: this is a web process: it lets people in, and shares the limits with others."""
        self.watch.start(is_door=is_door)
        self.caches.start()
        if is_door:
            self.ip_filters.start()
            self.bans.start()
            self.upkeep.start()

    def is_alive(self) -> bool:
        """False: a thread ended by a mistake of ours, and the process must end too (law 10)."""
        parts = (self.watch, self.upkeep, self.ip_filters, self.bans, self.caches)
        return all(part.is_alive() for part in parts)

    def close(self) -> None:
        self.upkeep.close()
        self.watch.close()
        self.ip_filters.close()
        self.bans.close()
        self.caches.close()


def build_access(settings: Settings, engine: sa.Engine, cache: RedisLink) -> Access:
    """
    Every part, connected to nothing yet.

    Raises:
        Misconfigured: a setting cannot work.
    """
    instance = settings.instance_name
    uses_redis = settings.cache == "redis"
    pepper = _secret(settings.key_pepper, "KEY_PEPPER")
    direct = autocommit(engine)
    changes = Changes(engine, ChangeLog(cache, LogKeys(instance)) if uses_redis else None)
    watch = Watch(
        _secret(settings.database_url, "DATABASE_URL"),
        _secret(settings.redis_url, "REDIS_URL") if uses_redis else None,
        instance=instance,
    )
    caches = Caches(cache, pepper=pepper, trust=watch, changes=changes)
    peppers = Peppers.parse(pepper)

    def announce() -> None:
        # Without a log this process would hear of its own change with the next look, in up to two seconds.
        if not (changes.relay() and uses_redis):
            watch.urge()

    keys = VirtualKeys(direct.connect, peppers, announce=announce)
    limit_copies = LimitCopies(caches, instance)
    limit_keys = LimitKeys(instance)
    used = cache if uses_redis else None
    limiter = Limiter(used, _fallback(settings.limits_without_redis, watch))
    renewal = ConcurrencyRenewal(engine, limiter, limit_keys, used)
    key_limits = KeyLimits(keys.find_many, copy=limit_copies.copy, write=limit_copies.write)
    access = Access(
        changes=changes,
        watch=watch,
        caches=caches,
        proxies=TrustedProxies(settings.trusted_proxies),
        peppers=peppers,
        keys=keys,
        owners=Owners(keys),
        authenticator=Authenticator(caches, keys, peppers, learn=key_limits.learn),
        key_limits=key_limits,
        limit_copies=limit_copies,
        limits_refresh=LimitsRefresh(direct.connect, peppers, tell=changes.tell, write=limit_copies.write),
        limit_keys=limit_keys,
        limiter=limiter,
        renewal=renewal,
        upkeep=Upkeep([key_limits.tick, renewal.tick]),
        bans=_bans(settings, engine, cache, changes.relay),
        ip_filters=IpFilters(
            engine,
            key_exists=keys.exists,
            relay=changes.relay,
            cache=caches.add(ip_filters.spec(instance), lambda _: ip_filters.load_rules(engine)),
        ),
        audit=AuditLog(engine),
    )
    _listen(access)
    return access


def _listen(access: Access) -> None:
    """What each part does about a change, and when changes may have been lost. Heard once the watch is started."""
    watch = access.watch
    for hear in (access.authenticator.apply, access.limit_copies.apply, access.owners.apply, access.key_limits.apply):
        watch.listen(KeysChanged, hear)
    watch.listen(LimitsRefreshed, access.key_limits.apply)
    watch.listen(IpFiltersChanged, access.ip_filters.apply)
    watch.listen(BansChanged, access.bans.apply)
    watch.listen(EntriesDropped, access.caches.apply)
    watch.on_gap(lambda: access.caches.clear_memory("gap"))
    for forget in (
        access.owners.forget_all,
        access.key_limits.distrust,
        access.ip_filters.hurry,
        access.bans.hurry,
    ):
        watch.on_gap(forget)


def _fallback(policy: str, watch: Watch) -> Fallback:
    return Fallback(policy, LocalLimiter(lambda: watch.share))


def _bans(settings: Settings, engine: sa.Engine, cache: RedisLink, relay: Callable[[], object]) -> Bans:
    return Bans(
        engine,
        cache,
        settings.instance_name,
        after_failures=settings.ban_after_failures,
        ban_s=settings.ban_s,
        exempt=exempt_networks(settings.ban_exempt),
        relay=relay,
    )


def _secret(value: SecretStr | None, name: str) -> str:
    if value is None:
        raise Misconfigured(f"HEADRACE_{name}: not set")
    return value.get_secret_value()
