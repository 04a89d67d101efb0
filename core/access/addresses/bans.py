"""
Bans: who failed to log in too often, or whom an operator shut out, is refused before anything is looked up.

The row in PostgreSQL is the truth (`ban_table.py`); Redis holds a copy for others to see, every process one in memory
that the door reads. A valid login clears nothing, or whoever has one key could guess others for ever.

Fails closed where it can: with Redis away failures count in this process, with the database away a ban is in Redis and
in memory until its row can be written. A process that has not been able to read the bans yet lets banned clients in,
as far as their key lets them: a ban hinders guessing, it is not what keeps a stranger out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

import sqlalchemy as sa

from core.access.addresses import ban_table
from core.access.addresses.addresses import BanNetwork, Client, ban_networks
from core.access.addresses.ban_memory import MOST, BanMemory, DatabaseClock
from core.access.addresses.ban_table import BanNotFound, BanPage, BanRow, NewBan, number_of, parse_ban_network
from core.access.addresses.ban_writer import BanWriter
from core.access.addresses.failed_logins import Crossing, FailedLogins, FoundBan
from core.access.addresses.networks import Address, Networks, parse_network
from core.access.addresses.reader import Reader
from core.connections import RedisLink, database_errors
from core.errors import InvalidRequest, Misconfigured, StoreUnavailable
from core.events.access import BansChanged

logger = logging.getLogger(__name__)

MOST_DAYS = 3650
LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Ban:
    """
    Args:
        network: a CIDR that holds the client's address.
        left_s: whole seconds until it ends, at least 1.
    """

    network: str
    left_s: int


def exempt_networks(cidrs: Sequence[str]) -> Networks:
    """Raises: Misconfigured."""
    try:
        return Networks(cidrs, field="ban_exempt")
    except InvalidRequest as error:
        raise Misconfigured(f"HEADRACE_BAN_EXEMPT: {error}") from None


class Bans:
    """
    Thread-safe.

    Args:
        exempt: never banned, beside loopback.
        relay: brings what was committed to the other processes; it may fail to reach them, they find out by themselves.
    """

    def __init__(
        self,
        engine: sa.Engine,
        link: RedisLink,
        instance: str,
        *,
        after_failures: int,
        ban_s: float,
        exempt: Networks,
        relay: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._ban_s = ban_s
        self._exempt = exempt
        self._relay = relay
        self._clock = DatabaseClock()
        self._memory = BanMemory(self._clock)
        self._failed = FailedLogins(link, instance, after=after_failures, ban_s=ban_s)
        self._writer = BanWriter(self._write)
        self._reloading = Lock()
        self._reader = Reader("bans", self.reload)

    def is_banned(self, client: Client) -> Ban | None:
        """From memory, in less than a microsecond while it is not banned."""
        end_of = self._memory.end_of
        for number in client.ban_numbers:
            if end_of(number):
                return self._in_force(client)
        return None

    def fail(self, client: Client, reason: str) -> Ban | None:
        """
        A log-in failed. One Lua call; the ban it makes or meets, if any.

        Args:
            reason: what was wrong, without any part of what was shown: "virtual key", "admin key".
        """
        if not client.counts_failures or client.address in self._exempt:
            return None
        known = self._in_force(client)
        if known is not None:
            return known  # of several that failed at once, another was the last
        networks = ban_networks(client.address)
        text = f"failed log-ins ({reason})"
        found = self._failed.fail(networks, text)
        if isinstance(found, FoundBan):
            if self._adopt(found):
                return self._in_force(client)
            found = self._failed.fail(networks, text)
            if isinstance(found, FoundBan):
                return None
        for crossing in found:
            self._start(crossing, text)
        return self._in_force(client)

    def add(self, ip: str, reason: str, until: datetime) -> BanRow:
        """
        An operator's ban, in the place of any other of that network.

        Args:
            ip: an address, or an IPv6 /64, /56 or /48; an IPv6 address stands for its /64.

        Raises:
            InvalidRequest: names the field.
        """
        network = parse_ban_network(ip, field="ip")
        self._check(parse_network(ip, field="ip").network_address, reason, until)
        with self._engine.begin() as connection:
            row = ban_table.add(connection, network, reason.strip(), until)
        self._tell([row])
        return row

    def lift(self, ip: str) -> BanRow:
        """
        End a ban now; its level stays.

        Raises:
            InvalidRequest: not what can be banned.
            BanNotFound: none is in force; the message names a wider one that is.
        """
        network = parse_ban_network(ip, field="ip")
        with self._engine.begin() as connection:
            row = ban_table.lift(connection, network)
            if row is None:
                raise _not_banned(connection, network)
        self._memory.put(network.number, end_ms=self._clock.now_ms(), version=row.version)
        self._failed.forget(network)
        self._relay()
        return row

    def get(self, ip: str) -> BanRow:
        """
        The row, in force or over.

        Raises:
            InvalidRequest: not what can be banned.
            BanNotFound: there is none, or it was forgotten.
        """
        network = parse_ban_network(ip, field="ip")
        with self._engine.connect() as connection:
            rows = ban_table.find(connection, [network])
            if not rows:
                raise _not_banned(connection, network)
            return rows[0]

    def page(self, *, limit: int = 50, cursor: str | None = None, all_of_them: bool = False) -> BanPage:
        """
        Those in force, by network; `all_of_them`: also those that ended within the last seven days.

        Raises:
            InvalidRequest: a cursor that is not ours.
        """
        with self._engine.connect() as connection:
            return ban_table.page(connection, limit=limit, cursor=cursor, all_of_them=all_of_them)

    def apply(self, change: BansChanged) -> None:
        """What happened to rows, heard at least once and in any order."""
        now_ms = self._clock.now_ms()
        for ban in change.bans:
            number = number_of(ban.network)
            if number is not None:
                # A deleted row has no end; kept as ended now, it outweighs older messages for a while.
                self._memory.put(number, end_ms=int(ban.until * 1000) or now_ms, version=ban.version)

    def reload(self) -> None:
        """
        Read all bans: at the start, and when changes may have been missed.

        Raises:
            StoreUnavailable: what is in memory goes on.
        """
        with self._reloading, database_errors("the bans were not read"):
            self._memory.begin()
            with self._engine.connect() as connection:
                asked_at = time.monotonic()
                self._clock.read(ban_table.clock(connection), asked_at=asked_at)
                rows = ban_table.load(connection, MOST)
            numbered = ((number_of(network), version, int(end_s * 1000)) for network, version, end_s in rows)
            self._memory.replace((number, version, end) for number, version, end in numbered if number is not None)
        for ban in self._writer.waiting():
            self._memory.put_now(ban.network.number, end_ms=self._first_end_ms(ban.ago_s))

    def forget_old(self, limit: int = 500) -> int:
        """Delete rows of bans that ended more than seven days ago; how many. Called until it says 0."""
        with self._engine.begin() as connection:
            count = ban_table.forget(connection, limit)
        if count:
            self._relay()
        return count

    def hurry(self) -> None:
        """Changes may have been missed: read all again, on the thread that does that. Returns at once."""
        self._reader.hurry()

    def start(self) -> None:
        """Read the bans on a thread of its own, now and whenever somebody hurries it, until it succeeds."""
        self._reader.start()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until every ban has its row."""
        return self._writer.flush(timeout_s)

    @property
    def in_memory(self) -> int:
        return len(self._memory)

    def is_alive(self) -> bool:
        """False: its thread ended by a mistake of ours, and the process must end too (law 10)."""
        return self._reader.is_alive()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _in_force(self, client: Client) -> Ban | None:
        now_ms = self._clock.now_ms()
        for place, number in enumerate(client.ban_numbers):
            left_ms = self._memory.end_of(number) - now_ms
            if left_ms > 0 and not client.is_loopback and client.address not in self._exempt:
                return Ban(ban_networks(client.address)[place].cidr, -(-left_ms // 1000))
        return None

    def _start(self, crossing: Crossing, reason: str) -> None:
        self._memory.put_now(crossing.network.number, end_ms=self._first_end_ms(0.0))
        self._writer.put(NewBan(crossing.network, reason, crossing.failures))
        logger.warning("a client was banned", extra={"network": crossing.network.cidr, "failures": crossing.failures})

    def _first_end_ms(self, ago_s: float) -> int:
        """Of a ban that has no row yet: its level is not known, so it is taken for the first."""
        return self._clock.now_ms() + int((self._ban_s - ago_s) * 1000)

    def _adopt(self, found: FoundBan) -> bool:
        """
        Redis has a ban that this process does not know of. False: it has no row, so it was lifted while Redis was away.

        One made just now may have no row yet. Without the database it is believed: closed.
        """
        if not found.is_young:
            with suppress(StoreUnavailable), database_errors("the ban was not read"):
                with self._engine.connect() as connection:
                    rows = ban_table.find(connection, [found.network])
                for row in rows:
                    self._remember(row)
                if not any(row.is_active for row in rows):
                    self._failed.forget(found.network)
                    return False
                return True
        self._memory.put_now(found.network.number, end_ms=self._clock.now_ms() + found.left_ms)
        return True

    def _write(self, bans: Sequence[NewBan]) -> None:
        with self._engine.begin() as connection:
            rows = ban_table.write(connection, bans, ban_s=self._ban_s)
        self._tell(rows)

    def _tell(self, rows: Sequence[BanRow]) -> None:
        """After the commit: this process's memory, Redis, and the others."""
        now_ms = self._clock.now_ms()
        for row in rows:
            self._remember(row)
        self._failed.tell([(row, int(row.end_s * 1000) - now_ms) for row in rows])
        self._relay()

    def _remember(self, row: BanRow) -> None:
        number = number_of(row.network)
        if number is not None:
            self._memory.put(number, end_ms=int(row.end_s * 1000), version=row.version)

    def _check(self, address: Address, reason: str, until: datetime) -> None:
        if address.is_loopback or address in self._exempt:
            raise InvalidRequest(
                "ip: is never banned (loopback, or of HEADRACE_BAN_EXEMPT); refuse it with an IP filter", field="ip"
            )
        if not 1 <= len(reason.strip()) <= LONGEST_REASON or not reason.isprintable():
            raise InvalidRequest(f"reason: 1 to {LONGEST_REASON} printable characters", field="reason")
        if until.tzinfo is None:
            raise InvalidRequest("until: must carry a time zone, e.g. 2026-01-31T12:00:00Z", field="until")
        now = datetime.now(UTC)
        if not now < until <= now + timedelta(days=MOST_DAYS):
            raise InvalidRequest(f"until: must lie ahead, and within {MOST_DAYS} days", field="until")


def _not_banned(connection: sa.Connection, network: BanNetwork) -> BanNotFound:
    wider = [n for n in ban_networks(network.first) if n.number != network.number]
    found = [row.network for row in ban_table.find(connection, wider) if row.is_active]
    hint = f"; it lies in {found[0]}, lift that" if found else ""
    return BanNotFound(f"{network.word} is not banned{hint}")
