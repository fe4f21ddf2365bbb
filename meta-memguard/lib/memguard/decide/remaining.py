# SPDX-License-Identifier: MIT
"""How long a build will go on: what earlier builds say of the tasks that are left.

Runs in: the BitBake server; pure.
Covers: the longest chain of tasks that are left, and their CPU time over the CPUs there are; the longer one counts.
Does not cover: waiting for memory, tasks that nobody has built before (then nothing is said).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic

from memguard.decide.order import T
from memguard.model import Duration

# What is left is said where earlier builds know this share of it.
# evidence: chosen, not measured; durations by kind are off by a factor, and half of the time would be one
KNOWN_SHARE = 0.8


class Remaining(Generic[T]):
    """The tasks of one build.

    paths: as of remaining_paths(); seconds: how long each takes, known or guessed; known: what earlier builds say.
    """

    def __init__(self, paths: Mapping[T, float], seconds: Mapping[T, float], known: Mapping[T, Duration]) -> None:
        self._paths = paths
        self._seconds = seconds
        self._known = known

    def left_s(self, left: Iterable[T], cpus: float) -> float | None:
        """Seconds until these tasks have ended on so many CPUs; None where too little of them is known."""
        tasks = list(left)
        known = [tid for tid in tasks if tid in self._known]
        all_s = sum(self._seconds[tid] for tid in tasks)
        if not known or sum(self._seconds[tid] for tid in known) < KNOWN_SHARE * all_s:
            return None
        work_s = sum(_cpu_s(self._known[tid]) for tid in known)
        return max(max(self._paths[tid] for tid in tasks), work_s / max(1.0, cpus))


def _cpu_s(duration: Duration) -> float:
    return duration.seconds(1) if duration.cpu_s is None else duration.cpu_s
