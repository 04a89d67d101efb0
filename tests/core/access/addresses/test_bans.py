"""Failed log-ins and bans, on a real Redis and PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
import redis

from core.access.addresses.addresses import TrustedProxies
from core.access.addresses.bans import Bans
from core.access.addresses.failed_logins import MOST_LOCAL
from core.app import App
from core.errors import InvalidRequest
from core.settings import child_environment
from tests.core.access.clients import age, bans_of, changes, client, fail, in_hours, rows, stored
from tests.support.processes import python

GUESSER = "203.0.113.7"
NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@pytest.fixture
def app(emptied: App) -> App:
    return emptied


def key(app: App, kind: str, word: str) -> str:
    return f"{app.settings.instance_name}{kind}:{word}"


def test_the_tenth_failure_bans_and_the_ninth_does_not(bans: Bans, app: App, store: redis.Redis) -> None:
    assert fail(bans, GUESSER, 9) is None
    assert bans.is_banned(client(GUESSER)) is None
    assert store.get(key(app, "failed_login", GUESSER)) == b"9"

    ban = fail(bans, GUESSER)

    assert ban is not None
    assert ban.network == "203.0.113.7/32"
    assert 1799 <= ban.left_s <= 1800
    assert bans.is_banned(client(GUESSER)) is not None
    assert bans.is_banned(client("203.0.113.8")) is None
    assert bans.flush()
    row = rows(app.engine)["203.0.113.7/32"]
    assert (row["reason"], row["failures"], row["level"]) == ("failed log-ins (test)", 10, 0)
    assert row["until_at"] - row["created_at"] == timedelta(minutes=30)
    value = stored(store, key(app, "ban", GUESSER))
    assert set(value) == {"until", "reason", "level"}
    assert value["until"] == pytest.approx(row["until_at"].timestamp(), abs=0.001)
    assert 1_790_000 < int(store.pttl(key(app, "ban", GUESSER))) <= 1_800_000
    assert store.exists(key(app, "failed_login", GUESSER)) == 0


def test_the_window_begins_with_the_first_failure_and_no_later_one_extends_it(
    bans: Bans, app: App, store: redis.Redis
) -> None:
    name = key(app, "failed_login", GUESSER)
    fail(bans, GUESSER)
    assert 1_790_000 < int(store.pttl(name)) <= 1_800_000
    store.pexpire(name, 60_000)

    fail(bans, GUESSER, 3)

    assert 0 < int(store.pttl(name)) <= 60_000


def test_what_is_not_ours_in_redis_neither_counts_for_ever_nor_throws(bans: Bans, app: App, store: redis.Redis) -> None:
    store.rpush(key(app, "failed_login", GUESSER), "x")
    store.set(key(app, "ban", GUESSER), "no end")
    fail(bans, GUESSER)
    assert store.get(key(app, "failed_login", GUESSER)) == b"1"

    store.set(key(app, "failed_login", GUESSER), "junk")
    fail(bans, GUESSER)
    store.set(key(app, "failed_login", GUESSER), "3")  # without an end
    fail(bans, GUESSER)
    assert int(store.pttl(key(app, "failed_login", GUESSER))) > 0

    store.set(key(app, "ban", GUESSER), b"\xff{junk", px=60_000)  # an end, but no row
    assert fail(bans, GUESSER) is None
    assert store.exists(key(app, "ban", GUESSER)) == 0


def test_of_200_parallel_failures_in_two_processes_exactly_one_bans(app: App) -> None:
    code = (
        "import sys, threading\n"
        "from core.app import open_app\n"
        "from core.access.addresses.addresses import TrustedProxies\n"
        "from core.settings import load_settings\n"
        "client = TrustedProxies(()).client('203.0.113.7')\n"
        "with open_app(load_settings(orjson.loads(sys.argv[1]))) as app:\n"
        "    app.access.bans.reload()\n"
        "    barrier = threading.Barrier(101)\n"
        "    def act():\n"
        "        barrier.wait()\n"
        "        app.access.bans.fail(client, 'race')\n"
        "    threads = [threading.Thread(target=act) for _ in range(100)]\n"
        "    [thread.start() for thread in threads]\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    barrier.wait()\n"
        "    [thread.join() for thread in threads]\n"
        "    app.access.bans.flush()\n"
        "    print(app.access.bans.is_banned(client) is not None, flush=True)\n"
    )
    environ = {name: value for name, value in child_environment(app.settings).items() if name.startswith("HEADRACE_")}
    both = [python("import orjson\n" + code, orjson.dumps(environ).decode()) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in both]

    assert said == ["True\n", "True\n"]
    found = rows(app.engine)
    assert list(found) == ["203.0.113.7/32"]
    assert (found["203.0.113.7/32"]["failures"], found["203.0.113.7/32"]["level"]) == (10, 0)
    assert len(changes(app.engine)) == 1


def test_threshold_is_exact_in_many_parallel_rounds(bans: Bans, other: Bans, app: App) -> None:
    barrier = threading.Barrier(20)

    def act(number: int) -> None:
        for round_ in range(15):
            barrier.wait()
            fail((bans, other)[number % 2], f"203.0.113.{round_}")

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(act, range(20)))
    assert bans.flush()
    assert other.flush()

    found = rows(app.engine)
    assert len(found) == 15
    assert {(row["failures"], row["level"]) for row in found.values()} == {(10, 0)}


def test_each_further_ban_lasts_twice_as_long_up_to_a_day(bans: Bans, app: App, store: redis.Redis) -> None:
    lengths: list[timedelta] = []
    for _ in range(8):
        fail(bans, GUESSER, 10)
        assert bans.flush()
        row = rows(app.engine)["203.0.113.7/32"]
        lengths.append(row["until_at"] - row["created_at"])
        store.delete(key(app, "ban", GUESSER))
        age(app.engine, days=2)
        bans.reload()

    assert [length.total_seconds() / 60 for length in lengths] == [30, 60, 120, 240, 480, 960, 1440, 1440]


def test_seven_days_without_a_ban_start_over(bans: Bans, app: App, store: redis.Redis) -> None:
    fail(bans, GUESSER, 10)
    bans.flush()
    age(app.engine, days=1)
    store.flushdb()
    bans.reload()
    fail(bans, GUESSER, 10)
    bans.flush()
    assert rows(app.engine)["203.0.113.7/32"]["level"] == 1

    age(app.engine, days=8)
    store.flushdb()
    bans.reload()
    fail(bans, GUESSER, 10)
    bans.flush()

    assert rows(app.engine)["203.0.113.7/32"]["level"] == 0


def test_the_process_that_bans_follows_the_longer_end_of_the_row(bans: Bans, app: App, store: redis.Redis) -> None:
    fail(bans, GUESSER, 10)
    bans.flush()
    age(app.engine, hours=1)
    store.flushdb()
    bans.reload()

    fail(bans, GUESSER, 10)
    bans.flush()

    ban = bans.is_banned(client(GUESSER))
    assert ban is not None
    assert 3590 < ban.left_s <= 3600
    assert int(store.pttl(key(app, "ban", GUESSER))) > 3_590_000


def test_ten_thousand_addresses_of_one_64_are_one_offender(bans: Bans, app: App, store: redis.Redis) -> None:
    for number in range(10_000):
        fail(bans, f"2001:db8:1:2::{number:x}")
    bans.flush()

    assert list(rows(app.engine)) == ["2001:db8:1:2::/64"]
    assert bans.is_banned(client("2001:db8:1:2:ffff::1")) is not None
    assert bans.is_banned(client("2001:db8:1:3::1")) is None
    assert len(list(store.scan_iter(count=10_000))) <= 3


def test_ten_thousand_addresses_of_one_48_are_stopped_by_escalation(bans: Bans, app: App) -> None:
    refused = 0
    for number in range(10_000):
        address = f"2001:db8:1:{number:x}::1"
        if bans.is_banned(client(address)) is not None:
            refused += 1
        else:
            fail(bans, address)
    bans.flush()

    assert 10_000 - refused <= 160
    found = rows(app.engine)
    assert "2001:db8:1::/48" in found
    assert {network.rpartition("/")[2] for network in found} <= {"56", "48"}
    assert bans.is_banned(client("2001:db8:1:ffff::1")) is not None
    assert bans.is_banned(client("2001:db8:2::1")) is None


def test_a_56_is_banned_at_four_times_the_threshold(bans: Bans, app: App) -> None:
    for number in range(40):
        assert bans.is_banned(client("2001:db8:1:100::1")) is None
        fail(bans, f"2001:db8:1:1{number:02x}::1")
    bans.flush()

    assert list(rows(app.engine)) == ["2001:db8:1:100::/56"]


def test_a_victim_cannot_be_banned_by_naming_it(bans: Bans, app: App) -> None:
    """Ban poisoning: whatever is written into headers, the guesser's own address counts, or nobody's."""
    for proxies in (TrustedProxies(()), TrustedProxies(("10.0.0.1",))):
        for lines in ([b"192.0.2.1"], [b"192.0.2.1, 10.0.0.1"]):
            for _ in range(20):
                bans.fail(proxies.client(GUESSER, lines), "test")
    for _ in range(20):
        bans.fail(TrustedProxies(("10.0.0.1",)).client("10.0.0.1", [b"192.0.2.1, 203.0.113.9"]), "test")
    bans.flush()

    assert list(rows(app.engine)) == ["203.0.113.9/32"]
    assert bans.is_banned(client("192.0.2.1")) is None


def test_behind_an_unconfigured_proxy_nobody_is_banned_for_another(bans: Bans, app: App) -> None:
    proxies = TrustedProxies(())
    for number in range(50):
        assert bans.fail(proxies.client("192.0.2.99", [b"203.0.113.%d" % number]), "test") is None
    bans.flush()

    assert rows(app.engine) == {}
    assert bans.is_banned(proxies.client("192.0.2.99", [b"203.0.113.1"])) is None


def test_a_banned_client_does_not_get_in_by_adding_a_header(bans: Bans) -> None:
    fail(bans, GUESSER, 10)

    assert bans.is_banned(TrustedProxies(()).client(GUESSER, [b"192.0.2.1"])) is not None


def test_loopback_and_exempt_addresses_are_never_banned(app: App) -> None:
    with bans_of(app.settings, app.engine, exempt="198.51.100.0/24 2001:db8:9::/48") as bans:
        for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "198.51.100.5", "2001:db8:9:1::1"):
            assert fail(bans, address, 30) is None
            assert bans.is_banned(client(address)) is None
            with pytest.raises(InvalidRequest, match=r"^ip: "):
                bans.add(address, "x", in_hours(1))
        bans.flush()
        assert rows(app.engine) == {}


def test_other_processes_follow_the_changes_in_any_order(bans: Bans, other: Bans, app: App) -> None:
    fail(bans, GUESSER, 10)
    bans.flush()
    bans.lift(GUESSER)
    made, lifted = changes(app.engine)

    other.apply(made)
    assert other.is_banned(client(GUESSER)) is not None
    other.apply(lifted)
    assert other.is_banned(client(GUESSER)) is None
    other.apply(made)  # delivered once more
    assert other.is_banned(client(GUESSER)) is None

    fail(bans, GUESSER, 10)
    bans.flush()
    other.apply(changes(app.engine)[-1])
    other.apply(lifted)
    assert other.is_banned(client(GUESSER)) is not None


def test_a_deleted_row_is_a_lifted_ban_and_a_new_one_outweighs_it(bans: Bans, other: Bans, app: App) -> None:
    bans.add(GUESSER, "x", in_hours(1))
    with app.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM bans")
    bans.add(GUESSER, "y", in_hours(1))
    made, deleted, again = changes(app.engine)

    for change in (made, again, deleted, made):
        other.apply(change)

    assert again.bans[0].version >= deleted.bans[0].version
    assert other.is_banned(client(GUESSER)) is not None


def test_a_restarted_process_knows_the_bans_after_reading_them(bans: Bans, app: App) -> None:
    fail(bans, GUESSER, 10)
    fail(bans, "2001:db8::1", 10)
    bans.flush()
    with bans_of(app.settings, app.engine) as fresh:
        assert fresh.is_banned(client(GUESSER)) is None

        fresh.reload()

        assert fresh.is_banned(client(GUESSER)) is not None
        assert fresh.is_banned(client("2001:db8::ffff")) is not None


def test_a_ban_survives_a_restart_of_redis_without_its_data(
    bans: Bans, other: Bans, app: App, store: redis.Redis
) -> None:
    fail(bans, GUESSER, 10)
    bans.flush()

    store.flushdb()
    store.script_flush()

    assert bans.is_banned(client(GUESSER)) is not None
    # A process that did not hear of it counts again; the ban in force is found and not doubled.
    assert fail(other, GUESSER, 10) is not None
    other.flush()
    assert (rows(app.engine)["203.0.113.7/32"]["level"], len(changes(app.engine))) == (0, 1)


def test_with_redis_away_failures_count_in_the_process_and_bans_go_to_the_database(app: App, other: Bans) -> None:
    with bans_of(app.settings, app.engine, redis_url=NOBODY_LISTENS) as alone:
        assert fail(alone, GUESSER, 9) is None
        assert fail(alone, GUESSER) is not None
        assert alone.flush()
        for number in range(MOST_LOCAL + 2000):
            fail(alone, f"10.{number >> 8}.{number & 255}.1")

    assert list(rows(app.engine)) == ["203.0.113.7/32"]
    other.apply(changes(app.engine)[0])
    assert other.is_banned(client(GUESSER)) is not None


def test_a_process_that_did_not_hear_of_a_ban_learns_it_at_the_next_failure(bans: Bans, other: Bans, app: App) -> None:
    fail(bans, GUESSER, 10)
    bans.flush()
    assert other.is_banned(client(GUESSER)) is None

    assert fail(other, GUESSER) is not None

    assert other.is_banned(client(GUESSER)) is not None


def test_a_ban_that_was_lifted_while_redis_was_away_does_not_come_back(
    bans: Bans, other: Bans, app: App, store: redis.Redis
) -> None:
    fail(bans, GUESSER, 10)
    bans.flush()
    with bans_of(app.settings, app.engine, redis_url=NOBODY_LISTENS) as cut_off:
        cut_off.lift(GUESSER)
    assert store.exists(key(app, "ban", GUESSER)) == 1
    other.reload()

    assert fail(other, GUESSER) is None

    assert store.exists(key(app, "ban", GUESSER)) == 0
    assert store.get(key(app, "failed_login", GUESSER)) == b"1"


def test_a_valid_login_clears_nothing(bans: Bans, app: App) -> None:
    """There is nothing to call: failures only end with their window (D-24)."""
    assert not [name for name in dir(bans) if "succe" in name or "clear" in name]


def test_a_host_clock_that_is_wrong_changes_no_end(bans: Bans, other: Bans, app: App) -> None:
    """Ends are counted on the database's clock from a reading of it; here the reading before it was an hour off."""
    clock = other._clock
    clock.read(0.0, asked_at=0.0)
    other.reload()
    bans.add(GUESSER, "x", in_hours(1))

    other.apply(changes(app.engine)[-1])

    ban = other.is_banned(client(GUESSER))
    assert ban is not None
    assert 3590 < ban.left_s <= 3600


def test_a_client_is_the_same_whatever_else_is_known_of_it() -> None:
    assert replace(client(GUESSER), peer="x").ban_numbers == client(GUESSER).ban_numbers
