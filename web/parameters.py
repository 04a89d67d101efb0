"""Query parameters, read strictly: an unknown, repeated or malformed one is told, not ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from core.errors import InvalidRequest
from core.tasks.model import TaskState
from core.tasks.queries import MAX_PAGE

MOST_WAIT_S = 60
DEFAULT_PAGE = 50
_MOST = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NUMBER = re.compile(r"[0-9]{1,9}")

Parameters = Mapping[str, str]


def read_parameters(query: bytes, known: frozenset[str]) -> Parameters:
    """
    Raises:
        InvalidRequest: a parameter is not one of `known`, comes twice, or is not UTF-8.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST)
    except ValueError:  # not ASCII, not UTF-8 behind the percent signs, or too many
        raise InvalidRequest("the query string is not valid", field="query") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise InvalidRequest(f"{name[:60]}: unknown parameter; there are: {', '.join(sorted(known))}", field=name)
        if name in found:
            raise InvalidRequest(f"{name}: given twice", field=name)
        found[name] = value
    return found


def whole_number(parameters: Parameters, name: str, *, least: int, most: int, default: int) -> int:
    text = parameters.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidRequest(f"{name}: must be a whole number from {least} to {most}", field=name)
    return int(text)


def state(parameters: Parameters) -> TaskState | None:
    text = parameters.get("state")
    if text is None:
        return None
    try:
        return TaskState(text)
    except ValueError:
        raise InvalidRequest(f"state: must be one of {', '.join(TaskState)}", field="state") from None


def name(parameters: Parameters, parameter: str) -> str | None:
    """A task type or queue to filter by; one that does not exist filters everything away."""
    text = parameters.get(parameter)
    if text is not None and not _NAME.fullmatch(text):
        raise InvalidRequest(f"{parameter}: letters, digits, `.`, `_` and `-`, up to 100", field=parameter)
    return text


def cursor(parameters: Parameters) -> str | None:
    text = parameters.get("cursor")
    if text is not None and not _CURSOR.fullmatch(text):
        raise InvalidRequest("cursor: not one that this server made; start without it", field="cursor")
    return text


def page_size(parameters: Parameters) -> int:
    return whole_number(parameters, "limit", least=1, most=MAX_PAGE, default=DEFAULT_PAGE)
