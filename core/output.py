"""The lines of several child processes on one output, each with its child's name before it, never mixed."""

from __future__ import annotations

import threading
from typing import IO

_LINE_LIMIT_BYTES = 16 * 1024


class PrefixedOutput:
    """
    Writes whole lines, one write each. When the output is gone (a closed pipe), lines are read and dropped, so that no
    child stops because nobody reads it.

    Args:
        names: all names there will be, so that the prefixes can line up.
    """

    def __init__(self, stream: IO[bytes], names: list[str]) -> None:
        self._stream = stream
        self._width = max((len(name) for name in names), default=0)
        self._lock = threading.Lock()
        self._open = True

    def follow(self, name: str, source: IO[bytes]) -> None:
        """Pass on the child's lines until it closes them. A line over 16 KiB is broken."""
        prefix = f"{name:<{self._width}} | ".encode()
        with source:
            while piece := source.readline(_LINE_LIMIT_BYTES):
                self._put(prefix + piece.rstrip(b"\r\n") + b"\n")

    def write(self, text: str) -> None:
        """Lines of our own, without prefix and in one piece."""
        self._put(text.encode() + b"\n")

    def _put(self, line: bytes) -> None:
        with self._lock:
            if not self._open:
                return
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more; the children go on
                self._open = False
