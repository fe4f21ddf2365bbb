# SPDX-License-Identifier: MIT
"""Runs the user's command for when memory runs out, for example one that asks the platform for a larger container.

Runs in: the sentinel; standard library only.
Covers: starting it without waiting, its environment, how often and how long it may run, and the end of all it started.
Does not cover: when it is called for (regulate), or what it does. Nothing depends on whether it succeeds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    import subprocess

# A platform needs seconds to resize a container, and would not do it more often than this.
INTERVAL_S = 60.0
LIMIT_S = 10.0


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
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, limit_bytes: int | None, used_bytes: int, recipe: str, task: str) -> bool:
        """Start it unless it ran lately or runs still; returns at once, whether it was started. Never raises.

        It finds MEMGUARD_LIMIT_BYTES (empty where there is no limit), MEMGUARD_USED_BYTES, MEMGUARD_RECIPE and
        MEMGUARD_TASK, the task that something is about to be killed of, in its environment.
        """
        self.poll()
        now_s = self._clock()
        is_early = self._started_s is not None and now_s - self._started_s < self._interval_s
        if not self._command or self._process is not None or is_early:
            return False
        self._started_s = now_s
        facts = {
            "MEMGUARD_LIMIT_BYTES": "" if limit_bytes is None else str(limit_bytes),
            "MEMGUARD_USED_BYTES": str(used_bytes),
            "MEMGUARD_RECIPE": recipe,
            "MEMGUARD_TASK": task,
        }
        import subprocess  # only now: most builds kill nothing

        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath, **os.environ, **facts},
                start_new_session=True,
                preexec_fn=self._before_exec,
            )
        except (OSError, ValueError) as error:
            self.failure = f"MEMGUARD_PRESSURE_CMD cannot be started: {error}"
        return self._process is not None

    def poll(self) -> None:
        """Take note of its end, and end it where its time is up; to be called several times a second."""
        process = self._process
        if process is None or self._started_s is None:
            return
        # Looked at, not yet reaped: as long as it is there, its number is the group's and nobody else's.
        has_ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if not has_ended and self._clock() - self._started_s < self._limit_s:
            return
        status = self._kill_group(process)
        if not has_ended:
            self.failure = f"MEMGUARD_PRESSURE_CMD did not end within {self._limit_s:g} s"
        elif status:
            self.failure = f"MEMGUARD_PRESSURE_CMD ended with exit status {status}"

    def end(self) -> None:
        """End it and all that it has started."""
        if self._process is not None:
            self._kill_group(self._process)

    def _kill_group(self, process: subprocess.Popen[bytes]) -> int:
        """Kill what is left of its process group, and reap it; its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._process = None
        return process.wait()
