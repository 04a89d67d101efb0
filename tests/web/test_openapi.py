"""`/openapi.json` is complete and says what the server does."""

from __future__ import annotations

import re
from typing import Any

from core.task_types.spec import load_task_types
from tests.web.serving import NOOP, Caller, Site

METHODS = {"get", "post", "put", "patch", "delete"}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_it_is_open_and_every_reference_leads_somewhere(site: Site) -> None:
    document = site.caller.with_key("").get("/openapi.json").json

    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_it_describes_every_path_of_the_contract(site: Site) -> None:
    paths = site.caller.get("/openapi.json").json["paths"]

    described = {path: sorted(METHODS & set(operations)) for path, operations in paths.items()}
    assert {path: methods for path, methods in described.items() if not path.startswith("/v1/admin/")} == {
        "/v1/tasks": ["get", "post"],
        "/v1/tasks/batch": ["post"],
        "/v1/tasks/{task_id}": ["get"],
        "/v1/tasks/{task_id}/cancel": ["post"],
        "/v1/tasks/{task_id}/retry": ["post"],
        "/v1/keys/verify": ["post"],
        "/v1/auth": ["get"],
        "/v1/models": ["get"],
        "/v1/models/{model}": ["get"],
        "/live": ["get"],
        "/ready": ["get"],
    }


def test_every_operation_says_how_it_fails_and_what_it_needs(site: Site) -> None:
    paths = site.caller.get("/openapi.json").json["paths"]

    for path, operations in paths.items():
        for operation in operations.values():
            is_open = not path.startswith("/v1/")
            needed: list[dict[str, list[str]]] = (
                [{"adminKey": []}] if path.startswith("/v1/admin/") else [{"virtualKey": []}]
            )
            if path == "/v1/keys/verify":
                needed = [{"adminKey": []}, {}]
            assert operation.get("security") == (None if is_open else needed)
            failures = {status for status in operation["responses"] if status.startswith(("4", "5"))}
            assert is_open or {"401", "503"} <= failures
            for status in failures:
                assert "application/problem+json" in operation["responses"][status]["content"]
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert set(re.findall(r"\{(\w+)\}", path)) <= named
            assert operation["operationId"]


def test_every_task_type_has_its_input_described(site: Site) -> None:
    schemas = site.caller.get("/openapi.json").json["components"]["schemas"]

    for spec in load_task_types(diagnostics=True):
        assert schemas[f"NewTask-{spec.name}"]["properties"]["type"] == {"const": spec.name}
        assert schemas[f"Input-{spec.name}"]["type"] == "object"
        assert {"$ref": f"#/components/schemas/NewTask-{spec.name}"} in schemas["NewTask"]["oneOf"]


def test_answers_have_the_fields_that_are_described(caller: Caller) -> None:
    schemas = caller.get("/openapi.json").json["components"]["schemas"]

    task = caller.post("/v1/tasks", NOOP).json
    page = caller.get("/v1/tasks").json
    problem = caller.post("/v1/tasks", {**NOOP, "priority": 77}).json

    assert list(task) == list(schemas["Task"]["properties"])
    assert list(page) == list(schemas["TaskPage"]["properties"])
    assert list(problem) == list(schemas["Problem"]["properties"])
