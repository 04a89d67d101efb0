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

from core.access import ip_filter_table
from core.access.ip_filter_table import IpFilter, IpFilterPage
from core.access.ip_rules import Action, CompiledRules, RuleSet, Verdict
from core.access.networks import Address, parse_network
from core.access.reader import Reader
from core.connections import database_errors
from core.errors import InvalidRequest, Unavailable
from core.events.access import IpFiltersChanged

T = TypeVar("T")

REREAD_S = 300.0  # even when nothing was heard
LONGEST_NOTE = 500


class IpFilters:
    """
    Thread-safe. `start` reads the rules and keeps them; who only changes rules need not start it.

    Args:
        key_exists: whether there is a virtual key of this id.
        relay: brings what was committed to the other processes; it may fail to reach them.
        copy: the set by a copy that may be old, e.g. of Redis; None: there is no such copy.
        keep_copy: hands on what was read from the database.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        key_exists: Callable[[str], bool],
        relay: Callable[[], object],
        copy: Callable[[], RuleSet | None] | None = None,
        keep_copy: Callable[[RuleSet], None] | None = None,
    ) -> None:
        self._engine = engine
        self._key_exists = key_exists
        self._relay = relay
        self._copy = copy
        self._keep_copy = keep_copy
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
        with self._engine.connect() as connection:
            return CompiledRules(ip_filter_table.load(connection)).check(address, key_id)

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
            wanted = self._wanted
            rules = None if self._copy is None else self._copy()
            if rules is None or rules.version < wanted:
                with self._engine.connect() as connection:
                    rules = ip_filter_table.load(connection)
                if self._keep_copy is not None:
                    self._keep_copy(rules)
            if self._compiled is None or rules.version >= self._compiled.version:
                self._compiled = CompiledRules(rules)

    def hurry(self) -> None:
        """Changes may have been missed: read again, on the thread that does that. Returns at once."""
        self._reader.hurry()

    def start(self) -> None:
        """Read the rules on a thread of its own, and follow the changes there."""
        self._reader.start()

    def close(self) -> None:
        self._reader.close()

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
