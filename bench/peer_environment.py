"""
The peers' own environment, `.bench/peers`: hash-locked, so nothing of theirs reaches the environment we run in.

Made once; made again when the lock or the Python changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
LOCK = PEERS / "requirements.txt"
ENVIRONMENT = HERE.parent / ".bench" / "peers"


class PeersMissing(Exception):
    """The environment could not be made; the message says why."""


def peer_environment() -> Path:
    """
    The `bin` folder of the peers' environment, made first when needed.

    Raises:
        PeersMissing: installing failed.
    """
    stamp = ENVIRONMENT / "stamp"
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _install()
        stamp.write_text(wanted)
    return ENVIRONMENT / "bin"


def _install() -> None:
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    python = str(ENVIRONMENT / "bin" / "python")
    uv = shutil.which("uv")
    if uv:
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT)],
            [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(LOCK)],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(ENVIRONMENT)],
            [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)],
        ]
    print("bench: making the peers' environment", file=sys.stderr)
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeersMissing(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-500:]}")
