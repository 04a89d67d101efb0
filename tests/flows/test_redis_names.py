"""
Redis names are a contract: what traffic leaves in Redis is what docs/contract.md says, by name, kind, life and value.

Every key that is found must be a row of that table, so a new one cannot appear without being written down.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from core.access.keys.virtual_keys import NewVirtualKey
from core.events.access import Limits
from tests.flows.redis_traffic import ALL, EVERY, ONE, OTHER, SIX, accepted, asked
from tests.support.redis_names import Found, Store, documented, hash_of
from tests.support.waiting import wait_until
from tests.web.proxied import from_address, operator
from tests.web.serving import Caller, Site


def copied(site: Site, store: Store, *, overlap: timedelta | None = None, **fields: Any) -> tuple[NewVirtualKey, Found]:
    """
    A key with its copy. The first look of a process at the table of changes may put a tombstone in the place of a copy
    that was just made: then with another key.

    Args:
        overlap: the key is rotated, and the copy is that of its secret so far.
    """

    def make() -> list[tuple[NewVirtualKey, Found]]:
        key = site.app.keys.create("billing", **fields)
        if overlap is not None:
            site.app.keys.rotate(key.key_id, overlap)
        assert asked(site, key).status == 200
        found = store.get(f"vkey:{hash_of(site.app, key)}")
        return [] if "tombstone" in found.json else [(key, found)]

    return wait_until(make, 15, what="a key has a copy")[0]


def test_the_copy_of_a_key_lives_half_an_hour_and_holds_no_secret(behind: Site, store: Store) -> None:
    key, found = copied(behind, store, group="team-a", limits=ALL)

    assert found.kind == "string"
    assert 1_600_000 < found.life_ms <= 1_800_000  # up to a tenth less, so that not all end at once
    assert list(found.json) == ["version", "epoch", "mac", "value"]
    assert found.json["version"] == found.json["value"]["version"] == 1
    assert re.fullmatch("[0-9a-f]{64}", found.json["mac"])
    assert found.json["value"] == {
        "id": key.key_id,
        "name": "billing",
        "group": "team-a",
        "allowed_types": [],
        "allowed_models": [],
        "rpm": 100,
        "rpd": 1000,
        "tpm": 100_000,
        "concurrency": 4,
        "version": 1,
        "created_at": found.json["value"]["created_at"],
        "disabled_at": None,
        "expires_at": None,
        "secret_until": None,
    }
    assert key.clear_key[16:59].encode() not in found.value


def test_the_copy_of_a_key_does_not_outlive_the_key(behind: Site, store: Store) -> None:
    _, brief = copied(behind, store, expires_at=datetime.now(UTC) + timedelta(seconds=100))
    _, replaced = copied(behind, store, overlap=timedelta(seconds=50))

    assert 0 < brief.life_ms <= 100_000
    assert 0 < replaced.life_ms <= 50_000
    assert replaced.json["value"]["secret_until"] is not None


def test_a_change_of_a_key_leaves_a_tombstone_for_a_minute(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing", limits=ALL)
    key_hash = hash_of(behind.app, key)
    asked(behind, key)
    store.get(f"...vkey_ratelimits:{key_hash}")

    behind.app.keys.disable(key.key_id)

    for name in (f"vkey:{key_hash}", f"...vkey_ratelimits:{key_hash}"):
        found = store.get(name)
        assert (found.kind, found.json) == ("string", {"version": 2, "tombstone": True})
        assert 0 < found.life_ms <= 60_000
    assert wait_until(lambda: asked(behind, key).status == 401, what="the key is refused")
    refused = store.get(f"vkey:{key_hash}")
    if "value" in refused.json:  # a copy that grants nothing
        assert refused.json["value"]["disabled_at"] is not None
        assert refused.life_ms <= 10_000


def test_the_limits_of_a_key_lie_for_five_minutes(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing", limits=Limits(rpm=60, concurrency=4))

    asked(behind, key)

    found = store.get(f"...vkey_ratelimits:{hash_of(behind.app, key)}")
    assert found.kind == "string"
    assert 260_000 < found.life_ms <= 300_000
    assert found.json == {
        "version": 1,
        "value": {"rpm": 60, "rpd": None, "tpm": None, "concurrency": 4, "version": 1},
    }


def test_a_load_is_locked_for_three_seconds_at_most(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing")
    name = f"vkey:{hash_of(behind.app, key)}:lock"
    with ThreadPoolExecutor() as pool, behind.app.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE virtual_keys IN ACCESS EXCLUSIVE MODE"))
        asking = pool.submit(asked, behind, key)
        found = store.get(name)
        connection.rollback()
        assert asking.result(15).status == 200

    assert found.kind == "string"
    assert re.fullmatch(rb"[0-9a-f]{16}", found.value)
    assert 0 < found.life_ms <= 3000
    wait_until(lambda: store.find(name) is None, what="the lock is given back")


def test_ip_filters_lie_compiled_with_their_version(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing")
    made = operator(behind).post("/v1/admin/ip-filters", {"action": "deny", "cidr": "203.0.113.0/24"}).json

    assert asked(behind, key, OTHER).json["code"] == "address_refused"

    found = store.get("...ip_filters", lambda found: "value" in found.json)  # no tombstone any more
    assert found.kind == "string"
    assert 0 < found.life_ms <= 300_000
    assert list(found.json) == ["version", "epoch", "mac", "value"]
    assert found.json["value"] == {
        "version": found.json["version"],
        "rules": [{"id": made["id"], "action": "deny", "cidr": "203.0.113.0/24", "key_id": None}],
    }


def test_changes_are_a_capped_stream_with_an_unbroken_sequence(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing")
    behind.app.keys.disable(key.key_id)

    log, head = store.get("...changes"), store.get("...changes:seq")
    canary = store.get("...changes:canary")
    assert (log.kind, log.life_ms) == ("stream", -1)
    numbers = [int(at.split(b"-")[0]) for at, _ in log.value]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {frozenset(fields) for _, fields in log.value} <= {
        frozenset({b"id", b"change"}),
        frozenset({b"id", b"gap"}),
        frozenset({b"canary", b"by"}),
    }
    changes = [orjson.loads(fields[b"change"]) for _, fields in log.value if b"change" in fields]
    assert (2, key.key_id) in {
        (entry["version"], entry["id"]) for change in changes for entry in change.get("entries", ())
    }
    assert (head.kind, head.life_ms, set(head.value)) == ("hash", -1, {"epoch", "seq", "run_id"})
    assert int(head.value["seq"]) >= numbers[-1]
    assert canary.kind == "string"
    assert 0 < canary.life_ms <= 900


def test_statistics_are_bare_totals_without_an_end_and_a_hash_a_cache(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing")
    for _ in range(3):
        asked(behind, key)
    stats = "conduit:cache:stats:"

    store.get(stats + "hits", lambda found: int(found.value) >= 2)  # sent every five seconds

    for total in ("hits", "misses", "invalidations"):
        found = store.get(stats + total)
        assert (found.kind, found.life_ms) == ("string", -1)
        assert int(found.value) >= (0 if total == "invalidations" else 1)
    since = store.get(stats + "reset_time")
    assert (since.kind, since.life_ms) == ("string", -1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", since.value.decode())
    of_keys = store.get(stats + "cache:virtual_keys")
    assert (of_keys.kind, of_keys.life_ms) == ("hash", -1)
    assert int(of_keys.value["memory"]) >= 2
    assert "virtual_keys" in store.get(stats + "caches").value
    processes = store.get(stats + "processes")
    assert (processes.kind, processes.life_ms) == ("zset", -1)
    for process in processes.value:
        sent = store.get(f"{stats}sent:{process}")
        assert sent.kind == "string"
        assert 0 < sent.life_ms <= 3_600_000


def test_every_key_that_traffic_leaves_is_a_row_of_the_contract(behind: Site, store: Store) -> None:
    rows = list(documented(store.instance))
    seen: dict[str, str] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            for name in store.names():
                if name not in seen and (found := store.find(name)) is not None:
                    seen[name] = found.kind

    watching = threading.Thread(target=look)
    watching.start()
    try:
        drive(behind)
        wait_until(lambda: any(name.endswith(":stats:hits") for name in seen), 20, what="figures were sent")
    finally:
        stop.set()
        watching.join()

    unknown = {name for name in seen if not any(row.pattern.fullmatch(name) for row in rows)}
    assert unknown == set()
    for name, kind in seen.items():
        assert kind == next(row for row in rows if row.pattern.fullmatch(name)).kind, name
    left = {row.text for row in rows if not any(row.pattern.fullmatch(name) for name in seen)}
    assert left <= {"{entry}:lock", "...provider_capabilities_{providerName}"}  # a moment; another part's
    for secret in ("canary-prompt", "hr_"):
        assert not [name for name in seen if secret in name]


def drive(site: Site) -> None:
    key = site.app.keys.create("billing", limits=ALL)
    admin, stranger = operator(site), site.caller.with_key("hr_nonsense")
    task_id = accepted(site, key)
    asked(site, key, SIX)
    assert site.caller.with_key(key.clear_key).get(f"/v1/tasks/{task_id}", **from_address(ONE)).status == 200
    admin.post("/v1/admin/ip-filters", {"action": "deny", "cidr": "203.0.113.0/24"})
    asked(site, key, OTHER)
    for _ in range(4):
        stranger.get(EVERY, **from_address("192.0.2.1"))
    stranger.get(EVERY, **from_address(SIX))
    admin.post("/v1/keys/verify", {"key": key.clear_key, "ip": ONE, "tokens": 20_000})
    Caller(site.caller.url, key.clear_key).get("/v1/auth", **from_address(ONE))
