# SPDX-License-Identifier: MIT
"""Whose a process is by what it cannot choose: its user and its memory cgroup.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: reading both, and whether one process may be of another's task.
Does not cover: sessions and marks (process_table).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from memguard.sense.proc_files import read_file

_CGROUP_MOST_BYTES = 1 << 16


class Origin(NamedTuple):
    """The number of a process's user, and the path of its memory cgroup, "" where that is hidden."""

    user: int
    cgroup: str

    def covers(self, other: Origin) -> bool:
        """Whether another process is the same user's, and in the same memory cgroup or below it."""
        return self.user == other.user and f"{other.cgroup}/".startswith(f"{self.cgroup.rstrip('/')}/")


def read_origin(root: str, pid: int) -> Origin | None:
    """That of a process in the procfs at `root`; None where it is gone."""
    try:
        user = os.stat(f"{root}/{pid}").st_uid  # noqa: PTH116  (a path of pathlib's takes longer than the call)
    except OSError:
        return None
    lines = (read_file(f"{root}/{pid}/cgroup", _CGROUP_MOST_BYTES) or b"").decode("utf-8", "replace").splitlines()
    groups = dict(line.partition(":")[2].partition(":")[::2] for line in lines)
    of_memory = (path for names, path in groups.items() if "memory" in names.split(","))
    return Origin(user, next(of_memory, groups.get("", "")))
