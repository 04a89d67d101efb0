"""All limits of a request in one call, on a real Redis: all or nothing, with fixed ends."""

from __future__ import annotations

import secrets
from typing import cast

import pytest

from core.access.limits.limiter import Ended, Fallback, Limiter
from core.access.limits.local_limiter import LocalLimiter
from core.access.limits.model import LARGEST, Ask, Decision, Slots, TokenBucket, Window
from core.connections import RedisLink

NOW = 1_790_000_040.0  # the start of a minute


def rpm(key: str = "k", limit: int = 10, cost: int = 1) -> Window:
    return Window("rpm", key, limit, 60, cost)


def rpd(key: str = "k", limit: int = 10, cost: int = 1) -> Window:
    return Window("rpd", key, limit, 86_400, cost)


def tokens(cost: int, limit: int = 100, *, held: tuple[str, ...] = ()) -> TokenBucket:
    share = cost // len(held) if held else 0
    return TokenBucket("t", limit, cost, tuple((name, share) for name in held))


def slots(*leases: str, limit: int = 2) -> Slots:
    return Slots("c", limit, leases)


def dump(link: RedisLink) -> dict[bytes, tuple[bytes, int]]:
    """Every key with its value as bytes and its time of expiry."""
    client = link.client
    found: dict[bytes, tuple[bytes, int]] = {}
    for key in cast("list[bytes]", client.keys("*")):
        found[key] = (cast(bytes, client.dump(key)), client.pexpiretime(key.decode()))
    return found


def used_up(limiter: Limiter, ask: Ask) -> Decision:
    while True:
        decision = limiter.decide(ask, now=NOW)
        if not decision.allowed:
            return decision


@pytest.mark.parametrize("refusing", ["ip", "rpm", "rpd", "tpm", "concurrency"])
def test_a_refusal_consumes_nothing_whichever_rule_refuses(limiter: Limiter, link: RedisLink, refusing: str) -> None:
    few = {name: 2 if name == refusing else 10 for name in ("ip", "rpm", "rpd", "tpm", "concurrency")}

    def ask(n: int) -> Ask:
        return Ask(
            (Window("ip", "ip", few["ip"], 60), rpm(limit=few["rpm"]), rpd(limit=few["rpd"])),
            TokenBucket("t", few["tpm"], 1, ((f"task{n}", 1),)),
            Slots("c", few["concurrency"], (f"task{n}",)),
        )

    for n in range(2):
        assert limiter.decide(ask(n), now=NOW).allowed
    before = dump(link)

    refused = limiter.decide(ask(2), now=NOW)

    assert not refused.allowed
    assert refused.refused_by == refusing
    assert {state.name: state.remaining for state in refused.states} == {n: limit - 2 for n, limit in few.items()}
    assert dump(link) == before


def test_every_key_ends_by_itself(limiter: Limiter, link: RedisLink) -> None:
    assert limiter.decide(Ask((rpm(), rpd()), tokens(50, held=("a",)), slots("a"))).allowed

    lives = {key: link.client.pttl(key) for key in cast("list[bytes]", link.client.keys("*"))}
    assert len(lives) == 4
    assert 86_400_000 <= lives[b"k"] <= 2 * 86_400_000
    assert 29_000 < lives[b"t"] <= 30_000  # half a bucket refills in half a minute
    assert 59_000 < lives[b"c"] <= 60_000
    assert all(0 < life <= 2 * 86_400_000 for life in lives.values())


def test_the_end_of_a_window_does_not_move_with_traffic(limiter: Limiter, link: RedisLink) -> None:
    limiter.decide(Ask((rpm(),)))
    end = link.client.pexpiretime("k")
    number = cast(bytes, link.client.hget("k", "rpm")).split()[0]

    for _ in range(200):
        limiter.decide(Ask((rpm(limit=1000),)))

    if cast(bytes, link.client.hget("k", "rpm")).split()[0] == number:
        assert abs(link.client.pexpiretime("k") - end) <= 2


