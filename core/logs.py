"""
Log lines for people or for programs, from the standard `logging` module.

What every line is promised: one record is one line (a traceback follows it indented), no control character gets
through (S11), and nothing that looks like a key, a bearer token or a password in a URL does (law 12).
`bind(task_id=...)` adds fields to every line logged inside it, in this thread or asyncio task.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Literal, cast

import orjson

LogFormat = Literal["console", "json"]

_NOTHING: Mapping[str, object] = MappingProxyType({})
_bound: ContextVar[Mapping[str, object]] = ContextVar("headrace_log_fields", default=_NOTHING)

# Attributes of a bare record: everything else on one came from `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_CHATTY = ("alembic", "apscheduler", "httpcore", "httpcore2", "httpx", "httpx2", "openai", "asyncio")
_LONGEST = 20_000  # characters of one value; a longer one is cut

_SECRETS = (
    # Our keys: the public id stays, it is what logs are meant to show.
    (re.compile(r"\bhr_([0-9A-Za-z]{12})_[0-9A-Za-z_-]+"), r"hr_\1_***"),
    (re.compile(r"\bhr_[0-9A-Za-z_-]{16,}(?<!\*)(?!\*)"), "hr_***"),
    (re.compile(r"\b((?i:bearer|basic))\s+[0-9A-Za-z._~+/=-]+"), r"\1 ***"),
    (re.compile(r"\bsk-[0-9A-Za-z_-]{8,}"), "sk-***"),
    # What PostgreSQL says of a refused row: its values, which may be prompts.
    (re.compile(r"\bDETAIL:[^\n]*"), "DETAIL: ***"),
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s:/?#@]*):[^\s/?#]*@"), r"\1:***@"),
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def configure_logging(*, level: str, format: str, process: str) -> None:
    """
    Send every record to stderr; called once, at the start of a process.

    Also logs uncaught exceptions, of threads too, and warnings: their tracebacks may hold secrets as well.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        format: console or json.
        process: what this process is, e.g. `web`; a field of every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if format == "json" else ConsoleFormatter(process))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    quiet = logging.INFO if level == "DEBUG" else max(root.level, logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(quiet)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


@contextmanager
def bind(**fields: object) -> Generator[None]:
    """Add fields to every line logged inside: `with bind(task_id=..., attempt=2): ...`. Nested ones add up."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def redact(text: str) -> str:
    """The text without keys, bearer tokens and passwords in URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.000 INFO    web core.tasks.store task finished state=completed took_s=0.4`"""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        head = f"{at:%H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7} {self._process} {record.name}"
        words = [head, _one_line(_message(record))]
        words += [f"{_one_line(key)}={_quoted(value)}" for key, value in _fields(record).items()]
        lines = [" ".join(words)]
        # Indented, so that no line of a traceback can pass for a record of its own.
        lines += ["    | " + _one_line(line) for line in _traceback(record)]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """`{"time": "2026-01-01T00:00:00.000000Z", "level": "INFO", "process": "web", "pid": 1, "logger": ..., ...}`"""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "process": self._process,
            "pid": os.getpid(),
            "logger": record.name,
            "message": _plain(_message(record)),
        }
        for key, value in _fields(record).items():
            line.setdefault(_plain_text(key), _plain(value))
        traceback = _traceback(record)
        if traceback:
            line["traceback"] = _plain("\n".join(traceback))
        text = orjson.dumps(line, option=orjson.OPT_UTC_Z).decode()
        return _CONTROL_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # A wrong placeholder must not lose the line, nor print its arguments past the redaction.
        return f"{record.msg} {record.args}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {key: value for key, value in vars(record).items() if key not in _OWN}
    return {**_bound.get(), **extra}


def _traceback(record: logging.LogRecord) -> list[str]:
    lines: list[str] = []
    if record.exc_info:
        lines += logging.Formatter().formatException(record.exc_info).split("\n")
    if record.stack_info:
        lines += record.stack_info.split("\n")
    return lines


def _one_line(text: object) -> str:
    return _CONTROL.sub(_escape, redact(_cut(str(text))))


def _escape(match: re.Match[str]) -> str:
    number = ord(match.group())
    if number < 0x100:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(number, f"\\x{number:02x}")
    return f"\\u{number:04x}"


def _quoted(value: object) -> str:
    text = _one_line(value)
    if text and not re.search(r'[\s"=]', text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _plain(value: object) -> object:
    """A value that orjson takes, with its texts made safe."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        return {_plain_text(key): _plain(inner) for key, inner in mapping.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in cast("Collection[object]", value)]
    return _plain_text(value)


def _plain_text(value: object) -> str:
    # A lone surrogate cannot be encoded: it is shown as \udXXX.
    return redact(_cut(str(value))).encode("utf-8", "backslashreplace").decode()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("headrace").critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = "unknown" if args.thread is None else args.thread.name
    logging.getLogger("headrace").critical(
        "uncaught exception in a thread",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        extra={"thread_name": name},
    )
