# SPDX-License-Identifier: MIT
"""Plans one build: simulates it in containers of many sizes, and searches what stock BitBake would need.

Runs in: outside BitBake; pure but for the callback that tells of progress.
Does not cover: what a plan says (plans), several builds on several nodes (nodes).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from memguard.units import MIB
from memguard_cli.simulation.compare import place_of, simulate
from memguard_cli.simulation.plans import Plan, Point, Stock
from memguard_cli.simulation.profiles import ERRORS
from memguard_cli.simulation.truth import Truth

# What BitBake's server and workers use.
IDLE_BYTES = 300 * MIB
# The knee: from here on more memory gains less than this.
KNEE_SHARE = 0.05


def make_plan(
    truths: Sequence[Truth], cpus: int, sizes: Sequence[int], tick: Callable[[], None] = lambda: None
) -> Plan:
    """Simulate every size, and search what stock would need. `tick` is called seeds + 1 times for each size."""
    points: list[Point] = []
    for size in sizes:
        if points and points[-1].is_never_short:
            before = points[-1]
            points.append(Point(size, *list(vars(before).values())[1:]))
            for _ in truths:
                tick()
        else:
            points.append(_try(truths, cpus, size, tick))
    smallest = next((point for point in points if all(p.is_safe for p in points[points.index(point) :])), None)
    knee = None
    if smallest is not None:
        safe = points[points.index(smallest) :]
        best_s = min(point.time_s or math.inf for point in safe)
        knee = next(point for point in safe if (point.time_s or math.inf) <= best_s * (1 + KNEE_SHARE))
    stock_bytes = None
    for size in reversed(sizes):
        if _stock_time(truths, cpus, size, cpus, cpus) is None:
            break
        stock_bytes = size
        tick()
    stock = _find_stock(truths, cpus, knee.limit_bytes) if knee is not None else None
    return Plan(cpus, tuple(points), smallest, knee, stock_bytes, stock)


def _try(truths: Sequence[Truth], cpus: int, limit_bytes: int, tick: Callable[[], None]) -> Point:
    place = place_of(limit_bytes, cpus, None, None, IDLE_BYTES, None)
    outcomes = []
    for seed, truth in enumerate(truths):
        outcomes.append(simulate(truth, place, "memguard", None, seed))
        tick()
    times = [outcome.makespan_s for outcome in outcomes if outcome.finished]
    is_never_short = all(outcome.finished and not outcome.held and not outcome.shrunk for outcome in outcomes)
    return Point(
        limit_bytes,
        len(times),
        len(outcomes),
        statistics.median(times) if times else None,
        min(times, default=None),
        max(times, default=None),
        is_never_short,
    )


def _stock_time(truths: Sequence[Truth], cpus: int, limit_bytes: int, threads: int, jobs: int) -> float | None:
    """The median time of stock BitBake, None where one of the builds is killed."""
    place = place_of(limit_bytes, cpus, threads, jobs, IDLE_BYTES, None)
    times = []
    for truth in truths:
        outcome = simulate(truth, place, "stock", ERRORS["exact"], 0)
        if not outcome.finished:
            return None
        times.append(outcome.makespan_s)
    return statistics.median(times)


def _find_stock(truths: Sequence[Truth], cpus: int, limit_bytes: int) -> Stock | None:
    """The fastest configuration of stock BitBake that finishes, of all that halve the number of CPUs some times."""
    halves = [max(1, cpus >> step) for step in range(cpus.bit_length())]
    found = [
        Stock(threads, jobs, time_s)
        for threads in halves
        for jobs in halves
        if (time_s := _stock_time(truths, cpus, limit_bytes, threads, jobs)) is not None
    ]
    return min(found, key=lambda stock: stock.time_s, default=None)
