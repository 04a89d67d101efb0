"""The schemas of `/openapi.json`: what is sent, made from the models that validate it, and what is answered."""

from __future__ import annotations

from typing import Any

from core.task_types.spec import TaskSpec, TaskTypes
from core.tasks.acceptance import BULK
from core.tasks.model import TaskState
from web.intake import NewTaskBody

Json = dict[str, Any]  # OpenAPI documents are open-ended by nature

_REF = "#/components/schemas/"


def ref(name: str) -> Json:
    return {"$ref": _REF + name}


def schemas_of(types: TaskTypes) -> Json:
    """All that routes refer to, by name; each task type has an input of its own."""
    schemas: Json = {}
    schemas["NewTask"] = {
        "oneOf": [ref(_new_task(spec, schemas)) for spec in types],
        "discriminator": {
            "propertyName": "type",
            "mapping": {spec.name: _REF + _variant_name(spec) for spec in types},
        },
    }
    schemas["NewTasks"] = _object(
        {"tasks": {"type": "array", "minItems": 1, "maxItems": BULK, "items": ref("NewTask")}}
    )
    schemas["TaskState"] = {"type": "string", "enum": [str(state) for state in TaskState]}
    schemas["Task"] = _task()
    schemas["Tasks"] = _object({"tasks": {"type": "array", "items": ref("Task")}})
    schemas["TaskPage"] = _object(
        {
            "tasks": {"type": "array", "items": ref("Task")},
            "next_cursor": {"type": ["string", "null"], "description": "null: this is the last page."},
        }
    )
    schemas["Problem"] = _problem()
    schemas["Health"] = _object({"status": {"type": "string"}})
    return schemas


def _variant_name(spec: TaskSpec) -> str:
    return f"NewTask-{spec.name}"


def _new_task(spec: TaskSpec, schemas: Json) -> str:
    """The envelope with this type's input; returns the schema's name."""
    envelope = NewTaskBody.model_json_schema()
    properties = envelope["properties"]
    properties["type"] = {"const": spec.name}
    properties["input"] = ref(f"Input-{spec.name}")
    properties["run_at"]["anyOf"][0]["format"] = "date-time"
    input_schema = spec.input.model_json_schema(ref_template=f"{_REF}{spec.name}-{{model}}")
    for name, schema in input_schema.pop("$defs", {}).items():
        schemas[f"{spec.name}-{name}"] = schema
    schemas[f"Input-{spec.name}"] = input_schema
    schemas[_variant_name(spec)] = {**envelope, "title": f"{spec.name} task", "description": f"A {spec.name} task."}
    return _variant_name(spec)


def _object(properties: Json, *, required: list[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _problem() -> Json:
    text = {"type": "string"}
    properties = {
        "type": text,
        "title": text,
        "status": {"type": "integer"},
        "detail": text,
        "code": {"type": "string", "description": "A stable word for programs."},
        "field": {"type": "string", "description": "What is wrong, e.g. `tasks[3].input.messages[0].role`."},
    }
    required = [name for name in properties if name != "field"]
    return {**_object(properties, required=required), "description": "RFC 9457."}


def _task() -> Json:
    time: Json = {"type": "string", "format": "date-time"}
    time_or_null: Json = {"type": ["string", "null"], "format": "date-time"}
    progress = _object({"percent": {"type": ["number", "null"]}, "message": {"type": ["string", "null"]}})
    error = _object({"code": {"type": "string"}, "message": {"type": "string"}, "retryable": {"type": "boolean"}})
    return _object(
        {
            "id": {"type": "string", "pattern": "^task_[0-9a-f]{32}$"},
            "type": {"type": "string"},
            "queue": {"type": "string"},
            "priority": {"type": "integer", "minimum": 0, "maximum": 9},
            "state": ref("TaskState"),
            "version": {"type": "integer", "minimum": 1, "description": "+ 1 with every change."},
            "attempt": {"type": "integer", "minimum": 0},
            "max_attempts": {"type": "integer", "minimum": 1},
            "progress": progress,
            "result": {"description": "The provider's answer unchanged, or null."},
            "error": {"oneOf": [error, {"type": "null"}]},
            "retry_of": {"type": ["string", "null"], "description": "Id of the task this one tries again."},
            "created_at": time,
            "run_at": time,
            "started_at": time_or_null,
            "finished_at": time_or_null,
            "metadata": {"type": "object"},
        }
    )
