"""What commands take from a person: JSON on the command line, in a file or on stdin, and whose task it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import orjson
import typer

from core.app import App
from core.errors import InvalidRequest

STDIN = "-"


def input_text(input_json: str | None, input_file: Path | None) -> bytes:
    if input_json is not None and input_file is not None:
        raise typer.BadParameter("give --input or --input-file, not both")
    if input_json is not None:
        return input_json.encode("utf-8", "surrogateescape")
    if input_file is None:
        return b"{}"
    if str(input_file) == STDIN:
        return typer.get_binary_stream("stdin").read()
    try:
        return input_file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"--input-file: {error.strerror}: {input_file}") from None


def parsed(text: bytes | str, *, field: str) -> object:
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{field} is not JSON: {error}", field=field) from None
    return value


def json_object(text: str, *, field: str) -> dict[str, Any]:
    value = parsed(text, field=field)
    if not isinstance(value, dict):
        raise InvalidRequest(f'{field} must be a JSON object, e.g. {{"order": 17}}', field=field)
    return cast("dict[str, Any]", value)


def only_owner(headrace: App) -> str:
    now = datetime.now(UTC)
    enabled = [key for key in headrace.keys.list() if key.grants(now)]
    if len(enabled) == 1:
        return enabled[0].key_id
    if not enabled:
        raise InvalidRequest("owner: there is no enabled key; make one: headrace keys create --name me", field="owner")
    raise InvalidRequest(
        f"owner: there are {len(enabled)} enabled keys; say whose task it is with --owner KEY_ID"
        " (headrace keys list shows them)",
        field="owner",
    )
