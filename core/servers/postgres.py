"""PostgreSQL on a directory of ours: initdb at the first start, durable (fsync on), TCP on 127.0.0.1 only."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from core.orphans import can_become_unprivileged
from core.servers.server import START_S, Server, ServerFailed

DATABASE_USER = "headrace"


class PostgresServer(Server):
    """
    Args:
        programs: the directory with `initdb` and `postgres`.
        password: of the superuser `headrace`; used when the cluster is made.
        options: further settings, e.g. {"fsync": "off"} for a throw-away server.
    """

    name = "postgres"

    def __init__(
        self,
        directory: Path,
        *,
        programs: Path,
        password: str,
        port: int = 0,
        options: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory, port=port)
        self._programs = programs
        self._password = password
        self._options = options or {}

    @property
    def url(self) -> str:
        return f"postgresql://{DATABASE_USER}:{self._password}@127.0.0.1:{self.port}/postgres"

    def is_ready(self) -> bool:
        lines = self._pid_file_lines()
        # Line 8 is how the server tells pg_ctl that it accepts connections; line 1 keeps us from reading an old file.
        return (
            len(lines) >= 8
            and self.process is not None
            and lines[0] == str(self.process.pid)
            and lines[7].strip() == "ready"
        )

    def _prepare(self, lock: int) -> None:
        pid = self._recorded_pid()
        if pid is not None and _exists(pid):
            # We hold the lock, so that process is a stranger with the old number; PostgreSQL would refuse to start.
            (self.directory / "postmaster.pid").unlink(missing_ok=True)
        if self.directory.exists():
            return
        unfinished = self.directory.with_name("postgres.new")
        password_file = self.directory.with_name("postgres.password")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file.unlink(missing_ok=True)
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._password + "\n")
        if os.geteuid() == 0 and not can_become_unprivileged():
            self.directory.parent.chmod(0o711)
            for path in (unfinished, password_file):
                shutil.chown(path, user="nobody")
        words = ["-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--locale=C.UTF-8"]
        initdb = self._spawn(
            [str(self._programs / "initdb"), "-D", str(unfinished), "-U", DATABASE_USER, *words],
            lock,
            death_signal=signal.SIGKILL,
            as_ordinary_user=True,
        )
        code = initdb.wait(START_S * 2)
        password_file.unlink()
        if code != 0:
            raise ServerFailed(f"initdb failed: {self._log_tail()}{_hint(self.directory)}")
        unfinished.rename(self.directory)

    def _launch(self, lock: int) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "wal_compression": "on",
            "max_wal_size": "2GB",
            "checkpoint_timeout": "15min",
            "jit": "off",  # our statements are short: compiling them costs more than it saves
            "autovacuum_naptime": "15s",  # claim and finish leave dead rows quickly
            "log_min_messages": "warning",
            # Law 12: a failing statement is not logged with its values, which may be prompts.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_parameter_max_length": "0",
            "log_parameter_max_length_on_error": "0",
            "cluster_name": "headrace",
            **self._statistics(),
            **self._options,
        }
        argv = [str(self._programs / "postgres"), "-D", str(self.directory), "-p", str(self.port)]
        for key, value in options.items():
            argv += ["-c", f"{key}={value}"]
        # SIGINT: fast shutdown, should the keeper die.
        self.process = self._spawn(argv, lock, death_signal=signal.SIGINT, as_ordinary_user=True)

    def _statistics(self) -> dict[str, str]:
        root = self._programs.parent
        if any(root.glob("lib/**/pg_stat_statements.*")):
            return {"shared_preload_libraries": "pg_stat_statements"}
        return {}

    def _stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        # Fast, then immediate shutdown (recovered at the next start), then the end.
        return (signal.SIGINT, 5.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)

    def _recorded_pid(self) -> int | None:
        lines = self._pid_file_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.directory / "postmaster.pid").read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return []


def _hint(directory: Path) -> str:
    if os.geteuid() != 0 or can_become_unprivileged():
        return ""
    return (
        "; as root, where user namespaces are not permitted, PostgreSQL runs as `nobody`, who must be able to enter "
        f"every directory above {directory}: choose another HEADRACE_DATA_DIR, or do not run as root"
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
