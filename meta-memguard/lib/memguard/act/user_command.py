# SPDX-License-Identifier: MIT
"""Runs the user's command for when memory is short, for example one that asks the platform for a larger container.

Runs in: the sentinel; standard library only.
Covers: starting it without waiting, its environment, how often and how long it may run, and the end of all that it
started, of what has left its session, too.
Does not cover: when it is called for (regulate before a kill, growth while tasks are held), or what it does. Nothing
depends on whether it succeeds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Callable

from memguard.act.signals import send
from memguard.sense.proc_files import ProcessId, find_process, read_stat

if TYPE_CHECKING:
    import subprocess

# A platform needs seconds to resize a container, and would not do it more often than this.
INTERVAL_S = 60.0
LIMIT_S = 120.0
# What a command of cron gets.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("HOME", "USER", "LOGNAME")
# It stays until it is killed, or the sentinel is gone, so that all that the command starts has it as an ancestor.
_KEEPER = '{ /bin/sh -c "$1" </dev/null >/dev/null 2>&1; echo "$?"; } & read -r _; kill -KILL 0'
_PR_SET_CHILD_SUBREAPER = 36
# Rounds of killing: who forks faster than that is left to itself.
_ROUNDS = 100


class PressureCommand:
    """One command of the user, run by sh. Not thread-safe: one thread starts, polls and ends it.

    `failure` is what was wrong with its last run, in words; None as long as nothing was. `before_exec` is called in its
    process before it is.
    """

    def __init__(
        self,
        command: str,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
        limit_s: float = LIMIT_S,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.failure: str | None = None
        self._command = command
        self._clock = clock
        self._interval_s = interval_s
        self._limit_s = limit_s
        self._before_exec = before_exec
        self._started_s: float | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(
        self, limit_bytes: int | None, used_bytes: int, recipe: str, task: str, wanted_bytes: int | None = None
    ) -> bool:
        """Start it unless it ran lately or runs still; returns at once, whether it was started. Never raises.

        It finds MEMGUARD_LIMIT_BYTES (empty where there is no limit), MEMGUARD_USED_BYTES, MEMGUARD_RECIPE,
        MEMGUARD_TASK and MEMGUARD_WANTED_BYTES in its environment, and nothing of the build's: what that task, which is
        held, lacks; empty where something of it is about to be killed.
        """
        self.poll()
        now_s = self._clock()
        is_early = self._started_s is not None and now_s - self._started_s < self._interval_s
        if not self._command or self._keeper is not None or is_early:
            return False
        self._started_s = now_s
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment.update(
            PATH=PATH,
            LC_ALL="C.UTF-8",
            MEMGUARD_LIMIT_BYTES="" if limit_bytes is None else str(limit_bytes),
            MEMGUARD_USED_BYTES=str(used_bytes),
            MEMGUARD_RECIPE=recipe,
            MEMGUARD_TASK=task,
            MEMGUARD_WANTED_BYTES="" if wanted_bytes is None else str(wanted_bytes),
        )
        import subprocess  # only now: most builds lack nothing

        try:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "sh", self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
                preexec_fn=_before(self._before_exec),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.failure = f"MEMGUARD_PRESSURE_CMD cannot be started: {error}"
            return False
        assert self._keeper.stdout is not None
        os.set_blocking(self._keeper.stdout.fileno(), False)
        return True

    def poll(self) -> None:
        """Take note of its end, and end it where its time is up; to be called several times a second."""
        keeper = self._keeper
        if keeper is None or self._started_s is None:
            return
        assert keeper.stdout is not None
        try:
            said = os.read(keeper.stdout.fileno(), 100).strip()
        except BlockingIOError:
            if self._clock() - self._started_s >= self._limit_s:
                self.end()
                self.failure = f"MEMGUARD_PRESSURE_CMD did not end within {self._limit_s:g} s"
            return
        self.end()
        if said != b"0":
            words = f"ended with exit status {said.decode()}" if said.isdigit() else "was killed"
            self.failure = f"MEMGUARD_PRESSURE_CMD {words}"

    def end(self) -> None:
        """End it and all that it has started."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        for _ in range(_ROUNDS):
            left = _descendants(keeper.pid)
            if not left:
                break
            for process in left:
                send(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
        for pipe in (keeper.stdin, keeper.stdout):
            if pipe is not None:
                pipe.close()


def _before(before_exec: Callable[[], None] | None) -> Callable[[], None] | None:
    """What the keeper does before it is one: orphans of its descendants are to be its own (prctl(2))."""
    try:
        import ctypes  # only now: it takes memory; not in the new process, where other threads' locks stay taken

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return before_exec  # a Python without ctypes: what leaves the session and its parents is not found

    def prepare() -> None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if before_exec is not None:
            before_exec()

    return prepare


def _descendants(ancestor: int) -> list[ProcessId]:
    """The living processes whose parent, or whose parent's parent and so on, this one is."""
    children: dict[int, list[int]] = {}
    living = set()
    for name in os.listdir("/proc"):  # noqa: PTH208  (names alone, in a third of the time)
        if name.isdecimal() and (stat := read_stat(int(name))) is not None:
            children.setdefault(stat.parent, []).append(int(name))
            if stat.state not in (b"Z", b"X"):
                living.add(int(name))
    found, waiting = [], [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += [pid for pid in below if pid in living]
        waiting += below
    return [process for pid in found if (process := find_process(pid)) is not None]
