"""
`python -m bench.pace RATE COUNT START`: one byte to standard output at each time of a fixed grid.

START is on `time.monotonic`, which all processes of a machine share, so that who reads knows when each byte was due. A
process of its own: the timers of uvloop's loop are whole milliseconds, and a loop that spins never has to wake up.
"""

from __future__ import annotations

import os
import sys
import time


def main(arguments: list[str]) -> None:
    rate, count, start = float(arguments[0]), int(arguments[1]), float(arguments[2])
    sent = 0
    while sent < count:
        due = min(count, int((time.monotonic() - start) * rate) + 1)
        if due > sent:
            os.write(1, b"." * (due - sent))
            sent = due
        # The length of the pause is the grid.
        time.sleep(max(0.0, start + sent / rate - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1:])
