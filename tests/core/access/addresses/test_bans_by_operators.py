"""Bans by operators: made, changed, lifted, listed and forgotten."""

from __future__ import annotations

from functools import partial

import pytest
import redis

from core.access.addresses.ban_table import BanNotFound
from core.access.addresses.bans import Bans
from core.app import App
from core.errors import InvalidRequest
from tests.core.access.clients import age, client, in_hours, rows

GUESSER = "203.0.113.7"
NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@pytest.fixture
def app(emptied: App) -> App:
    return emptied


def key(app: App, kind: str, word: str) -> str:
    return f"{app.settings.instance_name}{kind}:{word}"


def test_operators_ban_change_and_lift(bans: Bans, app: App, store: redis.Redis) -> None:
    made = bans.add("2001:db8:1:2:3::9", "scraper", in_hours(5))
    assert (made.network, made.failures, made.is_active) == ("2001:db8:1:2::/64", 0, True)
    assert bans.is_banned(client("2001:db8:1:2::1")) is not None
    assert store.exists(key(app, "ban", "2001:db8:1:2::/64")) == 1

    shorter = bans.add("2001:db8:1:2::/64", "again", in_hours(1))
    ban = bans.is_banned(client("2001:db8:1:2::1"))
    assert ban is not None
    assert ban.left_s <= 3600
    assert shorter.version > made.version

    lifted = bans.lift("2001:db8:1:2::1")
    assert not lifted.is_active
    assert bans.is_banned(client("2001:db8:1:2::1")) is None
    assert store.exists(key(app, "ban", "2001:db8:1:2::/64")) == 0
    with pytest.raises(BanNotFound):
        bans.lift("2001:db8:1:2::1")


def test_lifting_an_address_in_a_wider_ban_says_which(bans: Bans) -> None:
    bans.add("2001:db8:1::/48", "x", in_hours(1))

    with pytest.raises(BanNotFound, match="2001:db8:1::/48"):
        bans.lift("2001:db8:1:2::1")


@pytest.mark.parametrize(
    "ip",
    ["", "x", "10.0.0.0/24", "10.0.0.0/33", "10.0.0.1/8", "2001:db8::/32", "2001:db8::1/64", "fe80::1%a", "1" * 500],
)
def test_what_cannot_be_banned_is_refused_with_its_field(bans: Bans, ip: str) -> None:
    for act in (partial(bans.add, ip, "x", in_hours(1)), partial(bans.lift, ip)):
        with pytest.raises(InvalidRequest) as caught:
            act()
        assert caught.value.field == "ip"


def test_reasons_and_ends_are_checked(bans: Bans) -> None:
    for reason in ("", " ", "x" * 501, "a\nb", "a\0"):
        with pytest.raises(InvalidRequest) as caught:
            bans.add(GUESSER, reason, in_hours(1))
        assert caught.value.field == "reason"
    for until in (in_hours(-1), in_hours(24 * 4000), in_hours(1).replace(tzinfo=None)):
        with pytest.raises(InvalidRequest) as caught:
            bans.add(GUESSER, "x", until)
        assert caught.value.field == "until"


def test_bans_are_paged_by_network_and_those_that_are_over_only_on_request(bans: Bans) -> None:
    for number in range(7):
        bans.add(f"203.0.113.{number}", "x", in_hours(1))
    bans.lift("203.0.113.3")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = bans.page(limit=2, cursor=cursor)
        seen += [row.network for row in page.bans]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == [f"203.0.113.{number}/32" for number in (0, 1, 2, 4, 5, 6)]
    assert len(bans.page(all_of_them=True).bans) == 7
    with pytest.raises(InvalidRequest, match="cursor"):
        bans.page(cursor="bm9wZQ")


def test_old_bans_are_forgotten_when_no_level_depends_on_them(bans: Bans, app: App) -> None:
    bans.add("203.0.113.1", "x", in_hours(1))
    age(app.engine, days=8)
    bans.add("203.0.113.2", "x", in_hours(1))

    assert (bans.forget_old(), bans.forget_old()) == (1, 0)
    assert list(rows(app.engine)) == ["203.0.113.2/32"]
