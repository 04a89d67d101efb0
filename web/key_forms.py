"""What the admin API of virtual keys takes and answers: bodies that validate, and their descriptions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from core.access.keys.fields import (
    GROUP_PATTERN,
    MODEL_CHARACTERS,
    MOST_COUNT,
    MOST_OVERLAP,
    MOST_PATTERNS,
    MOST_TOKENS,
    NAME_CHARACTERS,
    instant_of,
)
from core.access.keys.virtual_keys import OVERLAP
from web.admin import AdminBody
from web.openapi_admin import TEXT, TIME, WHOLE, YES_OR_NO, Json, a_list, an_object, or_null

_OVERLAP_S = int(OVERLAP.total_seconds())

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS, description="Whose key it is, for people.")]
Group = Annotated[str, Field(pattern=GROUP_PATTERN, description="Keys that belong together.")]
Expiry = Annotated[str, Field(max_length=40, description="Refused from then on; RFC 3339 with a zone, in the future.")]
Types = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]],
    Field(max_length=MOST_PATTERNS, description="Task types; a `*` at the end stands for any ending. Empty: all."),
]
Models = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MODEL_CHARACTERS)]],
    Field(max_length=MOST_PATTERNS, description="The same for models."),
]
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]

_RPM = "Requests a minute and route; null: no limit."
_RPD = "Requests a day and route; null: no limit."
_TPM = "Tokens a minute; null: no limit."
_CONCURRENCY = "Tasks that are accepted and not final; null: no limit."


class NewKeyBody(AdminBody):
    """Null is the same as absent for all that is optional."""

    name: Name
    group: Group | None = None
    expires_at: Expiry | None = None
    allowed_types: Types | None = None
    allowed_models: Models | None = None
    rpm: Count | None = Field(default=None, description=_RPM)
    rpd: Count | None = Field(default=None, description=_RPD)
    tpm: Tokens | None = Field(default=None, description=_TPM)
    concurrency: Count | None = Field(default=None, description=_CONCURRENCY)


class KeyPatch(AdminBody):
    """What is absent stays, null clears."""

    name: Name | None = None
    group: Group | None = None
    expires_at: Expiry | None = None
    allowed_types: Types | None = None
    allowed_models: Models | None = None
    rpm: Count | None = Field(default=None, description=_RPM)
    rpd: Count | None = Field(default=None, description=_RPD)
    tpm: Tokens | None = Field(default=None, description=_TPM)
    concurrency: Count | None = Field(default=None, description=_CONCURRENCY)
    enabled: bool | None = Field(default=None, description="As `disable` and `enable` do.")
    version: Annotated[int, Field(ge=1, le=MOST_COUNT)] | None = Field(
        default=None, description="The version that the change was made from: 409 when somebody was faster."
    )

    def changes(self) -> dict[str, Any]:
        """
        The arguments of `VirtualKeys.update`.

        Raises:
            InvalidRequest: names the field.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"version"}}
        if self.expires_at is not None:
            given["expires_at"] = instant_of(self.expires_at)
        return given


class RotateBody(AdminBody):
    overlap_s: Annotated[int, Field(ge=0, le=int(MOST_OVERLAP.total_seconds()))] | None = Field(
        default=None,
        description=f"How long the secret so far goes on working, seconds; {_OVERLAP_S} when absent, 0: not at all.",
    )


KEY_MEMBERS: Json = {
    "id": {**TEXT, "description": "The 12 characters after `hr_`; logs show it."},
    "name": TEXT,
    "group": or_null(TEXT),
    "enabled": YES_OR_NO,
    "expires_at": or_null(TIME),
    "allowed_types": a_list(TEXT),
    "allowed_models": a_list(TEXT),
    "rpm": or_null({**WHOLE, "description": _RPM}),
    "rpd": or_null({**WHOLE, "description": _RPD}),
    "tpm": or_null({**WHOLE, "description": _TPM}),
    "concurrency": or_null({**WHOLE, "description": _CONCURRENCY}),
    "created_at": TIME,
    "version": {**WHOLE, "description": "More with every change."},
}
KEY = an_object(KEY_MEMBERS)
NEW_KEY = an_object({**KEY_MEMBERS, "key": {**TEXT, "description": "The clear key: shown this once, kept nowhere."}})
KEY_PAGE = an_object(
    {
        "keys": a_list(KEY),
        "next_cursor": or_null({**TEXT, "description": "null: this is the last page."}),
        "pepper_versions": {
            "type": "object",
            "additionalProperties": WHOLE,
            "description": "Of all keys: by the number of a pepper, how many secrets that still work are hashed with "
            "it. A pepper that is not named here may leave HEADRACE_KEY_PEPPER.",
        },
    }
)
