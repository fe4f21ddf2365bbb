# SPDX-License-Identifier: MIT
"""Whether a build goes on: no process of a task may stay stopped while nothing else of the build does anything.

Covers: the judgement (Liveness), and a thread that feeds it with the processes of a container (watching).
Does not cover: who stopped what, and why.

"Something goes on" where a process of a task that is not stopped takes CPU time, begins or ends. The server, its
workers and the sentinel are not asked: they look at the clock all the time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Callable

from memguard.sense.proc_files import read_stat
from testbed.repeating import repeating

# Promised in SECURITY.md. memguard and its watchman wake some seconds sooner, for a busy machine is late itself.
LONGEST_S = 10.0
_SAMPLE_S = 0.5
_SPARED = (b"bitbake-server", b"bin/bitbake\0", b"memguard.sentinel.process", b"memguard\0run", b"held.append")


class Liveness:
    """The longest time, in seconds, in which something was stopped and nothing else went on."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._progress: object = None
        self._since_s = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing was stopped for too long."""
        return self.longest_s <= LONGEST_S

    def see(self, now_s: float, has_stopped: bool, progress: object) -> None:
        """Take in one moment. progress: a value that changes whenever something goes on."""
        if not has_stopped or progress != self._progress:
            self._progress, self._since_s = progress, now_s
        self.longest_s = max(self.longest_s, now_s - self._since_s)


@contextlib.contextmanager
def watching(pids: Callable[[], Iterable[int]]) -> Iterator[Liveness]:
    """Watch the processes that `pids` names while the context lasts."""
    liveness = Liveness()
    with repeating(lambda: liveness.see(time.monotonic(), *look(pids())), _SAMPLE_S):
        yield liveness


def look(pids: Iterable[int]) -> tuple[bool, object]:
    """Whether a process of a task is stopped, and what of the others changes as they go on."""
    has_stopped, running = False, set()
    for pid in pids:
        stat = read_stat(pid)
        if stat is None or stat.state in (b"Z", b"X"):
            continue
        words = _words(pid)
        # A task begins as a child of its worker, in a session of its own; a worker has none.
        if any(spared in words for spared in _SPARED) or (b"bitbake-worker" in words and stat.session != pid):
            continue
        if stat.state == b"T":
            has_stopped = True
        else:
            running.add((pid, stat.start_ticks, stat.cpu_ticks))
    return has_stopped, running


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
