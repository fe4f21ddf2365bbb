# SPDX-License-Identifier: MIT
"""In which order tasks should start: the one first that the longest chain of work waits for.

Runs in: the BitBake server and every simulation; pure.
Covers: the order of all tasks from what each needs and how long each takes; BitBake's own order where nothing is known.
Does not cover: whether a task may start now (admit, and BitBake's rules).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar

from memguard.model import Task

# Of two tasks that each need more than this share of the memory one waits for the other.
# evidence: two that need more than a half each are more than there is
HALF = 0.5
# What shorter tasks need of the memory does not matter for the order.
# evidence: chosen, not measured
LONG_S = 5.0
T = TypeVar("T", bound=Hashable)  # what tasks are known by: a tid, a number


class Circle(ValueError):
    """Tasks that need each other; BitBake refuses such a build before any order is asked for."""


def remaining_paths(
    tids: Sequence[T],
    depends: Callable[[T], Collection[T]],
    seconds: Mapping[T, float],
) -> dict[T, float]:
    """Seconds from each task's start to the end of the longest chain of tasks that wait for it, its own included.

    depends: what a task needs; seconds: how long each takes. Raises Circle.
    """
    waiting = dict.fromkeys(tids, 0)
    for tid in tids:
        for needed in depends(tid):
            waiting[needed] += 1
    after = dict.fromkeys(tids, 0.0)  # the longest path among those that need it
    ready = [tid for tid in tids if not waiting[tid]]
    for tid in ready:  # grows meanwhile
        path = after[tid] = after[tid] + seconds[tid]
        for needed in depends(tid):
            if after[needed] < path:
                after[needed] = path
            waiting[needed] -= 1
            if not waiting[needed]:
                ready.append(needed)
    if len(ready) < len(waiting):
        raise Circle("tasks need each other")
    return after


def one_after_the_other(seconds: Mapping[T, float], shares: Mapping[T, float]) -> dict[T, float]:
    """`seconds`, with those of tasks that need more than half of the memory added up.

    No two of these run at once, wherever they are: together they are a chain, whatever they wait for, and each counts
    as long as all of them take. So they start one after the other from early on, the largest first, and the others fill
    the gaps beside them. shares: what each needs of what tasks may use together.
    """
    heavy = {tid: share for tid, share in shares.items() if share > HALF}
    total_s = sum(seconds[tid] for tid in heavy)
    return {**seconds, **{tid: total_s + share for tid, share in heavy.items()}}


def by_remaining_path(order: Sequence[T], paths: Mapping[T, float]) -> list[T]:
    """`order`, the longest remaining path first; of equals in the order they had."""
    return sorted(order, key=lambda tid: -paths[tid])


def order_of_starts(
    order: Sequence[T],
    depends: Callable[[T], Collection[T]],
    seconds: Mapping[T, float],
    task: Callable[[T], Task],
    budget_bytes: int,
    threads: int,
    is_first: bool,
) -> list[T]:
    """`order`, but first that for which the longest chain waits. Raises Circle.

    In a first build the order stays as it is, unless the heaviest tasks, as many as run at once, might take more than
    there is.

    depends, seconds: as of remaining_paths(), of all tasks; task: what is known of one.
    budget_bytes: what tasks may use together; threads: how many run at once.
    """
    long = {tid: task(tid) for tid in order if seconds[tid] >= LONG_S}
    if is_first:
        peaks = sorted(one.footprint.likely.peak_bytes(one.wanted_jobs) for one in long.values())
        if sum(peaks[-max(1, threads) :]) <= budget_bytes:
            return list(order)
    shares = {tid: one.footprint.likely.peak_bytes(1) / max(1, budget_bytes) for tid, one in long.items()}
    return by_remaining_path(order, remaining_paths(order, depends, one_after_the_other(seconds, shares)))
