"""
The composition root: everything is built once here, from settings, and closed in reverse.

`with open_app() as app:` is all a producer needs. With no URLs set it finds the servers of the data directory, or
starts them for its own duration.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import SecretStr

from core.access.keys.virtual_keys import VirtualKeys
from core.access.limits.settlement import Settlement
from core.access.parts import Access, build_access
from core.capabilities.copies import CapabilityCopies
from core.capabilities.directory import Capabilities
from core.capabilities.overrides import Overrides
from core.capabilities.requests import DiscoveryRequests
from core.connections import RedisLink, autocommit, connect_database, database_errors
from core.embedded import open_servers
from core.errors import Misconfigured, NotFound, Unavailable
from core.events import providers as provider_events
from core.events.providers import ProviderChanged
from core.providers.table import Providers
from core.schedules.book import ScheduleBook
from core.schema import check_revision, upgrade
from core.sealing import Sealing
from core.settings import Settings, default_broker_url, load_settings, sqlalchemy_url, variable
from core.task_types.spec import TaskTypes, load_task_types
from core.tasks import queues
from core.tasks.bells import BellKeys, RedisBells
from core.tasks.client import TaskClient
from core.tasks.queues import KnownQueues
from core.tasks.status import StatusCopies, StatusKeys


@dataclass(frozen=True, slots=True)
class App:
    """One process's parts. `settings` has every URL and secret filled in."""

    settings: Settings
    engine: sa.Engine
    cache: RedisLink
    bells: RedisBells
    copies: StatusCopies
    status_keys: StatusKeys
    types: TaskTypes
    access: Access
    tasks: TaskClient
    schedules: ScheduleBook
    providers: Providers
    capabilities: Capabilities
    capability_copies: CapabilityCopies
    capability_overrides: Overrides
    discoveries: DiscoveryRequests

    @property
    def keys(self) -> VirtualKeys:
        return self.access.keys

    def check(self) -> None:
        """
        Raises:
            StoreUnavailable: the database does not answer.
            Misconfigured: the database is at another revision.
        """
        with database_errors("nothing was done"), self.engine.connect() as connection:
            check_revision(connection)


@contextmanager
def open_app(settings: Settings | None = None) -> Generator[App]:
    """
    Build the application; on leaving, close it and the servers that were started for it.

    Servers started here are brought to the newest schema; a database given by URL must be there already.

    Raises:
        Misconfigured: a setting cannot work; the message says which.
    """
    given = settings or load_settings()
    with open_servers(given) as ready:
        app = build_app(ready)
        try:
            if given.database_url is None:
                _bring_up_to_date(app)
            yield app
        finally:
            app.access.close()
            app.tasks.close()
            app.capabilities.close()
            app.cache.close()
            app.bells.link.close()
            app.engine.dispose()


def _bring_up_to_date(app: App) -> None:
    try:
        app.check()
    except Misconfigured:
        upgrade(sqlalchemy_url(_secret(app.settings.database_url, "DATABASE_URL")))


def build_app(settings: Settings) -> App:
    """Every part, connected to nothing yet."""
    redis_url = _secret(settings.redis_url, "REDIS_URL")
    broker_url = settings.broker_url.get_secret_value() if settings.broker_url else default_broker_url(redis_url)
    if not broker_url.startswith(("redis://", "rediss://", "unix://")):
        raise Misconfigured("BROKER_URL: use redis:// or rediss://; other brokers are not offered yet")
    engine = connect_database(_secret(settings.database_url, "DATABASE_URL"))
    types = load_task_types(modules=settings.task_modules, diagnostics=settings.offers_diagnostics)
    cache = RedisLink(redis_url, is_off=settings.cache == "memory")
    access = build_access(settings, engine, cache)
    caches = access.caches
    bells = RedisBells(RedisLink(broker_url), BellKeys(settings.instance_name))
    status_keys = StatusKeys(settings.instance_name)
    copies = StatusCopies(cache, status_keys, Settlement(access.limiter, access.limit_keys))

    def read_queues() -> list[queues.Queue]:
        with database_errors("the queues were not read"), autocommit(engine).connect() as connection:
            return queues.load(connection)

    known_queues = KnownQueues(read_queues)
    capability_copies = CapabilityCopies(cache, settings.instance_name, caches.counters("provider_capabilities"))
    heard: list[Callable[[ProviderChanged], None]] = []
    providers = _providers(settings, engine, links=(cache, bells.link), heard=heard)
    capabilities = Capabilities(engine, capability_copies, providers.list)
    discoveries = DiscoveryRequests(engine, providers, bells.ring)
    heard.append(lambda event: _discover_again(event, discoveries, capability_copies))
    tasks = TaskClient(
        engine,
        types=types,
        owners=access.owners,
        queues=known_queues,
        copies=copies,
        bells=bells,
        check_model=capabilities.check_loaded,
        status_counters=caches.counters("task_status"),
    )
    caches.add_other("task_status", drop_in_redis=copies.drop, forget=tasks.statuses.memory.drop)
    # In memory a list is only ever what the rows say.
    caches.add_other("provider_capabilities", drop_in_redis=capability_copies.drop_all, forget=lambda _: None)
    return App(
        settings=settings,
        engine=engine,
        cache=cache,
        bells=bells,
        copies=copies,
        status_keys=status_keys,
        types=types,
        access=access,
        tasks=tasks,
        schedules=ScheduleBook(
            engine, types=types, owners=access.owners, queues=known_queues, check_model=capabilities.check_loaded
        ),
        providers=providers,
        capabilities=capabilities,
        capability_copies=capability_copies,
        capability_overrides=Overrides(engine, providers.get, capability_copies.publish),
        discoveries=discoveries,
    )


def _discover_again(event: ProviderChanged, discoveries: DiscoveryRequests, copies: CapabilityCopies) -> None:
    """After a change of a provider; what fails here the revalidation of the web processes makes up for."""
    if event.version == 0:
        copies.drop(event.name)
        return
    with suppress(NotFound, Unavailable):
        discoveries.request_now(event.name)


def _providers(
    settings: Settings,
    engine: sa.Engine,
    *,
    links: Sequence[RedisLink],
    heard: Sequence[Callable[[ProviderChanged], None]],
) -> Providers:
    channel = provider_events.channel(settings.instance_name)

    def announce(event: ProviderChanged) -> None:
        # On both servers: the workers listen on the broker's, the others on the cache's. Heard twice it does no harm.
        for link in links:
            link.publish(channel, event.to_json())
        for hear in heard:
            hear(event)

    return Providers(
        engine,
        Sealing(_clear(settings.encryption_key)),
        variable,
        default_url=settings.provider_url,
        default_key=_clear(settings.provider_api_key),
        announce=announce,
    )


def _clear(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _secret(value: SecretStr | None, name: str) -> str:
    if value is None:
        raise Misconfigured(f"HEADRACE_{name}: not set")
    return value.get_secret_value()
