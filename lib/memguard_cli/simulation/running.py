# SPDX-License-Identifier: MIT
"""What runs in a simulated build: tasks, and single compilers of theirs.

Runs in: outside BitBake; pure.
Covers: the state of each, what a compiler holds over its life.
Does not cover: when anything begins, and how fast it runs (engine, compilers, lanes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler
from memguard.units import MIB
from memguard_cli.simulation.lanes import Lane
from memguard_cli.simulation.profiles import Phase, Unit

# What a compiler has before it takes anything.
PROCESS_BYTES = MIB // 2
TICKS_PER_S = 100


class SimulatedTask:
    """A task that runs: its phase, and what is left of it on its lane's clock.

    speed:        jobs that run; stopped: jobs that do not, but hold what they held, frozen_bytes.
    rest_s:       work that is left while no job runs.
    has_jobs:     several run at once in one of its phases.
    compilers:    in a phase of single ones those that run or are stopped, the oldest first; units: those to come.
    is_halted:    it begins none of those.
    """

    __slots__ = (
        "compilers",
        "ends",
        "frozen_bytes",
        "has_jobs",
        "is_halted",
        "jobs",
        "lane",
        "phase",
        "phases",
        "place",
        "rest_s",
        "speed",
        "stamp",
        "started_s",
        "stopped",
        "units",
        "used_bytes",
    )

    def __init__(self, phases: Sequence[Phase], jobs: int, started_s: float, lane: Lane) -> None:
        self.phases = phases
        self.lane = lane
        self.has_jobs = any(phase.width > 1 for phase in phases)
        self.jobs = jobs
        self.started_s = started_s
        self.place = 0
        self.phase = phases[0]
        self.used_bytes = 0
        self.speed = 0
        self.stopped = 0
        self.frozen_bytes = 0
        self.rest_s = 0.0
        self.ends = 0.0
        self.stamp = 0
        self.compilers: list[SimulatedCompiler] = []
        self.units: deque[Unit] = deque()
        self.is_halted = False

    @property
    def is_compiling(self) -> bool:
        """Whether it runs single compilers."""
        return bool(self.phase.units)

    @property
    def left_s(self) -> float:
        """CPU seconds of work that are left of a phase whose jobs are all alike."""
        return (self.ends - self.lane.clock) * self.speed * self.phase.share if self.speed else self.rest_s


class SimulatedCompiler:
    """One that runs, or is stopped.

    ends:   when it ends, on the clock of its lane; stamp: of that event, 0 while it is stopped.
    rest_s: CPU seconds that are left while it is stopped.
    """

    __slots__ = ("began_s", "ends", "pid", "rest_s", "stamp", "unit")

    def __init__(self, unit: Unit, pid: int, began_s: float) -> None:
        self.unit = unit
        self.pid = pid
        self.began_s = began_s
        self.rest_s = unit.life.wall_s
        self.ends = 0.0
        self.stamp = 0

    @property
    def target(self) -> ProcessId:
        return ProcessId(self.pid, round(self.began_s * TICKS_PER_S))

    def left_s(self, clock: float) -> float:
        """CPU seconds that it still takes."""
        return self.ends - clock if self.stamp else self.rest_s

    def bytes(self, clock: float) -> int:
        """What it holds."""
        life = self.unit.life
        return PROCESS_BYTES + int(life.bytes_at(max(0.0, life.wall_s - self.left_s(clock))))

    def growth_bytes_s(self, clock: float) -> float:
        """How fast it grows at the most from now on, for each CPU second."""
        life = self.unit.life
        if not self.stamp or life.wall_s - self.left_s(clock) >= life.rise_s:
            return 0.0
        return life.peak_bytes / (life.rise_s - life.begun_s)

    def seen(self, now_s: float, clock: float) -> Compiler:
        """What a look sees of it."""
        return Compiler(*self.target, "cc1plus", self.bytes(clock), now_s - self.began_s, self.unit.name)
