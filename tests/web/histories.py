"""Recorded histories of status reads, and the checker that finds what law 4 forbids in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from core.tasks.model import Stamp

STALE_S = 1.0


@dataclass(frozen=True)
class Write:
    """A version that was committed: at `known_at` the commit had returned."""

    task_id: str
    stamp: Stamp
    known_at: float


@dataclass(frozen=True)
class Read:
    """One answer. `sent`: the ETag of the request; `got`: the version answered (of the ETag, for a 304)."""

    process: str
    task_id: str
    began: float
    ended: float
    sent: Stamp | None
    got: Stamp


def violations(writes: Iterable[Write], reads: Iterable[Read], *, tolerance_s: float = 0.0) -> list[str]:
    """What is wrong with a history; empty when it is as it should be."""
    found: list[str] = []
    written: dict[str, list[Write]] = defaultdict(list)
    for write in writes:
        written[write.task_id].append(write)
    answered: dict[tuple[str, str], _Answered] = defaultdict(_Answered)
    for read in sorted(reads, key=lambda read: read.began):
        own = written[read.task_id]
        if all(write.stamp != read.got for write in own):
            found.append(f"{read} was never written")
        if read.sent is not None and read.got < read.sent:
            found.append(f"{read} is older than its ETag")
        due = [write.stamp for write in own if write.known_at < read.began - STALE_S - tolerance_s]
        if due and read.got < max(due):
            found.append(f"{read} is more than a second behind {max(due)}")
        before = answered[read.process, read.task_id]
        newest = before.newest_before(read.began)
        if newest is not None and read.got < newest:
            found.append(f"{read} is older than what this process answered before")
        before.add(read)
    return found


class _Answered:
    """What one process answered about one task, to be asked in the order of time."""

    def __init__(self) -> None:
        self._under_way: list[tuple[float, Stamp]] = []
        self._newest: Stamp | None = None

    def add(self, read: Read) -> None:
        heappush(self._under_way, (read.ended, read.got))

    def newest_before(self, moment: float) -> Stamp | None:
        while self._under_way and self._under_way[0][0] < moment:
            _, got = heappop(self._under_way)
            if self._newest is None or got > self._newest:
                self._newest = got
        return self._newest
