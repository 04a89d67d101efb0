"""Turns of the processes of one run: a test that measures milliseconds has one in which the others do nothing."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(directory: Path, *, alone: bool) -> Generator[None]:
    """
    Be in the room for the length of the block, alone or with others.

    Who wants to be alone keeps the door shut while the others leave, so the wait is as long as their longest test.

    Args:
        directory: where the locks lie; one of this run, as a test may itself run pytest.
    """
    wanted = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (directory / "door").open("w") as door, (directory / "room").open("w") as room:
        fcntl.flock(door, wanted)
        fcntl.flock(room, wanted)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield
