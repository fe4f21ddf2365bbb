# SPDX-License-Identifier: MIT
"""How the CPUs of a simulated container are shared, and what ends next on them.

Runs in: outside BitBake; pure.
Covers: jobs of two weights, their clocks, and events on these.
Does not cover: what an event means (engine).

While there are more jobs than CPUs, all of one weight are slowed down by the same factor. So each weight has a clock of
its own, which runs at that factor, on which the end of what runs is known once it begins; a change of the factor moves
no event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Protocol

from memguard.decide.chain import NICE

# What a nice value makes of the share of a CPU, one step at a time (sched_prio_to_weight of Linux).
NICE_STEP = 1.25
# Two events that are closer than this, in seconds, are one; and less demand than this is none.
AT_ONCE_S = 1e-9


class Item(Protocol):
    """What ends at `ends` on the clock of its lane. stamp: the number of that event; one of another number is void."""

    ends: float
    stamp: int


class Lane:
    """The jobs of one weight, and the clock that runs as fast as they do. demand: the CPUs that they want."""

    __slots__ = ("clock", "demand", "events", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.clock = 0.0
        self.demand = 0.0
        self.events: list[tuple[float, int, int, Item]] = []

    def drop_void(self) -> None:
        """Take away the next events that are void."""
        while self.events and self.events[0][3].stamp != self.events[0][2]:
            heapq.heappop(self.events)


class Lanes:
    """The jobs of both weights on so many CPUs."""

    def __init__(self, cpus: float) -> None:
        self.first, self.behind = self._lanes = (Lane(1.0), Lane(NICE_STEP**-NICE))
        self._cpus = cpus
        self._stamps = 0

    @property
    def demand(self) -> float:
        """CPUs that all jobs want."""
        return self.first.demand + self.behind.demand

    def new_stamp(self) -> int:
        """A number that no event has."""
        self._stamps += 1
        return self._stamps

    def schedule(self, lane: Lane, task: int, item: Item, seconds: float) -> None:
        """Something of a task ends after so many seconds of the lane's clock."""
        item.ends, item.stamp = lane.clock + seconds, self.new_stamp()
        heapq.heappush(lane.events, (item.ends, task, item.stamp, item))

    def go_on(self, wakes_s: float | None) -> tuple[float, Lane | None]:
        """Let time pass to the next event, or for `wakes_s` seconds: how many passed, and the lane that has an event.

        They are infinite where nothing is to come.
        """
        for lane in self._lanes:
            lane.drop_void()
        paces = self._paces()
        pauses = [
            (lane.events[0][0] - lane.clock) / pace if lane.events else math.inf
            for lane, pace in zip(self._lanes, paces)
        ]
        pause_s = min(pauses)
        is_asked = wakes_s is not None and wakes_s < pause_s
        passed_s = wakes_s if wakes_s is not None and is_asked else max(0.0, pause_s)
        if passed_s == math.inf:
            return passed_s, None
        for lane, pace in zip(self._lanes, paces):
            lane.clock += passed_s * pace
        if is_asked:
            return passed_s, None
        due = self._lanes[pauses.index(pause_s)]
        due.clock = due.events[0][0]
        return passed_s, due

    def due(self, lane: Lane) -> Iterator[tuple[int, Item]]:
        """What ends now, also of what is scheduled meanwhile: tasks and items."""
        events, now = lane.events, lane.clock
        while events and events[0][0] <= now + AT_ONCE_S:
            _, task, stamp, item = heapq.heappop(events)
            if item.stamp == stamp:
                yield task, item

    def _paces(self) -> tuple[float, float]:
        """What each job of a lane gets of a CPU: by weight, one at most, and what that leaves goes to the others."""
        cpus, first, behind = self._cpus, self.first, self.behind
        weights = first.demand * first.weight + behind.demand * behind.weight
        if weights < AT_ONCE_S:
            return 1.0, 1.0
        own = min(1.0, cpus * first.weight / weights)
        others = min(1.0, (cpus - own * first.demand) / behind.demand) if behind.demand > AT_ONCE_S else 1.0
        if others == 1.0 and first.demand > AT_ONCE_S:
            own = min(1.0, (cpus - behind.demand) / first.demand)
        return own, others
