"""
IP filters: which addresses may come in, for everybody and for single keys.

The door asks a compiled copy in memory. Each change makes every process read the set again: the event names a version,
and a set that is older than it does not count. The last good set answers while nothing newer can be read. Before the
first one was read nobody gets in: closed, a filter that is not known yet may be one that refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from core.access.addresses import ip_filter_table, ip_rules
from core.access.addresses.ip_filter_table import IpFilter, IpFilterPage
from core.access.addresses.ip_rules import Action, CompiledRules, RuleSet, Verdict
from core.access.addresses.networks import Address, parse_network
from core.access.addresses.reader import Reader
from core.cache.cache import Cache
from core.cache.spec import CacheSpec
from core.connections import database_errors
from core.errors import InvalidRequest, Unavailable
from core.events.access import IpFiltersChanged

T = TypeVar("T")

ALL = "all"
"""The id of the one entry."""
REREAD_S = 300.0  # even when nothing was heard
LONGEST_NOTE = 500


def spec(instance: str) -> CacheSpec[RuleSet]:
    """The declaration of the cache `ip_filters`: one entry, the enabled rules; see `ip_rules.encode`."""
    return CacheSpec(
        name="ip_filters",
        key=lambda _: f"{instance}ip_filters",
        encode=ip_rules.encode,
        decode=ip_rules.decode,
        version=lambda rules: rules.version,
        ttl_s=300,
        memory_s=300,
        memory_entries=1,
        grants_rights=True,
        dropped_by=(IpFiltersChanged,),
    )


def load_rules(engine: sa.Engine) -> RuleSet:
    """The truth."""
    with engine.connect() as connection:
        return ip_filter_table.load(connection)


class IpFilters:
    """
    Thread-safe. `start` reads the rules and keeps them; who only changes rules need not start it.

    Args:
        key_exists: whether there is a virtual key of this id.
        relay: brings what was committed to the other processes; it may fail to reach them.
        cache: of `spec`, shared by all processes, so that one may start while the database is away; None: none is.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        key_exists: Callable[[str], bool],
        relay: Callable[[], object],
        cache: Cache[RuleSet] | None = None,
    ) -> None:
        self._engine = engine
        self._key_exists = key_exists
        self._relay = relay
        self._cache = cache
        self._compiled: CompiledRules | None = None
        self._wanted = 0
        self._wanting = threading.Lock()
        self._reading = threading.Lock()
        self._reader = Reader("IP filters", self.reload, every_s=REREAD_S)

    def check(self, address: Address, key_id: str | None = None) -> Verdict:
        """
        Whether this address may come in; from memory, a few microseconds.

        Args:
            key_id: None: only the rules for everybody; else those of this key too.

        Raises:
            Unavailable: the rules were never read.
        """
        compiled = self._compiled
        if compiled is None:
            raise Unavailable("the IP filters were not read yet; try again", retry_after_s=1)
        return compiled.check(address, key_id)

    @property
    def version(self) -> int | None:
        """Of the set that answers; None: none was read yet."""
        compiled = self._compiled
        return None if compiled is None else compiled.version

    def create(
        self, action: Action, cidr: str, *, key_id: str | None = None, enabled: bool = True, note: str = ""
    ) -> IpFilter:
        """
        Raises:
            InvalidRequest: names the field.
            IpFilterExists: the same rule is there, enabled or not.
            TooManyIpFilters: 10,000 are.
        """
        values = self._checked({"action": action, "cidr": cidr, "key_id": key_id, "enabled": enabled, "note": note})
        return self._write(lambda connection: ip_filter_table.insert(connection, values))

    def get(self, filter_id: str) -> IpFilter:
        """Raises: IpFilterNotFound."""
        with self._engine.connect() as connection:
            return ip_filter_table.find(connection, filter_id)

    def page(self, *, limit: int = 50, cursor: str | None = None, key_id: str | None = None) -> IpFilterPage:
        """
        Oldest first.

        Args:
            key_id: only those of this key.

        Raises:
            InvalidRequest: a cursor that is not ours.
        """
        with self._engine.connect() as connection:
            return ip_filter_table.page(connection, limit=limit, cursor=cursor, key_id=key_id)

    def update(self, filter_id: str, **changes: Any) -> IpFilter:
        """
        Args:
            changes: of action, cidr, key_id (None: for everybody), enabled, note; the rest stays.

        Raises:
            InvalidRequest, IpFilterNotFound, IpFilterExists.
        """
        values = self._checked(changes)
        return self._write(lambda connection: ip_filter_table.change(connection, filter_id, values))

    def delete(self, filter_id: str) -> None:
        """Raises: IpFilterNotFound."""
        self._write(lambda connection: ip_filter_table.delete(connection, filter_id))

    def check_now(self, address: Address, key_id: str | None) -> Verdict:
        """For a process that does not keep the rules: by the set of this moment, and the same decision."""
        return CompiledRules(load_rules(self._engine)).check(address, key_id)

    def apply(self, change: IpFiltersChanged) -> None:
        """The set has this version now, or a later one. Returns at once."""
        with self._wanting:
            self._wanted = max(self._wanted, change.version)
        if self._wanted > (self.version or 0):
            self._reader.hurry()

    def reload(self) -> None:
        """
        Read the set again: at the start, and when changes may have been missed.

        Raises:
            StoreUnavailable: the last good set goes on.
        """
        with self._reading, database_errors("the IP filters were not read"):
            rules = self._newest()
            if self._compiled is None or rules.version >= self._compiled.version:
                self._compiled = CompiledRules(rules)

    def hurry(self) -> None:
        """Changes may have been missed: read again, on the thread that does that. Returns at once."""
        self._reader.hurry()

    def start(self) -> None:
        """Read the rules on a thread of its own, and follow the changes there."""
        self._reader.start()

    def is_alive(self) -> bool:
        """False: its thread ended by a mistake of ours, and the process must end too (law 10)."""
        return self._reader.is_alive()

    def close(self) -> None:
        self._reader.close()

    def _newest(self) -> RuleSet:
        wanted, cache = self._wanted, self._cache
        if cache is None:
            return load_rules(self._engine)
        cache.drop([ALL], reason="ip_filters")  # what this process remembers is compiled already
        rules = cache.get(ALL)
        if rules is None or rules.version < wanted:
            rules = load_rules(self._engine)
            cache.put(ALL, rules)
        return rules

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        found = dict(values)
        if "cidr" in found:
            found["cidr"] = parse_network(found["cidr"], field="cidr")
        note: str | None = found.get("note")
        if note is not None and (len(note) > LONGEST_NOTE or not (note == "" or note.isprintable())):
            raise InvalidRequest(f"note: at most {LONGEST_NOTE} printable characters", field="note")
        key_id: str | None = found.get("key_id")
        if key_id is not None and not (key_id.isalnum() and key_id.isascii() and self._key_exists(key_id)):
            raise InvalidRequest(f"key_id: no virtual key {key_id[:60]!r}", field="key_id")
        return found

    def _write(self, act: Callable[[sa.Connection], T]) -> T:
        with self._engine.begin() as connection:
            ip_filter_table.lock(connection)
            done = act(connection)
            version = ip_filter_table.version(connection)
        self._relay()
        self.apply(IpFiltersChanged(version))
        if self._compiled is not None:
            self._catch_up()
        return done

    def _catch_up(self) -> None:
        """This process's own change is in force when its caller hears that it is done."""
        try:
            self.reload()
        except Unavailable:
            # Nothing is lost: it was committed, and the thread goes on trying.
            self.hurry()
