"""
Child processes that never outlive this one, not even when it is killed with SIGKILL.

On Linux the kernel sends the child a signal when its parent dies (PR_SET_PDEATHSIG). That is bound to the *thread*
that forked: spawn from a thread that lives as long as the process. Elsewhere a shell of a few hundred kilobytes waits
on a pipe that only this process holds, and sends the signal when the pipe closes.
Standard library only: the keeper of the embedded servers uses it without our environment.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_USER_IN_NAMESPACE = 1000  # any number but 0: it only has to look unprivileged to the program inside

WATCHES_BY_KERNEL = sys.platform == "linux"


class TiedProcess:
    """
    A child in a session of its own, so that a terminal's Ctrl-C reaches it only through us.

    Args:
        death_signal: what it gets when this process dies.
        before_exec: runs in the child before the tie is made (a change of user undoes the tie).
        user: an OS user to become; only as root.
        by_kernel: False ties by a watching shell, as on systems without PR_SET_PDEATHSIG.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        death_signal: signal.Signals,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
        before_exec: Callable[[], None] | None = None,
        user: str | None = None,
        by_kernel: bool = WATCHES_BY_KERNEL,
    ) -> None:
        self._watcher: subprocess.Popen[bytes] | None = None
        prepare = _tie(death_signal, before_exec) if by_kernel else before_exec
        self.process = subprocess.Popen(
            argv,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 (one ctypes call; nothing else can set the tie before exec)
            user=user,
            extra_groups=None if user is None else [],
        )
        if not by_kernel:
            self._watcher = _watch(self.process.pid, death_signal)

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            self._forget()
        return code

    def wait(self, timeout_s: float | None = None) -> int:
        """
        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self.process.wait(timeout_s)
        self._forget()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """To the child alone; nothing happens when it has ended."""
        self.process.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL the child and whatever it left in its session."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):  # it ended meanwhile, which is what we want
                os.killpg(self.process.pid, signal.SIGKILL)

    def _forget(self) -> None:
        # The watcher must not outlive the child: its number may be given to another process.
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.wait()
            if watcher.stdin is not None:
                watcher.stdin.close()


def become_unprivileged() -> None:
    """
    Make this process look like an ordinary user while it keeps root's access to files (Linux, before exec).

    PostgreSQL refuses user 0. In a user namespace that maps user 1000 to root it sees user 1000, and needs neither
    an OS user nor a change of owner, also below directories that only root may enter.

    Raises:
        OSError: the system does not permit user namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{_USER_IN_NAMESPACE} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{_USER_IN_NAMESPACE} {group} 1", encoding="ascii")


def can_become_unprivileged() -> bool:
    """Whether `become_unprivileged` works here, tried in a child."""
    if sys.platform != "linux":
        return False
    try:
        child = subprocess.Popen(["true"], preexec_fn=become_unprivileged)  # noqa: S607, PLW1509 (see TiedProcess)
    except (subprocess.SubprocessError, OSError):
        return False
    return child.wait() == 0


def _tie(death_signal: signal.Signals, before_exec: Callable[[], None] | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)
    prctl, parent, number = libc.prctl, os.getpid(), int(death_signal)

    def prepare() -> None:
        if before_exec is not None:
            before_exec()
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie was made
            os._exit(1)

    return prepare


def _watch(pid: int, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", f"read _; kill -{int(death_signal)} {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
