"""Recorded histories of status reads, and the checker that finds what law 4 forbids in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def violations(writes: Sequence[Write], reads: Iterable[Read], *, tolerance_s: float = 0.0) -> list[str]:
    """What is wrong with a history; empty when it is as it should be."""
    found: list[str] = []
    newest: dict[tuple[str, str], list[Read]] = {}
    for read in sorted(reads, key=lambda read: read.began):
        own = [write for write in writes if write.task_id == read.task_id]
        if read.got not in {write.stamp for write in own}:
            found.append(f"{read} was never written")
        if read.sent is not None and read.got < read.sent:
            found.append(f"{read} is older than its ETag")
        due = [write.stamp for write in own if write.known_at < read.began - STALE_S - tolerance_s]
        if due and read.got < max(due):
            found.append(f"{read} is more than a second behind {max(due)}")
        before = newest.setdefault((read.process, read.task_id), [])
        if any(earlier.ended < read.began and earlier.got > read.got for earlier in before):
            found.append(f"{read} is older than what this process answered before")
        # Only the newest answers can be contradicted, and those still overlapping the next read.
        top = max((earlier.got for earlier in before), default=read.got)
        if read.got >= top:
            before.append(read)
    return found
