"""Law 6 over HTTP: what an operator does at one web process is in force at another before the operator has read it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Generator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.web.proxied import from_address, operator
from tests.web.serving import Caller, Reply, Site, WebProcess, running_web

ROUNDS = 15
USUAL_S = 0.05
_addresses = (str(IPv4Address("198.51.100.0") + number) for number in range(256))
Act = Callable[[Caller, str, str], Reply]
"""By an operator, to a key (its id) that comes from an address."""


@pytest.fixture
def other(behind: Site, tmp_path: Path) -> Generator[WebProcess]:
    with running_web(behind.app.settings, tmp_path / "other.log") as web:
        yield web


def ban(admin: Caller, key_id: str, address: str) -> Reply:
    return admin.post("/v1/admin/bans", {"ip": address, "reason": "of a test"})


def refuse_everybody_there(admin: Caller, key_id: str, address: str) -> Reply:
    return admin.post("/v1/admin/ip-filters", {"action": "deny", "cidr": address})


def refuse_the_key_there(admin: Caller, key_id: str, address: str) -> Reply:
    return admin.post("/v1/admin/ip-filters", {"action": "allow", "cidr": "203.0.113.0/24", "key_id": key_id})


def disable(admin: Caller, key_id: str, address: str) -> Reply:
    return admin.post(f"/v1/admin/keys/{key_id}/disable")


def rotate(admin: Caller, key_id: str, address: str) -> Reply:
    return admin.post(f"/v1/admin/keys/{key_id}/rotate", {"overlap_s": 0})


def delete(admin: Caller, key_id: str, address: str) -> Reply:
    return admin.send("DELETE", f"/v1/admin/keys/{key_id}")


def take_the_requests(admin: Caller, key_id: str, address: str) -> Reply:
    body = json.dumps({"rpm": 1}).encode()
    return admin.send("PATCH", f"/v1/admin/keys/{key_id}", body, {"Content-Type": "application/json"})


@pytest.mark.alone
@pytest.mark.parametrize(
    ("act", "status"),
    [
        (ban, 403),
        (refuse_everybody_there, 403),
        (refuse_the_key_there, 403),
        (disable, 401),
        (rotate, 401),
        (delete, 401),
        (take_the_requests, 429),
    ],
)
def test_an_act_at_one_web_process_counts_at_another_within_milliseconds(
    behind: Site, other: WebProcess, act: Act, status: int
) -> None:
    admin, took = operator(behind).keep(), list[float]()
    for _ in range(ROUNDS):
        key, address = behind.app.keys.create("of a test"), next(_addresses)
        there = Caller(other.url, key.clear_key).keep()
        ask = from_address(address)
        wait_until(lambda: there.get("/v1/tasks", **ask).status == 200, what="the other process knows the key")  # noqa: B023
        assert there.get("/v1/tasks", **ask).status == 200

        done = act(admin, key.key_id, address)
        began = time.monotonic()

        assert done.status in {200, 201, 204}, done
        wait_until(lambda: there.get("/v1/tasks", **ask).status == status, 5, what="it counts there", every=0.001)  # noqa: B023
        took.append(time.monotonic() - began)
        assert there.get("/v1/tasks", **ask).status == status
    assert statistics.median(took) < USUAL_S, took
