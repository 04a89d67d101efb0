"""
An exhaustive model of the status cache: every interleaving of a writer and two readers, with eviction, lost and late
writes, late fills and time passing. The rules are those of `core/tasks/status.py` in eight lines; the script itself
is held against the same rules in `test_status.py`.

Time is in half-lives of a live copy: a live copy that read its time at `t` is gone at `t + 2`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

FINAL = 3  # version of the final row; 1 and 2 are live
LIFE = 2
END = 4  # a run is bounded by this many ticks: two whole lives of a live copy


@dataclass(frozen=True)
class Entry:
    """A copy, or a writer's mark: it answers nobody and keeps older copies out for one life."""

    version: int
    as_of: int
    is_mark: bool = False


@dataclass(frozen=True)
class Reader:
    """Sends its ETag when `has_etag`; `fill` is a row it read and has not stored yet: (version, as_of)."""

    has_etag: bool
    seen: int = 0
    fill: tuple[int, int] | None = None
    reads_left: int = 2


@dataclass(frozen=True)
class World:
    now: int = 0
    row: int = 1
    committed_at: tuple[int, ...] = (0, 0, -1, -1)
    """When each version was committed; -1: not yet."""
    cache: Entry | None = None
    unsent: tuple[int, ...] = ()
    """Announcements of the writer that are still on their way: versions."""
    readers: tuple[Reader, ...] = (Reader(has_etag=True), Reader(has_etag=False))


@dataclass(frozen=True)
class Rules:
    """`bounded`: a live copy ends by its as_of. `ordered`: an older copy never replaces a newer one. `etag_checked`: an
    entry older than the reader's ETag is not an answer."""

    bounded: bool = True
    ordered: bool = True
    etag_checked: bool = True


def fresh(world: World, rules: Rules) -> Entry | None:
    """The entry as Redis would answer now."""
    entry = world.cache
    if entry is None or entry.version == FINAL or not rules.bounded:
        return entry
    return entry if world.now < entry.as_of + LIFE else None


def announce(world: World, version: int, rules: Rules) -> World:
    """A final row is stored; of a live one only a mark."""
    entry = fresh(world, rules)
    if rules.ordered and entry is not None and entry.version >= version:
        return world
    return replace(world, cache=Entry(version, world.now, is_mark=version != FINAL))


def put(world: World, version: int, as_of: int, rules: Rules) -> World:
    entry = fresh(world, rules)
    if rules.ordered and entry is not None and entry.version > version:
        return world
    if rules.bounded and version != FINAL and world.now >= as_of + LIFE:
        return replace(world, cache=None) if entry is not None and entry.version < version else world
    return replace(world, cache=Entry(version, as_of))


class Violation(Exception):
    pass


def answer(world: World, place: int, version: int) -> World:
    """A reader gets this version: check law 4, remember what it saw."""
    reader = world.readers[place]
    if reader.has_etag and version < reader.seen:
        raise Violation(f"a client with ETag {reader.seen} got {version} at {world.now}")
    newer = version + 1
    if newer <= FINAL and 0 <= world.committed_at[newer] <= world.now - LIFE:
        raise Violation(f"version {version} was answered {LIFE} after {newer} was committed, at {world.now}")
    return with_reader(world, place, replace(reader, seen=max(reader.seen, version), reads_left=reader.reads_left - 1))


def with_reader(world: World, place: int, reader: Reader) -> World:
    readers = list(world.readers)
    readers[place] = reader
    return replace(world, readers=tuple(readers))


def steps(world: World, rules: Rules) -> Iterator[World]:
    if world.now < END:
        yield replace(world, now=world.now + 1)
    if world.cache is not None:
        yield replace(world, cache=None)  # evicted, or FLUSHALL
    if world.row < FINAL:  # the writer commits; the announcement goes on its way
        committed = list(world.committed_at)
        committed[world.row + 1] = world.now
        sent = (*world.unsent, world.row + 1)
        yield replace(world, row=world.row + 1, committed_at=tuple(committed), unsent=sent)
    for place, version in enumerate(world.unsent):
        rest = world.unsent[:place] + world.unsent[place + 1 :]
        yield replace(world, unsent=rest)  # lost
        yield announce(replace(world, unsent=rest), version, rules)  # arrives, however late and in any order
    for place, reader in enumerate(world.readers):
        if reader.fill is not None:
            yield with_reader(put(world, *reader.fill, rules), place, replace(reader, fill=None))  # stored, late or not
            yield with_reader(world, place, replace(reader, fill=None))  # the fill is lost
        elif reader.reads_left:
            entry = fresh(world, rules)
            too_old = rules.etag_checked and reader.has_etag and entry is not None and entry.version < reader.seen
            if entry is not None and not entry.is_mark and not too_old:
                yield answer(world, place, entry.version)
            else:
                read = answer(world, place, world.row)
                yield with_reader(read, place, replace(read.readers[place], fill=(world.row, world.now)))


def explore(rules: Rules) -> int:
    """Visit every reachable world; returns how many there are. Raises Violation at the first bad answer."""
    first = World()
    seen, front = {first}, [first]
    while front:
        for following in steps(front.pop(), rules):
            if following not in seen:
                seen.add(following)
                front.append(following)
    return len(seen)


def test_no_interleaving_shows_an_older_state_or_one_older_than_the_bound() -> None:
    assert explore(Rules()) > 20_000


@pytest.mark.parametrize("broken", [Rules(bounded=False), Rules(etag_checked=False)])
def test_the_model_finds_each_rule_that_is_left_out(broken: Rules) -> None:
    with pytest.raises(Violation):
        explore(broken)
