# SPDX-License-Identifier: MIT
"""How fast a build could be: a bound that none can beat, and the best of many schedules that know everything.

Runs in: outside BitBake; pure.
Covers: list schedules with drawn orders and jobs, that know every duration and every profile.
Does not cover: the best schedule there is, which nobody can compute; it lies between the two.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from memguard_cli.simulation.engine import Container, Engine, Outcome
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.policies import InOrder
from memguard_cli.simulation.profiles import Profile

SCHEDULES = 200


def lower_bound_s(graph: Graph, profiles: Sequence[Profile], container: Container, reserve_bytes: int) -> float:
    """No schedule is shorter: the longest chain with all jobs, all work on all CPUs, all memory x time in the limit.

    Of memory x time each task has the least with all the jobs it can use: what it holds whatever its jobs, it then
    holds for the shortest time.
    """
    jobs = container.jobs
    chain_s = max(graph.longest_paths([profile.seconds(jobs) for profile in profiles]), default=0.0)
    work_s = sum(profile.work_s for profile in profiles) / container.cpus
    room_bytes = container.limit_bytes - reserve_bytes - container.idle_bytes
    if room_bytes <= 0:
        return math.inf
    return max(chain_s, work_s, sum(profile.byte_seconds(jobs) for profile in profiles) / room_bytes)


@dataclass(frozen=True)
class Draw:
    """How one list schedule is made.

    order:   tasks, the most urgent first.
    crowd:   no task starts while running jobs want more CPUs than this many times those there are.
    depth:   how many ready tasks are looked at for one that fits.
    jobs:    the share of the wanted jobs that a task gets at most; fewest the share below which it rather waits.
    """

    order: Sequence[int]
    crowd: float
    depth: int
    jobs: float
    fewest: float


class Clairvoyant(InOrder):
    """A list schedule that knows what every task will take from now to its end."""

    def __init__(self, engine: Engine, draw: Draw, room_bytes: int) -> None:
        super().__init__(engine, draw.order)
        self._draw = draw
        self._room_bytes = room_bytes
        self._most = max(1, round(engine.container.jobs * draw.jobs))

    def choose(self) -> tuple[int, int] | None:
        engine, draw = self.engine, self._draw
        if not self._waiting or (engine.runs and engine.demand >= draw.crowd * engine.container.cpus):
            return None
        free = self._room_bytes - sum(_rest_bytes(engine, task) for task in engine.runs)
        for place, waiting in enumerate(self._waiting[: draw.depth]):
            task = self._order[waiting]
            jobs = self._jobs_within(engine.profiles[task], free)
            if not jobs and not engine.runs and place == len(self._waiting[: draw.depth]) - 1:
                jobs, place = 1, 0  # the liveness law
                task = self._order[self._waiting[0]]
            if jobs:
                del self._waiting[place]
                return task, jobs
        return None

    def _jobs_within(self, profile: Profile, free_bytes: int) -> int:
        """The most jobs of this draw with which a task fits, 0 where it shall wait."""
        jobs = most = min(self._most, max(phase.width for phase in profile.phases))
        while profile.peak_bytes(jobs) > free_bytes:
            if jobs <= max(1, most * self._draw.fewest):
                return 0
            jobs //= 2
        return jobs


def _rest_bytes(engine: Engine, task: int) -> int:
    """The most a running task will take from now on."""
    run = engine.runs[task]
    return max(phase.used_bytes(run.jobs) for phase in run.phases[run.place :])


def draw_schedules(
    graph: Graph, profiles: Sequence[Profile], container: Container, dice: random.Random
) -> Iterator[Draw]:
    """List schedules without end: by longest path, by memory x time, both, with more and less chance in it."""
    jobs = container.jobs
    usable = max(1, container.limit_bytes)
    while True:
        share = dice.choice((1.0, 1.0, 0.5, 0.25))
        seconds = [profile.seconds(max(1, round(jobs * share))) for profile in profiles]
        pull = dice.choice((0.0, 0.0, 0.5, 1.0, 2.0))
        if pull:
            # A task that leaves room for few others costs more than its own time.
            for task, profile in enumerate(profiles):
                seconds[task] *= 1 + pull * min(1.0, profile.peak_bytes(jobs) / usable) * container.threads / 4
        blur = dice.choice((0.0, 0.05, 0.2, 0.5))
        paths = graph.longest_paths(seconds)
        if blur:
            paths = [path * math.exp(dice.gauss(0, blur)) for path in paths]
        order = sorted(range(len(graph)), key=lambda task: -paths[task])
        yield Draw(
            order,
            crowd=dice.choice((1.0, 1.0, 1.25, 1.5, 2.0, math.inf)),
            depth=dice.choice((4, 16, 64, len(graph))),
            jobs=share,
            fewest=dice.choice((0.0, 0.25, 0.5)),
        )


def best_schedule(
    graph: Graph,
    profiles: Sequence[Profile],
    container: Container,
    reserve_bytes: int,
    dice: random.Random,
    schedules: int = SCHEDULES,
    tick: Callable[[], None] = lambda: None,
) -> Outcome | None:
    """The shortest of `schedules` drawn list schedules; None where none of them finishes. `tick` after each."""
    room_bytes = container.limit_bytes - reserve_bytes - container.idle_bytes
    best: Outcome | None = None
    for _, draw in zip(range(schedules), draw_schedules(graph, profiles, container, dice)):
        engine = Engine(graph, profiles, container)
        outcome = engine.run(Clairvoyant(engine, draw, room_bytes), best.makespan_s if best else math.inf)
        if outcome.finished and (best is None or outcome.makespan_s < best.makespan_s):
            best = outcome
        tick()
    return best
