"""`internal.capability_discovery`: ask one provider what it serves. Made by core/capabilities/requests.py only."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field

from core.task_types.spec import TaskInput, TaskSpec


class CapabilityDiscovery(TaskInput):
    """The name of the provider to ask."""

    task_type: ClassVar[str] = "internal.capability_discovery"

    provider: Annotated[str, Field(min_length=1, max_length=100)]


SPEC = TaskSpec(
    name=CapabilityDiscovery.task_type,
    input=CapabilityDiscovery,
    handler="workers.handlers.capability_discovery:for_app",
    deadline=timedelta(minutes=10),
    max_attempts=3,
    is_internal=True,
)
