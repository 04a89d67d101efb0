"""Who gets into the admin API: the holder of the one admin key, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from core.settings import Settings
from tests.web.serving import Caller, Site, running_web
from web.admin_door import AdminDoor
from web.problems import Forbidden, problem_of

PATHS = [
    ("GET", "/v1/admin/jobs"),
    ("GET", "/v1/admin/jobs/prune/history"),
    ("POST", "/v1/admin/jobs/prune/run"),
    ("POST", "/v1/admin/jobs/prune/pause"),
    ("POST", "/v1/admin/jobs/prune/resume"),
    ("GET", "/v1/admin/schedules"),
    ("POST", "/v1/admin/schedules"),
    ("POST", "/v1/admin/schedules/preview"),
    ("GET", "/v1/admin/schedules/nightly"),
    ("PATCH", "/v1/admin/schedules/nightly"),
    ("DELETE", "/v1/admin/schedules/nightly"),
    ("GET", "/v1/admin/schedules/nightly/history"),
]


def admin_key(settings: Settings) -> str:
    assert settings.admin_key is not None
    return settings.admin_key.get_secret_value()


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_virtual_key_is_not_an_admin_key(site: Site, method: str, path: str) -> None:
    reply = site.caller.send(method, path)

    assert reply.status == 401
    assert reply.json["code"] == "unauthenticated"
    assert "HEADRACE_ADMIN_KEY" in reply.json["detail"]
    assert reply.headers["www-authenticate"].startswith("Bearer ")


def test_an_admin_key_is_not_a_virtual_key(site: Site) -> None:
    reply = site.caller.with_key(admin_key(site.app.settings)).get("/v1/tasks")

    assert reply.status == 401


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer x{key}",
        "Bearer {head}",
        "Bearer " + "k" * 5000,
    ],
)
def test_anything_but_the_key_is_refused(site: Site, authorization: str | None) -> None:
    key = admin_key(site.app.settings)
    headers: dict[str, str] = {}
    if authorization is not None:
        headers["Authorization"] = authorization.format(key=key, head=key[:-1])

    reply = Caller(site.web.url).get("/v1/admin/jobs", **headers)

    assert reply.status == 401
    assert key not in reply.body.decode()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_the_key_opens_the_door(site: Site, scheme: str) -> None:
    key = admin_key(site.app.settings)

    reply = Caller(site.web.url).get("/v1/admin/jobs", Authorization=f"{scheme} {key}")

    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"


def test_the_key_is_asked_for_before_a_body_is_read(site: Site) -> None:
    reply = Caller(site.web.url).post("/v1/admin/schedules", b"{" * 1000)

    assert reply.status == 401


@pytest.mark.parametrize("key", [None, ""])
@pytest.mark.parametrize("shown", [None, b"", b"Bearer ", b"Bearer None", b"Bearer x"])
def test_without_an_admin_key_nobody_enters_and_is_told_what_to_set(key: str | None, shown: bytes | None) -> None:
    """A web process does not start without one; whoever builds the routes otherwise must not get an open door."""
    with pytest.raises(Forbidden) as caught:
        AdminDoor(key).enter(shown)

    reply = problem_of(caught.value)
    assert reply.status_code == 403
    assert b"HEADRACE_ADMIN_KEY" in bytes(reply.body)
    assert b"admin_key_not_set" in bytes(reply.body)


def test_a_key_beyond_ascii_opens_the_door_as_utf_8(settings: Settings, tmp_path: Path) -> None:
    odd = settings.model_copy(update={"admin_key": SecretStr("schlüssel-0123456789")})
    with running_web(odd, tmp_path / "web.log") as web:
        header = "Bearer schlüssel-0123456789".encode().decode("latin-1")
        assert Caller(web.url).get("/v1/admin/jobs", Authorization=header).status == 200


def test_the_admin_key_is_not_in_the_log(own_site: Site) -> None:
    key = admin_key(own_site.app.settings)
    caller = Caller(own_site.web.url, key)

    caller.get("/v1/admin/jobs")
    caller.get(f"/v1/admin/jobs?{key}=1")
    caller.post("/v1/admin/schedules", {"name": key, "cron": key})
    own_site.web.stop()

    assert key not in own_site.web.text()
