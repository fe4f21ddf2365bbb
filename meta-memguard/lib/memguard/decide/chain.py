# SPDX-License-Identifier: MIT
"""Which tasks the end of the build waits for: the others give way to them, by a higher nice value.

Runs in: the BitBake server and every simulation; pure.
Covers: the longest remaining chain among tasks that run, as they start and end.
Does not cover: what the order of starts makes of it (order), how a task gives way (act/give_way).

Where more jobs run than there are CPUs each gets an even share, and the single job of the longest chain no more than
one of a hundred compilers. Anybody may raise the nice value of the others; nobody without privileges can lower one
again, so a task keeps what it started with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic

from memguard.decide.order import T

# By so much the nice value of a task is raised that gives way.
# evidence: with a dominating chain (scripts/bench schedule) builds of the worst of three graphs end 8.6 % sooner than
# stock's with 2 steps, 13.8 with 5 or 10
NICE = 5
# A task whose remaining chain is this share of the longest one, or more, belongs to those that are waited for: what is
# learned of durations is no better than that.
# evidence: with a dominating chain builds of the worst of three graphs end 13.8 % sooner than stock's, with half of it
# 3.9 %; 0.98 is the same
CHAIN_SHARE = 0.9


class Chain(Generic[T]):
    """The remaining chains of tasks that run. Of a task that has no path nothing is known, and it gives way to nobody.

    paths:   seconds from each task's start to the end of the longest chain that waits for it, its own included.
    seconds: how long each takes.
    """

    def __init__(self, paths: Mapping[T, float], seconds: Mapping[T, float]) -> None:
        self._paths = paths
        self._seconds = seconds
        self._since: dict[T, float] = {}

    def start(self, tid: T, now_s: float) -> bool:
        """A task starts; whether it gives way to one that runs."""
        longest_s = max((self._left_s(other, now_s) for other in self._since), default=0.0)
        self._since[tid] = now_s
        return self._paths.get(tid, longest_s) < CHAIN_SHARE * longest_s

    def end(self, tids: Iterable[T]) -> None:
        """These have ended."""
        for tid in tids:
            self._since.pop(tid, None)

    def _left_s(self, tid: T, now_s: float) -> float:
        """What is left of its chain; one that takes longer than expected is taken to end now."""
        seconds = min(self._seconds.get(tid, 0.0), now_s - self._since[tid])
        return self._paths.get(tid, 0.0) - seconds
