# SPDX-License-Identifier: MIT
"""Lets this process, and all that it starts, give way to others where CPU time is short.

Runs in: task children, before the task's function.
Covers: the nice value, and that of the session where the kernel groups processes by session (autogroup).
Does not cover: which tasks give way (decide/chain), BitBake's own BB_TASK_NICE_LEVEL, from which the steps count.
"""

from __future__ import annotations

import contextlib
import os

# Where sched_autogroup_enabled is set nice values count within a session only, and each task of BitBake's is one; this
# file has the session's own (sched(7)).
_AUTOGROUP = "/proc/self/autogroup"


def give_way(steps: int) -> None:
    """Raise the nice value of this process and its session by so many steps, 1 to 19; beyond 19 it stays there.

    Never raises: a kernel without autogroup has no such file, and one that is asked too often says EAGAIN.
    """
    level = os.nice(steps)
    with contextlib.suppress(OSError), open(_AUTOGROUP, "w", encoding="ascii") as file:
        file.write(str(level))
