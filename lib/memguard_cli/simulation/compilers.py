# SPDX-License-Identifier: MIT
"""The single compilers of a simulated build: which begin, and what is done to them.

Runs in: outside BitBake; pure.
Covers: as many of a task as its jobs, or of all tasks as may run; stopping, waking and killing one; how memory grows.
Does not cover: jobs that are all alike, and what a task does besides (engine); who decides (by_compiler).
"""

from __future__ import annotations

import heapq
import math

from memguard.decide.moment import Act
from memguard.sense.proc_files import ProcessId
from memguard_cli.simulation.lanes import Lanes
from memguard_cli.simulation.running import SimulatedCompiler, SimulatedTask


class Compilers:
    """Those of all tasks.

    tasks: those that are in a phase of single compilers, by number, the oldest first.
    ended: how many have ended.
    most:  how many run at once at the most, of each task one in any case; None for no such bound.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.tasks: dict[int, SimulatedTask] = {}
        self.most: int | None = None
        self.ended = 0
        self._begun = 0
        self._lanes = lanes
        # By a number of jobs, what the largest so many take; it changes with the tasks.
        self._largest_bytes: dict[int, int] = {}
        self._running: dict[int, tuple[int, SimulatedCompiler]] = {}

    def find(self, target: ProcessId) -> tuple[int, SimulatedCompiler]:
        """The task of a compiler that is there, and the compiler."""
        return self._running[target.pid]

    def enter(self, task: int, run: SimulatedTask, now_s: float) -> None:
        """A task begins a phase of single compilers."""
        run.units.extend(run.phase.units)
        self.tasks[task] = run
        self._largest_bytes.clear()
        self.begin(task, run, now_s)

    def begin(self, task: int, run: SimulatedTask, now_s: float) -> None:
        """As many as may run."""
        while run.units and len(run.compilers) < run.jobs and not run.is_halted:
            if run.compilers and self.most is not None and len(self._running) >= self.most:
                return
            self._begun += 1
            compiler = SimulatedCompiler(run.units.popleft(), self._begun, now_s)
            self._running[compiler.pid] = (task, compiler)
            run.compilers.append(compiler)
            self._let_run(task, run, compiler)

    def end(self, task: int, run: SimulatedTask, compiler: SimulatedCompiler, now_s: float) -> bool:
        """One has ended, and others begin; whether it was the task's last."""
        run.speed -= 1
        run.lane.demand -= 1
        self.ended += 1
        self._forget(run, compiler)
        if self.most is None:
            self.begin(task, run, now_s)
        else:
            for number, other in self.tasks.items():
                self.begin(number, other, now_s)
        is_last = not run.compilers and not run.units
        if is_last:
            del self.tasks[task]
            self._largest_bytes.clear()
        return is_last

    def signal(self, act: Act, target: ProcessId) -> None:
        """Stop, wake or kill one. That halts the task of one that is killed, until resume()."""
        task, compiler = self._running[target.pid]
        run = self.tasks[task]
        if act is Act.WAKE:
            if not compiler.stamp:
                run.stopped -= 1
                self._let_run(task, run, compiler)
            return
        if compiler.stamp:
            compiler.rest_s, compiler.stamp = compiler.left_s(run.lane.clock), 0
            run.speed -= 1
            run.lane.demand -= 1
            run.stopped += 1
        if act is Act.KILL:
            run.stopped -= 1
            self._forget(run, compiler)
            run.units.append(compiler.unit)
            run.is_halted = True

    def resume(self, task: int, jobs: int, now_s: float) -> None:
        """A halted task goes on, with another number of jobs."""
        run = self.tasks[task]
        run.is_halted, run.jobs = False, jobs
        self.begin(task, run, now_s)

    def fill_in_s(self, room_bytes: float) -> float:
        """In how many seconds they may take so much more, at the soonest."""
        growth_bytes_s = sum(
            compiler.growth_bytes_s(run.lane.clock) for run in self.tasks.values() for compiler in run.compilers
        )
        return max(0.0, room_bytes) / growth_bytes_s if growth_bytes_s else math.inf

    @property
    def rest_bytes(self) -> int:
        """What those that run will take beyond what they hold, if none of them ends before."""
        return sum(
            compiler.unit.life.peak_bytes - compiler.bytes(run.lane.clock)
            for run in self.tasks.values()
            for compiler in run.compilers
            if compiler.stamp
        )

    def may_take(self, jobs: int) -> int:
        """What the largest so many of all tasks take together beyond what those that run hold."""
        if jobs not in self._largest_bytes:
            peaks = (peak for run in self.tasks.values() for peak in run.phase.peaks[:jobs])
            self._largest_bytes[jobs] = sum(heapq.nlargest(jobs, peaks))
        held_bytes = sum(run.used_bytes - run.phase.base_bytes for run in self.tasks.values())
        return self._largest_bytes[jobs] - held_bytes

    def _let_run(self, task: int, run: SimulatedTask, compiler: SimulatedCompiler) -> None:
        run.speed += 1
        run.lane.demand += 1
        self._lanes.schedule(run.lane, task, compiler, compiler.rest_s)

    def _forget(self, run: SimulatedTask, compiler: SimulatedCompiler) -> None:
        del self._running[compiler.pid]
        run.compilers.remove(compiler)
