# SPDX-License-Identifier: MIT
"""What a plan says: build time and success over sizes of the container, for one number of CPUs; which one is chosen.

Runs in: outside BitBake; pure.
Does not cover: the simulations behind it (planning), the tables and the picture (screens/plan, screens/plan_picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One container size: how many of the runs finished, and their times (median, least, most) in seconds."""

    limit_bytes: int
    finished: int
    runs: int
    time_s: float | None
    least_s: float | None
    most_s: float | None
    is_never_short: bool

    @property
    def is_safe(self) -> bool:
        """Whether every run finished."""
        return self.finished == self.runs


@dataclass(frozen=True)
class Stock:
    """BitBake without memguard: BB_NUMBER_THREADS and the jobs of PARALLEL_MAKE, and the median time with them."""

    threads: int
    jobs: int
    time_s: float


@dataclass(frozen=True)
class Plan:
    """What was found for one number of CPUs.

    smallest, knee: None where no limit finishes.
    stock_bytes:    the smallest limit at which stock BitBake finishes with as many tasks and jobs as CPUs.
    stock:          the fastest stock configuration that finishes at the knee, None where none does.
    """

    cpus: int
    points: tuple[Point, ...]
    smallest: Point | None
    knee: Point | None
    stock_bytes: int | None
    stock: Stock | None


def within(plans: Sequence[Plan], most_s: float) -> tuple[Plan, Point] | None:
    """The fewest CPUs, and with these the least memory, with which even the slowest run ends within `most_s` seconds.

    None where no container does. Memory below a limit that fails is not offered.
    """
    for plan in sorted(plans, key=lambda plan: plan.cpus):
        for point in plan.points:
            is_enough = plan.smallest is not None and point.limit_bytes >= plan.smallest.limit_bytes
            if is_enough and point.most_s is not None and point.most_s <= most_s:
                return plan, point
    return None
