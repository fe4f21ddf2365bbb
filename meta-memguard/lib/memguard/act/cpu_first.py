# SPDX-License-Identifier: MIT
"""The CPU before all others for the process that watches memory, where the system allows it.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: the nice value while memory is watched, and the one before it for what is started meanwhile.
Does not cover: lowering compilers instead (BitBake's own BB_TASK_NICE_LEVEL).

A build keeps many more compilers ready to run than there are CPUs. Among n of them on a CPU a look at memory takes n
times as long as it costs (sched(7): equal nice values share evenly), and comes too late.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Callable

# Nine times the share of a process at 0 (a step is a factor of 1.25, sched(7)).
NICE = -10


@contextlib.contextmanager
def precedence() -> Iterator[Callable[[], None]]:
    """Be urgent; what is given makes the calling process, a child that was just forked, as urgent as this one was.

    Without CAP_SYS_NICE, or a limit of nice values that allows it (getrlimit(2)), nothing changes.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, NICE))

    def step_back() -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)

    try:
        yield step_back
    finally:
        step_back()