def test_a_window_resets_at_its_end_under_steady_traffic(limiter: Limiter) -> None:
    """The seed's counters lived on with each write: one request every 59 s met the limit of a minute in the end."""
    ask = Ask((rpm(limit=3),))
    passed = [limiter.decide(ask, now=NOW + 59 * n).allowed for n in range(200)]

    assert all(passed)
    day = Ask((Window("rpd", "day", 24, 86_400),))
    by_day: dict[int, int] = {}
    for hour in range(24 * 20):
        at = NOW + hour * 3600
        by_day[int(at // 86_400)] = by_day.get(int(at // 86_400), 0) + limiter.decide(day, now=at).allowed
    assert min(list(by_day.values())[1:-1]) >= 23


def test_a_batch_costs_its_number_at_once(limiter: Limiter) -> None:
    assert limiter.decide(Ask((rpm(cost=7),)), now=NOW).states[0].remaining == 3
    assert not limiter.decide(Ask((rpm(cost=4),)), now=NOW).allowed
    assert limiter.decide(Ask((rpm(cost=3),)), now=NOW).allowed


def test_two_windows_in_one_ask_are_counted_apart(limiter: Limiter) -> None:
    ask = Ask((rpm(limit=2), rpd(limit=3)))
    assert [limiter.decide(ask, now=NOW).allowed for _ in range(3)] == [True, True, False]

    later = [limiter.decide(ask, now=NOW + 120) for _ in range(2)]

    assert [decision.allowed for decision in later] == [True, False]
    assert later[1].refused_by == "rpd"


@pytest.mark.parametrize(
    "ask",
    [
        Ask((rpm(cost=11),)),
        Ask((rpm(limit=0),)),
        Ask((), tokens(101)),
        Ask((), None, slots("a", "b", "c")),
        Ask((rpm(cost=2**70),)),
        Ask((), TokenBucket("t", 0, 1)),
    ],
)
def test_what_costs_more_than_the_limit_is_told_so(limiter: Limiter, link: RedisLink, ask: Ask) -> None:
    decision = limiter.decide(ask, now=NOW)

    assert not decision.allowed
    assert not decision.can_succeed
    assert decision.retry_after_s == 0
    assert dump(link) == {}


def test_huge_limits_and_costs_are_counted(limiter: Limiter) -> None:
    big = Ask((rpm(limit=LARGEST, cost=2**50),), TokenBucket("t", LARGEST, 2**50))

    assert [limiter.decide(big, now=NOW).allowed for _ in range(5)] == [True, True, True, True, False]
    assert limiter.decide(Ask((rpm("other", limit=2**80),)), now=NOW).states[0].remaining == LARGEST - 1


def test_a_clock_that_goes_back_loosens_nothing(limiter: Limiter) -> None:
    window, bucket = Ask((rpm(limit=5),)), Ask((), tokens(20))
    assert used_up(limiter, window).refused_by == "rpm"
    assert used_up(limiter, bucket).refused_by == "tpm"

    for back in (0.5, 10, 59, 60):
        assert not limiter.decide(window, now=NOW - back).allowed
        assert not limiter.decide(bucket, now=NOW - back).allowed
    # A leap of an hour cannot be told from a clock that was wrong before: it counts anew, and does not lock out.
    assert limiter.decide(Ask((rpm(limit=5),)), now=NOW - 3600).allowed


def test_a_clock_that_leaps_ahead_and_back_leaves_no_long_lived_key(limiter: Limiter, link: RedisLink) -> None:
    ask = Ask((rpm(), rpd()), tokens(50, held=("a",)), slots("a"))
    assert limiter.decide(ask, now=NOW + 10 * 365 * 86_400).allowed

    assert limiter.decide(ask, now=NOW).allowed

    assert limiter.decide(Ask((rpm(cost=9), rpd(cost=9))), now=NOW).allowed
    for key in cast("list[bytes]", link.client.keys("*")):
        assert 0 < link.client.pttl(key) <= 2 * 86_400_000


def test_scripts_that_redis_forgot_are_sent_again(limiter: Limiter, link: RedisLink) -> None:
    assert limiter.decide(Ask((rpm(limit=2),))).allowed
    link.client.script_flush()
    assert limiter.decide(Ask((rpm(limit=2),))).allowed
    link.client.script_flush()
    assert not limiter.decide(Ask((rpm(limit=2),))).allowed


def test_junk_under_our_names_is_replaced(limiter: Limiter, link: RedisLink) -> None:
    for name in ("k", "t", "c"):
        link.client.set(name, "junk")
    assert limiter.decide(Ask((rpm(), rpd()), tokens(10, held=("a",)), slots("a"))).allowed

    link.client.hset("k", "rpm", "not three numbers")
    link.client.set("t", "x y z")
    assert limiter.decide(Ask((rpm(),), tokens(10))).allowed


# --- tokens


def test_a_bucket_refills_by_a_sixtieth_a_second(limiter: Limiter) -> None:
    assert limiter.decide(Ask((), tokens(100)), now=NOW).allowed
    refused = limiter.decide(Ask((), tokens(50)), now=NOW)
    assert not refused.allowed
    assert refused.retry_after_s == 31

    assert not limiter.decide(Ask((), tokens(50)), now=NOW + 29.9).allowed
    assert limiter.decide(Ask((), tokens(50)), now=NOW + 30.1).allowed


def test_settling_gives_back_what_was_not_used(limiter: Limiter) -> None:
    limiter.decide(Ask((), tokens(80, held=("a",))), now=NOW)

    assert limiter.settle("t", "a", 30, now=NOW)

    assert limiter.decide(Ask((), tokens(70)), now=NOW).states[0].remaining == 0


def test_settling_takes_what_was_used_beyond_the_estimate(limiter: Limiter) -> None:
    limiter.decide(Ask((), tokens(80, held=("a",))), now=NOW)

    assert limiter.settle("t", "a", 140, now=NOW)

    # 100 - 140 = -40: it takes 24 s to be even.
    assert not limiter.decide(Ask((), tokens(1)), now=NOW + 24.5).allowed
    assert limiter.decide(Ask((), tokens(1)), now=NOW + 24.7).allowed


def test_a_debt_is_at_most_one_capacity(limiter: Limiter) -> None:
    limiter.decide(Ask((), tokens(80, held=("a",))), now=NOW)

    assert limiter.settle("t", "a", 10**12, now=NOW)

    assert limiter.decide(Ask((), tokens(100)), now=NOW + 120.1).allowed


def test_a_second_settle_changes_nothing(limiter: Limiter, link: RedisLink) -> None:
    limiter.decide(Ask((), tokens(80, held=("a", "b"))), now=NOW)
    assert limiter.settle("t", "a", 10, now=NOW)
    before = dump(link)

    assert not limiter.settle("t", "a", 10, now=NOW)
    assert not limiter.settle("t", "a", 40, now=NOW)
    assert not limiter.settle("t", "never reserved", 40, now=NOW)

    assert dump(link) == before


def test_a_reservation_is_settled_the_day_after_and_not_later(limiter: Limiter) -> None:
    midnight = NOW - NOW % 86_400 + 86_400
    limiter.decide(Ask((), tokens(80, held=("a", "b"))), now=midnight - 1)

    assert limiter.settle("t", "a", 0, now=midnight + 3600)
    assert not limiter.settle("t", "b", 0, now=midnight + 2 * 86_400)


# --- concurrency


def test_leases_bound_the_tasks_at_a_time(limiter: Limiter) -> None:
    assert limiter.decide(Ask((), None, slots("a")), now=NOW).states[0].remaining == 1
    assert limiter.decide(Ask((), None, slots("b")), now=NOW).allowed
    refused = limiter.decide(Ask((), None, slots("c")), now=NOW)
    assert (refused.allowed, refused.refused_by) == (False, "concurrency")

    limiter.release("c", ["a"])
    limiter.release("c", ["a", "unknown"])

    assert limiter.decide(Ask((), None, slots("c")), now=NOW).allowed
    assert not limiter.decide(Ask((), None, slots("d")), now=NOW).allowed


def test_a_lease_ends_by_itself_and_lasts_when_renewed(limiter: Limiter) -> None:
    limiter.decide(Ask((), None, slots("a", "b")), now=NOW)

    assert limiter.renew("c", ["b"], now=NOW + 50) == []

    decision = limiter.decide(Ask((), None, slots("new")), now=NOW + 61)
    assert decision.allowed
    assert decision.states[0].remaining == 0


def test_renewing_takes_back_a_lease_that_was_lost(limiter: Limiter, link: RedisLink) -> None:
    link.client.flushdb()

    assert sorted(limiter.renew("c", ["a", "b"], now=NOW)) == ["a", "b"]

    assert not limiter.decide(Ask((), None, slots("c")), now=NOW + 1).allowed
    assert 0 < link.client.pttl("c") <= 60_000


def test_ending_tasks_releases_and_settles_and_can_be_done_again(limiter: Limiter, link: RedisLink) -> None:
    limiter.decide(Ask((), tokens(90, held=("a", "b", "x")), slots("a", "b", limit=3)), now=None)
    asked: list[str] = []

    def use(name: str, number: int) -> Ended:
        def used() -> int:
            asked.append(name)
            return number

        return Ended("t", "c", name, used)

    ended = [use("a", 0), use("b", 30), use("unlimited", 7)]
    limiter.end(ended)
    limiter.end(ended)

    assert asked == ["a", "b"]
    assert link.client.zcard("c") == 0
    decision = limiter.decide(Ask((), tokens(0)))
    assert decision.states[0].remaining in (40, 41, 42)


def test_a_finish_of_an_unlimited_key_writes_nothing(limiter: Limiter, link: RedisLink) -> None:
    limiter.end([Ended("t", "c", secrets.token_hex(4), lambda: 5) for _ in range(1200)])

    assert dump(link) == {}


def test_an_empty_ask_passes_without_redis() -> None:
    assert Limiter(None, Fallback("closed", LocalLimiter())).decide(Ask()).allowed
