"""
Identifiers. Inside, a task is a UUIDv7 (new rows lie together in the index); outside, 128 random bits.

A public id says nothing about time or neighbours, so it cannot be guessed or enumerated (reliability.md S2).
"""

from __future__ import annotations

import re
import secrets
from typing import NewType
from uuid import UUID

from uuid_utils import compat

TaskId = NewType("TaskId", UUID)
PublicId = NewType("PublicId", str)
KeyId = NewType("KeyId", str)
WorkerId = NewType("WorkerId", UUID)

_PUBLIC_ID = re.compile(r"task_[0-9a-f]{32}")


def new_task_id() -> TaskId:
    """A UUIDv7, increasing within this process."""
    return TaskId(compat.uuid7())


def new_public_id() -> PublicId:
    """`task_` and 32 hexadecimal digits from the system's random source."""
    return PublicId("task_" + secrets.token_hex(16))


def is_public_id(text: str) -> bool:
    return _PUBLIC_ID.fullmatch(text) is not None


def new_worker_id() -> WorkerId:
    return WorkerId(compat.uuid7())
