"""What failed log-ins, bans and limits leave in Redis is what docs/contract.md says: name, kind, life and value."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pytest

from tests.flows.redis_traffic import ALL, EVERY, ONE, OTHER, SIX, SIX_NETWORK, accepted
from tests.support.redis_names import Store
from tests.support.waiting import wait_until
from tests.web.proxied import from_address, operator
from tests.web.serving import Site


@pytest.mark.parametrize(("address", "word"), [(ONE, ONE), ("::ffff:" + ONE, ONE), (SIX, SIX_NETWORK)])
def test_failed_log_ins_are_counted_for_half_an_hour_that_no_further_one_extends(
    behind: Site, store: Store, address: str, word: str
) -> None:
    stranger = behind.caller.with_key("hr_nonsense")
    stranger.get(EVERY, **from_address(address))
    first = store.get(f"...failed_login:{word}")
    wait_until(lambda: store.get(f"...failed_login:{word}").life_ms < first.life_ms, what="some milliseconds passed")

    stranger.get(EVERY, **from_address(address))

    second = store.get(f"...failed_login:{word}")
    assert (first.kind, first.value, second.value) == ("string", b"1", b"2")
    assert second.life_ms < first.life_ms <= 1_800_000
    assert first.life_ms > 1_790_000


def test_a_ban_lies_until_it_ends_and_its_row_replaces_the_first_word_of_it(behind: Site, store: Store) -> None:
    stranger = behind.caller.with_key("hr_nonsense")
    statuses = [stranger.get(EVERY, **from_address(SIX)).status for _ in range(4)]
    operator(behind).post("/v1/admin/bans", {"ip": OTHER, "reason": "scans", "until": "2035-01-31T12:00:00Z"})

    assert statuses == [401, 401, 401, 403]
    name = f"...ban:{SIX_NETWORK}"
    found = store.get(name, lambda found: "at" not in found.json)  # its row is written
    assert found.kind == "string"
    assert 1_790_000 < found.life_ms <= 1_800_000
    assert set(found.json) == {"until", "reason", "level"}
    assert found.json["reason"] == "failed log-ins (virtual key)"
    assert abs(found.json["until"] - time.time() - 1800) < 60
    assert store.find(f"...failed_login:{SIX_NETWORK}") is None
    by_hand = store.get(f"...ban:{OTHER}")
    assert by_hand.json == {"until": datetime(2035, 1, 31, 12, tzinfo=UTC).timestamp(), "reason": "scans", "level": 0}
    assert abs(by_hand.life_ms / 1000 - (by_hand.json["until"] - time.time())) < 60
    # The wider networks are counted, and not banned.
    assert store.get("...failed_login:2001:db8:1::/56").value == b"3"
    assert store.get("...failed_login:2001:db8:1::/48").value == b"3"


def test_limits_lie_under_the_route_template_and_end_with_their_windows(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing", limits=ALL)
    task_id = accepted(behind, key)
    accepted(behind, key, address=SIX)
    behind.caller.with_key(key.clear_key).get(f"/v1/tasks/{task_id}", **from_address(ONE))

    of_address = store.get(f"...rate_limit:{ONE}:/v1/tasks")
    of_network = store.get(f"...rate_limit:{SIX_NETWORK}:/v1/tasks")
    of_template = store.get(f"...rate_limit:{ONE}:/v1/tasks/{{task_id}}")
    for found in (of_address, of_network, of_template):
        assert found.kind == "hash"
        assert set(found.value) == {"ip"}
        assert re.fullmatch(r"\d+ 1 0", found.value["ip"])
        assert 0 < found.life_ms <= 120_000  # a count weighs until the window after its own is over
    of_key = store.get(f"...vkey_rate:{key.key_id}:/v1/tasks")
    assert of_key.kind == "hash"
    assert set(of_key.value) == {"rpm", "rpd"}
    assert sum(int(part) for part in of_key.value["rpm"].split()[1:]) == 2
    assert of_key.value["rpd"] == f"{int(time.time() // 86_400)} 2 0"
    assert 86_400_000 <= of_key.life_ms <= 172_800_000


def test_tokens_are_a_bucket_with_a_reservation_a_task(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing", limits=ALL)
    task_id = accepted(behind, key)
    day = int(time.time() // 86_400)

    bucket = store.get(f"...vkey_rate:{key.key_id}:tokens")
    assert bucket.kind == "string"
    level, at, capacity = (float(part) for part in bucket.value.split())
    assert 0 < level < capacity == 100_000
    assert abs(at - time.time()) < 60
    assert 0 < bucket.life_ms <= 120_000
    held = store.get(f"...vkey_rate:{key.key_id}:tokens:{day}")
    assert held.kind == "hash"
    assert set(held.value) == {task_id}
    assert re.fullmatch(r"\d+ 100000", held.value[task_id])
    assert 86_400_000 <= held.life_ms <= 172_800_000


def test_a_task_that_is_not_final_holds_a_lease_that_is_renewed_by_one_process(behind: Site, store: Store) -> None:
    key = behind.app.keys.create("billing", limits=ALL)
    caller = behind.caller.with_key(key.clear_key)
    kept, cancelled = accepted(behind, key), accepted(behind, key)
    assert caller.post(f"/v1/tasks/{cancelled}/cancel", **from_address(ONE)).status == 200

    name = f"...vkey_rate:{key.key_id}:concurrency"
    found = store.get(name, lambda found: cancelled not in found.value)  # given back
    assert found.kind == "zset"
    assert set(found.value) == {kept}
    assert -1 < found.value[kept] - time.time() <= 61
    assert 0 < found.life_ms <= 60_000
    renewal = store.get("...vkey_rate:renewal")
    assert (renewal.kind, renewal.value) == ("string", b"1")
    assert 0 < renewal.life_ms <= 15_000


def test_the_admin_key_is_limited_under_its_own_name(behind: Site, store: Store) -> None:
    operator(behind).get("/v1/admin/keys")

    found = store.get("...vkey_rate:admin:/v1/admin/keys")
    assert (found.kind, set(found.value)) == ("hash", {"rpm"})
    assert 0 < found.life_ms <= 120_000
