"""`/openapi.json` about the admin API: complete, without loose ends, and true of what is answered."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from jobs.spec import JobSpec
from tests.support.ticking import greet, ticking
from tests.support.waiting import wait_until
from tests.web.serving import Caller, Reply, Site

Json = dict[str, Any]

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


@pytest.fixture
def admin(site: Site) -> Caller:
    assert site.app.settings.admin_key is not None
    return site.caller.with_key(site.app.settings.admin_key.get_secret_value())


@pytest.fixture
def document(site: Site) -> Json:
    found: Json = site.caller.get("/openapi.json").json
    return found


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        found = cast("Json", value)
        if "$ref" in found:
            yield found["$ref"]
        for inner in found.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in cast("Iterable[Any]", value):
            yield from references(inner)


def faults(schema: Json, value: Any, at: str = "answer") -> Iterator[str]:
    """What of the answer its description does not allow."""
    if "oneOf" in schema:
        found = [list(faults(option, value, at)) for option in schema["oneOf"]]
        if found.count([]) != 1:
            yield f"{at}: {found}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        yield f"{at}: {value!r} is no {schema['type']}"
    elif schema.get("format") == "date-time":
        datetime.fromisoformat(value)
    elif schema.get("type") == "array":
        for place, inner in enumerate(value):
            yield from faults(schema["items"], inner, f"{at}[{place}]")
    elif "properties" in schema:
        yield from (f"{at}.{name}: missing" for name in schema.get("required", ()) if name not in value)
        for name, inner in value.items():
            if name in schema["properties"]:
                yield from faults(schema["properties"][name], inner, f"{at}.{name}")
            elif schema.get("additionalProperties") is False:
                yield f"{at}.{name}: unknown"


def assert_described(document: Json, path: str, method: str, reply: Reply) -> None:
    answers = document["paths"][path][method]["responses"]
    described = answers[str(reply.status)]
    if "content" not in described:
        assert reply.body == b""
        return
    schema = described["content"][reply.headers["content-type"]]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert list(faults(schema, reply.json)) == []


def test_every_admin_operation_takes_the_admin_key_and_says_what_it_refuses(document: Json) -> None:
    admin = [(path, method, found) for path, method, found in operations(document) if path.startswith("/v1/admin/")]

    assert len(admin) >= 12
    assert document["components"]["securitySchemes"]["adminKey"]["scheme"] == "bearer"
    for path, method, operation in admin:
        assert operation["security"] == [{"adminKey": []}], (path, method)
        assert {"401", "403", "422", "503"} <= operation["responses"].keys(), (path, method)
        assert operation["summary"], (path, method)
        in_path = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}, (path, method)


def test_only_admin_operations_take_the_admin_key(document: Json) -> None:
    for path, method, operation in operations(document):
        # Other gateways verify keys as operators, or let the key speak for itself.
        if not path.startswith("/v1/admin/") and path != "/v1/keys/verify":
            assert {"adminKey": []} not in operation.get("security", []), (path, method)


def test_operations_have_names_of_their_own_and_references_lead_somewhere(document: Json) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(set(names)) == len(names)
    for reference in references(document):
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in document["components"]["schemas"]


def test_answers_about_schedules_are_as_described(admin: Caller, site: Site, document: Json) -> None:
    name = f"described-{secrets.token_hex(4)}"
    all_of_it, one = "/v1/admin/schedules", "/v1/admin/schedules/{name}"
    path = f"{all_of_it}/{name}"
    task: Json = {"type": "diagnostic.noop", "input": {}}
    body: Json = {"name": name, "every_s": 3600, "owner": site.key_id, "task": task}
    patch = json.dumps({"jitter_s": 1}).encode()

    assert_described(document, all_of_it, "post", admin.post(all_of_it, body))
    assert_described(document, all_of_it, "post", admin.post(all_of_it, body))
    assert_described(document, all_of_it, "post", admin.post(all_of_it, b"{"))
    assert_described(document, all_of_it, "post", site.caller.post(all_of_it, body))
    assert_described(document, all_of_it + "/preview", "post", admin.post(all_of_it + "/preview", body))
    assert_described(document, all_of_it, "get", admin.get(all_of_it))
    assert_described(document, one, "get", admin.get(path))
    assert_described(document, one, "patch", admin.send("PATCH", path, patch, {"Content-Type": "application/json"}))
    assert_described(document, one + "/history", "get", admin.get(path + "/history"))
    assert_described(document, one, "delete", admin.send("DELETE", path))
    assert_described(document, one, "delete", admin.send("DELETE", path))


def test_answers_about_the_door_are_as_described(admin: Caller, document: Json) -> None:
    bans, ban = "/v1/admin/bans", "/v1/admin/bans/{ip}"
    address = f"2001:db8:{secrets.token_hex(2)}::"
    assert_described(document, bans, "post", admin.post(bans, {"ip": address, "reason": "x"}))
    assert_described(document, bans, "post", admin.post(bans, {"ip": "x", "reason": "x"}))
    assert_described(document, bans, "get", admin.get(bans))
    assert_described(document, ban, "get", admin.get(f"{bans}/{address}"))
    assert_described(document, ban, "delete", admin.send("DELETE", f"{bans}/{address}"))
    assert_described(document, ban, "delete", admin.send("DELETE", f"{bans}/{address}"))

    rules, rule = "/v1/admin/ip-filters", "/v1/admin/ip-filters/{id}"
    new = {"action": "deny", "cidr": f"{address}/64"}
    made = admin.post(rules, new)
    path = f"{rules}/{made.json['id']}"
    assert_described(document, rules, "post", made)
    assert_described(document, rules, "post", admin.post(rules, new))
    assert_described(document, rules, "get", admin.get(rules))
    assert_described(document, rules + "/check", "get", admin.get(f"{rules}/check?ip={address}1"))
    assert_described(document, rules + "/check", "get", admin.get(f"{rules}/check?ip=192.0.2.1"))
    assert_described(document, rule, "get", admin.get(path))
    patch = json.dumps({"note": "y"}).encode()
    assert_described(document, rule, "patch", admin.send("PATCH", path, patch, {"Content-Type": "application/json"}))
    assert_described(document, rule, "delete", admin.send("DELETE", path))
    assert_described(document, rule, "get", admin.get(path))

    assert_described(document, "/v1/admin/audit", "get", admin.get("/v1/admin/audit"))


def test_answers_about_jobs_are_as_described(admin: Caller, site: Site, document: Json) -> None:
    job = JobSpec(name=f"described-{secrets.token_hex(4)}", run=greet, every=timedelta(hours=1))
    path, one = f"/v1/admin/jobs/{job.name}", "/v1/admin/jobs/{name}"

    with ticking(site.app, [job]):
        assert_described(document, one + "/run", "post", admin.post(path + "/run"))
        history = "/history?limit=1"
        wait_until(lambda: admin.get(path + history).json["runs"][0]["outcome"] == "succeeded", what="the run")

    assert_described(document, "/v1/admin/jobs", "get", admin.get("/v1/admin/jobs"))
    assert_described(document, one + "/history", "get", admin.get(path + "/history"))
    for verb in ("pause", "resume"):
        assert_described(document, f"{one}/{verb}", "post", admin.post(f"{path}/{verb}"))
    assert_described(document, one + "/pause", "post", admin.post("/v1/admin/jobs/none/pause"))
