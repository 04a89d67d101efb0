"""The table of settings in docs/operations.md, made from `core/settings.py` (run this file to print it)."""

from __future__ import annotations

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from core.settings import PREFIX, Settings


def settings_table() -> str:
    lines = ["| setting | default | bounds | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{PREFIX}{name.upper()}` | {_default(field)} | {_bounds(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default is None or field.default == ():
        return "unset"
    if isinstance(field.default, SecretStr):
        raise AssertionError("a secret has no default")
    return f"`{field.default}`"


def _bounds(field: FieldInfo) -> str:
    low = next((f"{bound.ge}" for bound in field.metadata if isinstance(bound, Ge)), None)
    high = next((f"{bound.le}" for bound in field.metadata if isinstance(bound, Le)), None)
    return f"{low} to {high}" if low and high else ""


if __name__ == "__main__":
    print(settings_table(), end="")  # noqa: T201 (its purpose)
