"""
`python -m core.testing media [--port N] [--forward URL]`: images and videos for the demo.

Prints its URL as the first line. Every other path is handed on to the forward address, so that one provider URL serves
a chat server and this one. Ends with the process that started it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
from types import FrameType

from core.testing.fake_provider import FakeProvider

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m core.testing")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    media = commands.add_parser("media", help="serve images and videos in the shape of the OpenAI API")
    media.add_argument("--port", type=int, default=0, help="0: a free one")
    media.add_argument("--forward", default=None, metavar="URL", help="origin or base URL that gets every other path")
    media.add_argument("--video-seconds", type=float, default=4.0, help="how long a video takes")
    options = parser.parse_args(arguments)

    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    parent = os.getppid()
    _end_with_parent()
    with FakeProvider(
        port=options.port, forward_to=options.forward, video_seconds=options.video_seconds, record=False
    ) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        # Where there is no PR_SET_PDEATHSIG, and when the parent died before it was set.
        while not stop.wait(1.0) and os.getppid() == parent:
            pass
    return 0


def _end_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
