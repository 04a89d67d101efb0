"""
What it costs to know a key: from memory, from Redis, from the database; then the whole door, and how late a revocation.

All in one run, by turns, so that ratios are of the same moments of the machine. Beside it LiteLLM's DualCache with an
entry of the same size, and the `limits` library (bench/limiter.py).

`keys_redis_*` is the validation of a key that this process does not know but Redis does; `keys_first_use_*` is that and
the copy of its limits, which a web process fetches too. `keys_database_*` is the look-up of the row by the same clear
key, without any cache. `redis_get_*`, a bare GET of that entry, is what the machine and redis-py cost any caller.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from bench import in_memory, invalidation, limiter, whole_door
from bench.figures import Report, percentile
from bench.peer_environment import PEERS, PeersMissing, peer_environment
from bench.processes import output_of
from bench.system import Servers, plain_redis
from core.access.keys.authenticator import Authenticator
from core.access.keys.key_limits import KeyLimits
from core.access.keys.limit_copies import LimitCopies
from core.access.keys.model import VirtualKey
from core.app import App, open_app
from core.cache.caches import Caches
from core.connections import RedisLink
from core.errors import Unavailable
from core.events.access import Limits
from core.settings import Settings

KEYS = 100
LIMITS = Limits(rpm=1_000_000, rpd=100_000_000, tpm=10**12, concurrency=1_000_000)
SEEDS_RATIO = 50  # what the seed says of its Redis cache beside its database
_READY_S = 10.0


def expect(report: Report) -> None:
    report.expect("keys_memory_p50_us", "<", 5)
    report.expect("keys_memory_vs_database", ">=", 100)
    report.expect("keys_redis_p99_us", "<", 1_000)
    report.expect("keys_first_use_p99_us", "<", 1_000)
    report.expect("door_p99_us", "<", 1_000)
    report.expect("door_redis_calls_per_request", "<=", 1)
    report.expect("door_redis_calls_per_request_alone", "<=", 1.02)
    in_memory.expect(report)
    invalidation.expect(report)


def run(servers: Servers, report: Report, *, quick: bool) -> None:
    settings = servers.fresh("bench_keys")
    rounds, reads = (1, 2_000) if quick else (5, 10_000)
    with open_app(settings) as app:
        _start(app)
        keys = [app.keys.create("bench", limits=LIMITS).clear_key for _ in range(KEYS)]
        for key in keys:
            _learn(app, key)
        entry = _entry(app, settings, keys[0])
        report.add("keys_entry_bytes", len(entry))
        for _ in range(rounds):
            _tiers(app, settings, keys, report, reads=reads)
            _peer(servers, report, entry, reads=reads)
        in_memory.measure(app, report)
        whole_door.measure(app, keys, report, seconds=2 if quick else 10)
    _ratios(report)
    invalidation.run(servers, report, rounds=50 if quick else 500)
    limiter.run(servers, report, decisions=1_000 if quick else 5_000, rounds=1)


def _start(app: App) -> None:
    """As a web process starts, until it believes what is in memory and in Redis."""
    app.access.start(is_door=True)
    give_up = time.monotonic() + _READY_S
    while not (app.access.watch.is_current() and app.access.watch.epoch()):
        if time.monotonic() > give_up:
            raise RuntimeError("the watch did not hear of changes within 10 s")
        time.sleep(0.01)


def _learn(app: App, clear_key: str) -> None:
    """From the database into both tiers; as a stranger's look-up it waits for the gate."""
    while True:
        try:
            return _must_open(app.access.authenticator.authenticate(clear_key).key)
        except Unavailable:
            time.sleep(0.02)


