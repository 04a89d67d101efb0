"""The last lines that a run logs, kept with it: bounded, redacted, and only those of its own thread's context."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from core.logs import ConsoleFormatter, redact

LINES = 20
CHARACTERS = 4096

Lines = deque[str]

_current: ContextVar[Lines | None] = ContextVar("headrace_run_log", default=None)


class RunLogHandler(logging.Handler):
    """Gives each record to the run in whose context it was logged; added once to the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(ConsoleFormatter("job"))

    def emit(self, record: logging.LogRecord) -> None:
        lines = _current.get()
        if lines is None:
            return
        try:
            lines.append(self.format(record))
        except Exception:  # as logging's own handlers do: a line that cannot be formatted must not fail the run
            self.handleError(record)


@contextmanager
def kept_lines(lines: Lines) -> Generator[None]:
    """Keep what is logged inside, in this thread, in `lines`."""
    token = _current.set(lines)
    try:
        yield
    finally:
        _current.reset(token)


def no_lines() -> Lines:
    return deque(maxlen=LINES)


def excerpt(lines: Lines) -> str | None:
    """The newest of them that fit; None when nothing was logged."""
    text = "\n".join(list(lines))
    return storable(text[-CHARACTERS:]) or None


def storable(text: str, most: int = CHARACTERS) -> str:
    """Redacted, and such that PostgreSQL takes it: no NUL, no lone surrogate."""
    return redact(text)[:most].replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
