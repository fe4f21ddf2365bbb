# SPDX-License-Identifier: MIT
"""A recorded build of real recipes, run again in simulated time: tasks, their compilers, and the CPUs they share.

Covers: what the tasks of a recording take, and a build of them that is stock's, or memguard's with what it learned in
the builds before.
Does not cover: time, CPUs and memory (memguard_cli.simulation.engine), memguard's part (by_compiler there).

What only reality has is left out: disks and page cache, what the kernel reclaims at the limit, BitBake's own CPU time
while tasks run. Compilers too short to be seen are made up: small ones.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from memguard.decide.moment import Act
from memguard.decide.pool_form import TASKS
from memguard.model import Outcome, Policy, Record
from memguard.units import MIB
from memguard_cli.simulation.beliefs import Beliefs
from memguard_cli.simulation.by_compiler import MemguardByCompiler, Watched, in_order
from memguard_cli.simulation.engine import Container, Engine
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.policies import Stock
from memguard_cli.simulation.profiles import Phase, Profile, Unit, draw_compilers

from .recording import RecordedTask, Recording

# By how much the time spreads that the same task takes from build to build (sigma of the logarithm).
# evidence: CPU seconds of the same builds of the bed differ by 3 to 5 %
SPREAD = 0.04
MOST_S = 1800.0
# What a task takes of which nothing was seen: BitBake's own process for it.
LEAST_BYTES = 8 * MIB


@dataclass(frozen=True)
class Replayed:
    """What came of a build, as of Built: `peak_bytes` with what is used when no task runs."""

    has_built: bool
    wall_s: float
    peak_bytes: int
    kernel_kills: int = 0
    killed: int = 0
    stopped: int = 0
    held: int = 0
    idle_s: float = 0.0


@dataclass
class Past:
    """What a history holds of earlier builds: of each task, by its number, records, the oldest first, and lives."""

    builds: int = 0
    records: dict[int, list[Record]] = field(default_factory=dict)
    lives: dict[int, bytes] = field(default_factory=dict)


class ReplayedGuard(MemguardByCompiler):
    """memguard's part of a replay, which goes on with what it learned in the builds before."""

    def __init__(self, engine: Engine, recording: Recording, policy: Policy, past: Past) -> None:
        self._recording, self._past, self.kernel_kills = recording, past, 0
        self._number, container = past.builds + 1, engine.container
        beliefs = Beliefs(engine.graph, lambda number: recording.tasks[number].kind, container.jobs, past.records)
        seconds = {
            number: beliefs.seconds(number, container.cpus) if task.kind else 0.0
            for number, task in enumerate(recording.tasks)
        }
        order = in_order(engine, seconds, beliefs.__getitem__, policy, is_first=not past.builds)
        super().__init__(engine, order, beliefs, policy, None)

    def has_pool(self, number: int) -> bool:
        return self._recording.tasks[number].has_pool

    def lives_of(self, number: int) -> bytes | None:
        return self._past.lives.get(number, b"") if self._recording.tasks[number].task in TASKS else None

    def is_lost(self) -> bool:
        """The kernel kills the largest compiler, of which the task loses no more than that."""
        self.kernel_kills += 1
        clocks = [(one, run.lane.clock) for run in self.engine.runs.values() for one in run.compilers]
        if clocks:
            self.engine.compilers.signal(Act.KILL, max(clocks, key=lambda pair: pair[0].bytes(pair[1]))[0].target)
            self.engine.grow()
        return not clocks

    def forget(self, number: int, watched: Watched) -> None:
        """A task has ended: what it took is remembered."""
        super().forget(number, watched)
        task, tally = self._recording.tasks[number], watched.tally
        wall_s = self.engine.now_s - watched.began_s
        record = Record(
            build=f"{self._number:04}",
            recipe=task.recipe,
            version="",
            task=task.task,
            machine="",
            jobs=max(1, min(watched.jobs, tally.most_compilers)),
            peak_bytes=tally.peak_bytes or None,
            largest_process_bytes=tally.largest_process_bytes,
            wall_s=max(wall_s - watched.stopped_s, min(wall_s, task.cpu_s / watched.jobs)),
            cpu_s=task.cpu_s,
            outcome=Outcome.OK,
            per_job_bytes=tally.per_job_bytes,
            serial_bytes=tally.serial_bytes if tally.most_compilers > 1 else None,
        )
        self._past.records[number] = [*self._past.records.get(number, ()), record]
        if watched.lives is not None:
            self._past.lives[number] = watched.lives.packed()
        self._past.builds = self._number


class Replay:
    """One build of a recording. seed: of what differs from one build to the next."""

    def __init__(
        self,
        recording: Recording,
        limit_bytes: int,
        threads: int,
        jobs: int,
        cpus: float = 2.0,
        seed: int = 0,
    ) -> None:
        self.recording = recording
        names = tuple((task.recipe, task.task) for task in recording.tasks)
        graph, dice = Graph(names, tuple(task.needs for task in recording.tasks)), random.Random(seed)
        profiles = [profile_of(task, dice) for task in recording.tasks]
        self.engine = Engine(graph, profiles, Container(limit_bytes, cpus, threads, jobs, recording.idle_bytes))

    def run(self, guard: ReplayedGuard | None = None) -> Replayed:
        """The whole build; without memguard it is stock: every task has all its jobs."""
        outcome = self.engine.run(guard or Stock(self.engine, self.engine.graph.stock_order()), MOST_S)
        return Replayed(
            outcome.finished,
            outcome.makespan_s + self.recording.around_s,
            outcome.peak_bytes,
            guard.kernel_kills if guard else int(outcome.peak_bytes > self.engine.container.limit_bytes),
            outcome.killed,
            outcome.stopped,
            outcome.held,
            guard.ledger.totals.idle_s if guard else 0.0,
        )


def profile_of(task: RecordedTask, dice: random.Random) -> Profile:
    """A task as one more build meets it; none of it where it runs nothing."""
    if not task.kind:
        return Profile(())
    haste = math.exp(dice.gauss(0, SPREAD))
    if task.units:
        largest_bytes = max(unit.peak_bytes for unit in task.units)
        units = [Unit(place, unit) for place, unit in enumerate(task.units, start=1)]
        return draw_compilers(task.cpu_s, units, max(LEAST_BYTES, task.peak_bytes - largest_bytes), dice, haste)
    cpu_s = max(0.05, task.cpu_s)
    wall_s = max(task.wall_s, cpu_s)
    phase = Phase(cpu_s * haste, 1, max(LEAST_BYTES, task.peak_bytes), 0, share=cpu_s / wall_s)
    return Profile((phase,))