def _tiers(app: App, settings: Settings, keys: Sequence[str], report: Report, *, reads: int) -> None:
    peek, database = app.access.authenticator.peek, app.keys.authenticate
    _time(report, "keys_memory", peek, keys, passes=reads // KEYS)
    redis_url, pepper = settings.redis_url, settings.key_pepper
    assert redis_url is not None
    assert pepper is not None
    for name, learns in (("keys_redis", False), ("keys_first_use", True)):
        with closing(RedisLink(redis_url.get_secret_value())) as link:
            caches = Caches(link, pepper=pepper.get_secret_value(), trust=app.access.watch)
            copies = LimitCopies(caches, settings.instance_name)
            limits = KeyLimits(app.keys.find_many, copy=copies.copy, write=copies.write)
            stranger = Authenticator(caches, app.keys, app.access.peppers, learn=limits.learn if learns else None)

            def ask(key: str, stranger: Authenticator = stranger) -> VirtualKey | None:
                return stranger.authenticate(key).key

            def forget(caches: Caches = caches) -> None:
                caches.clear_memory("bench")

            _time(report, name, ask, keys, passes=max(5, reads // 5 // KEYS), before_each=forget)
            counted = stranger.cache.counters.take()
            if counted.get("loads") or counted.get("memory"):
                raise RuntimeError(f"{name}: not all answers came from Redis: {counted}")
    names = [f"vkey:{app.access.peppers.entry_id(key)}" for key in keys]
    with plain_redis(settings) as client:
        _time(report, "redis_get", client.get, names, passes=max(5, reads // 5 // KEYS))
    _time(report, "keys_database", database, keys, passes=max(5, reads // 5 // KEYS))


def _time(
    report: Report,
    name: str,
    ask: Callable[[str], object],
    keys: Sequence[str],
    *,
    passes: int,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """A pass asks for each key once; the first pass connects, and does not count."""
    took: list[float] = []
    for number in range(passes + 1):
        before_each()
        for key in keys:
            began = time.perf_counter()
            found = ask(key)
            ended = time.perf_counter()
            _must_open(found)
            if number:
                took.append((ended - began) * 1e6)
    report.add(f"{name}_p50_us", percentile(took, 0.5))
    report.add(f"{name}_p99_us", percentile(took, 0.99))


def _entry(app: App, settings: Settings, clear_key: str) -> str:
    """The key's copy in Redis, as it lies there."""
    with plain_redis(settings) as client:
        found = client.get(f"vkey:{app.access.peppers.entry_id(clear_key)}")
    if not isinstance(found, bytes):
        raise TypeError("the key has no copy in Redis")
    return found.decode()


def _peer(servers: Servers, report: Report, entry: str, *, reads: int) -> None:
    try:
        python = str(peer_environment() / "python")
    except PeersMissing as error:
        note = f"without LiteLLM: {error}"
        if note not in report.notes:
            report.notes.append(note)
        return
    env = {"PATH": os.environ.get("PATH", ""), "BENCH_REDIS_URL": servers.peer_redis_url()}
    text = output_of([python, "dual_cache.py", str(reads)], env=env, cwd=PEERS, given=entry)
    for figure, value in json.loads(text.splitlines()[-1]).items():
        report.add(f"litellm_{figure}", value)


def _ratios(report: Report) -> None:
    for tier in ("memory", "redis", "first_use"):
        report.add_ratio(f"keys_{tier}_vs_database", "keys_database_p50_us", f"keys_{tier}_p50_us")
    report.add_ratio("keys_memory_vs_litellm", "litellm_memory_p50_us", "keys_memory_p50_us")
    report.add_ratio("keys_redis_vs_litellm", "litellm_redis_p50_us", "keys_redis_p50_us")
    report.add_ratio("keys_redis_vs_get", "keys_redis_p50_us", "redis_get_p50_us")
    found = report.ratios.get("keys_redis_vs_database", 0)
    report.notes.append(f"the seed says {SEEDS_RATIO} x of Redis beside the database; here it is {found:.1f} x")
    report.notes.append(
        "load of the machine (1, 5, 15 minutes): " + " ".join(f"{load:.1f}" for load in os.getloadavg())
    )


def _must_open(key: object | None) -> None:
    if key is None:
        raise RuntimeError("a key was refused; the figures would be of refusals")
