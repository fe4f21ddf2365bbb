# SPDX-License-Identifier: MIT
"""A state as the sentinel publishes it while two tasks run and one is held."""

from __future__ import annotations

from memguard.channels.state import Counts, HeldTask, Marks, State, TaskState
from memguard.units import GIB

_SECOND = TaskState(
    *(12, 1200, "/r/b.bb:do_compile", "b", "1.0", "do_compile", "m", 2),
    state="stopped",
    current_bytes=10,
    granted_bytes=20,
    swapped_bytes=40 << 20,
)

STATE = State(
    time_s=812.5,
    time=1764000100.25,
    build="20261124031247-17",
    pid=17,
    limit_bytes=8 * GIB,
    limit_source="/sys/fs/cgroup/memory.max",
    used_bytes=5 * GIB,
    reserve_bytes=GIB // 4,
    cpus=3.5,
    mode="enforce",
    marks=Marks(6 * GIB, 7 * GIB, 8 * GIB - 1),
    tasks={
        "/r/a.bb:do_compile": TaskState(
            *(11, 1100, "/r/a.bb:do_compile", "a", "1.0", "do_compile", "m", 4),
            since=1764000000.0,
            current_bytes=1000,
            peak_bytes=1500,
            granted_bytes=2000,
            tokens=3,
            compilers=4,
            stopped=1,
        ),
        "/r/b.bb:do_compile": _SECOND,
    },
    held=(HeldTask("c", "do_compile", "needs 3.0 GiB", 1764000040.25),),
    stopped=1,
    counts=Counts(granted=10, held=3, shrunk=2, stopped=5, killed=1, retried=1),
)
