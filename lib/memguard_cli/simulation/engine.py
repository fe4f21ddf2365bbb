# SPDX-License-Identifier: MIT
"""Runs an imaginary build, event by event: tasks share the CPUs, and their memory adds up.

Runs in: outside BitBake; pure.
Covers: phases of tasks, memory over time, the kill at the limit; jobs that are all alike as they are stopped, woken and
killed.
Does not cover: which task starts (policies), how CPUs are shared (lanes), single compilers (compilers), page cache,
disks, and what BitBake itself does between two tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from memguard.model import TaskUse
from memguard_cli.simulation.compilers import Compilers
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.lanes import Lane, Lanes
from memguard_cli.simulation.profiles import UNIT_S, Profile
from memguard_cli.simulation.running import SimulatedCompiler, SimulatedTask

# CPU seconds that a stopped job still has to do.
STOPPED_JOB_S = UNIT_S / 2


@dataclass(frozen=True)
class Container:
    """Where a build runs.

    limit_bytes: the use at which everything in it is killed.
    cpus:        how many jobs run at full speed.
    threads:     BB_NUMBER_THREADS: the most tasks at once.
    jobs:        PARALLEL_MAKE: the jobs a task wants.
    idle_bytes:  what BitBake's server and workers use.
    """

    limit_bytes: int
    cpus: float
    threads: int
    jobs: int
    idle_bytes: int


@dataclass(frozen=True)
class Outcome:
    """How a build went.

    finished:    whether every task ended well.
    share_done:  the part of all work that was done when the build ended, 1 for one that finished.
    makespan_s:  seconds from its start to its end, also where that is the kill.
    peak_bytes:  the most it used at one moment.
    held_s:      seconds that tasks waited for memory, all together.
    held, shrunk, forced: how many tasks waited, started with fewer jobs, started although they may not fit.
    stopped, killed: how many jobs were, single ones of running tasks; the task of a killed one ran again.
    """

    finished: bool
    share_done: float
    makespan_s: float
    peak_bytes: int
    held_s: float = 0.0
    held: int = 0
    shrunk: int = 0
    forced: int = 0
    stopped: int = 0
    killed: int = 0


class Policy(Protocol):
    """Says which task starts, and with how many jobs."""

    def ready(self, task: int) -> None:
        """A task has all that it needs."""

    def choose(self) -> tuple[int, int] | None:
        """The task that starts now and its jobs; None to wait for the next event. Asked while a thread is free."""

    def gives_way(self, task: int) -> bool:
        """Whether a task that was chosen starts with a higher nice value than others."""

    def ended(self, task: int) -> None:
        """A task that was chosen has ended."""

    def before_time_passes(self) -> None:
        """All that starts now has started: the last moment to change jobs before the next event."""

    def wakes_in_s(self) -> float | None:
        """In how many seconds the policy wants to be asked again although nothing has happened; None for never."""

    def is_lost(self) -> bool:
        """The limit is passed: whether that ends the build."""

    def describe(self, outcome: Outcome) -> Outcome:
        """The outcome with what only the policy knows."""


class Stuck(RuntimeError):
    """Tasks are left, none runs and the policy starts none: the policy breaks the liveness law."""


class Engine:
    """One build under one policy. What policies may look at has no underscore."""

    def __init__(self, graph: Graph, profiles: Sequence[Profile], container: Container) -> None:
        self.graph = graph
        self.profiles = profiles
        self.container = container
        self.now_s = 0.0
        self.used_bytes = container.idle_bytes
        self.peak_bytes = container.idle_bytes
        self.has_failed = False  # set by a policy that gives a task up
        self.runs: dict[int, SimulatedTask] = {}
        self.states: dict[str, TaskUse] = {}
        self.done = 0
        self.lanes = Lanes(container.cpus)
        self.compilers = Compilers(self.lanes)
        self._done_s = 0.0
        self._resumes: dict[int, tuple[int, float]] = {}
        self._missing = [len(needed) for needed in graph.depends]
        self._tids = [str(task) for task in range(len(graph))]

    def run(self, policy: Policy, until_s: float = math.inf) -> Outcome:
        """Run the build to its end, to the kill, or until a time after which nobody cares. Raises Stuck."""
        total = len(self.graph)
        threads = self.container.threads
        self._be_ready((task for task, missing in enumerate(self._missing) if not missing), policy)
        while self.done < total:
            while len(self.runs) < threads:
                chosen = policy.choose()
                if chosen is None:
                    break
                self._start(*chosen, self.lanes.behind if policy.gives_way(chosen[0]) else self.lanes.first)
            if not self.runs:
                raise Stuck(f"{total - self.done} tasks are left, and none is started")
            policy.before_time_passes()
            if not self.runs and not self.has_failed:
                continue  # the last one that ran was killed, and starts again
            is_over = self.has_failed or self.now_s > until_s
            if is_over or ((self._is_full or not self._advance(policy)) and policy.is_lost()):
                return policy.describe(self._outcome(finished=False))
        return policy.describe(self._outcome(finished=True))

    @property
    def has_compilers(self) -> bool:
        """Whether any task runs single ones."""
        return any(phase.units for profile in self.profiles for phase in profile.phases)

    @property
    def demand(self) -> float:
        """CPUs that all jobs want."""
        return self.lanes.demand

    @property
    def _is_full(self) -> bool:
        return self.used_bytes > self.container.limit_bytes

    def set_jobs(self, task: int, jobs: int) -> None:
        """Let a running task have another number of jobs from now on; compilers that are too many end first."""
        run = self.runs[task]
        if jobs == run.jobs:
            return
        left_s, run.jobs = run.left_s, jobs
        if run.is_compiling:
            self.compilers.begin(task, run, self.now_s)
        else:
            self._enter(task, run, left_s)

    def stop(self, task: int, jobs: int) -> None:
        """Stop some of the jobs of a running task; they keep what they hold."""
        run = self.runs[task]
        jobs = min(jobs, run.speed)
        left_s = run.left_s
        run.stopped += jobs
        run.frozen_bytes += jobs * run.phase.job_bytes
        self._enter(task, run, left_s)

    def wake(self, task: int, jobs: int) -> None:
        """Let stopped jobs go on; they take again what their phase says."""
        run = self.runs[task]
        jobs = min(jobs, run.stopped)
        left_s = run.left_s
        run.frozen_bytes -= run.frozen_bytes * jobs // max(1, run.stopped)
        run.stopped -= jobs
        self._enter(task, run, left_s)

    def kill(self, task: int, lost_s: float) -> None:
        """Kill a job of a running task, which then ends and has to be started again.

        lost_s: CPU seconds of work that is to be done once more; all that is done besides stays done.
        """
        run = self._remove(task)
        self._resumes[task] = (run.place, min(run.phase.work_s, run.left_s + lost_s))

    def _be_ready(self, tasks: Iterable[int], policy: Policy) -> None:
        """All that these need is done; those that run nothing are done with it."""
        ready = list(tasks)
        for task in ready:  # grows meanwhile
            if self.profiles[task].phases:
                policy.ready(task)
            else:
                ready += self._finish(task)

    def _finish(self, task: int) -> list[int]:
        """A task is done; those that only waited for it."""
        self.done += 1
        missing, found = self._missing, []
        for follower in self.graph.followers[task]:
            missing[follower] -= 1
            if not missing[follower]:
                found.append(follower)
        return found

    def _start(self, task: int, jobs: int, lane: Lane) -> None:
        run = SimulatedTask(self.profiles[task].phases, jobs, self.now_s, lane)
        self.runs[task] = run
        place, left_s = self._resumes.pop(task, (0, run.phase.work_s))
        run.place, run.phase = place, run.phases[place]
        self._enter(task, run, left_s)

    def _enter(self, task: int, run: SimulatedTask, work_s: float) -> None:
        """Begin a phase, or go on with `work_s` of it that are left."""
        phase, lane = run.phase, run.lane
        if phase.units:
            lane.demand -= run.speed
            run.speed = run.stamp = 0
            self.compilers.enter(task, run, self.now_s)
            return
        speed = max(0, (run.jobs if run.jobs < phase.width else phase.width) - run.stopped)
        lane.demand += (speed - run.speed) * phase.share
        self._hold(run, phase.base_bytes + phase.job_bytes * speed + run.frozen_bytes)
        run.speed = speed
        self.states[self._tids[task]] = TaskUse(run.used_bytes, speed, most_compilers=int(run.has_jobs))
        if speed:
            self.lanes.schedule(lane, task, run, work_s / speed / phase.share)
        else:
            run.stamp, run.rest_s = 0, work_s

    def _hold(self, run: SimulatedTask, used_bytes: int) -> None:
        self.used_bytes += used_bytes - run.used_bytes
        run.used_bytes = used_bytes
        if self.used_bytes > self.peak_bytes:
            self.peak_bytes = self.used_bytes

    def _advance(self, policy: Policy) -> bool:
        """Go on to the next event, or to when the policy wants to be asked; False where the limit is passed."""
        passed_s, lane = self.lanes.go_on(policy.wakes_in_s())
        if passed_s == math.inf:
            raise Stuck("every job is stopped, and nobody wants to wake one")
        self.now_s += passed_s
        # Compilers grow from one event to the next, so that what is most comes before each.
        self.grow()
        if lane is None or self._is_full:
            return not self._is_full
        for task, item in self.lanes.due(lane):
            run = self.runs[task]
            if isinstance(item, SimulatedCompiler):
                if not self.compilers.end(task, run, item, self.now_s):
                    continue
            elif run.stopped and (run.place + 1 == len(run.phases) or run.phases[run.place + 1].width == 1):
                # What follows needs the objects of the stopped jobs, too.
                self._wait_for_stopped(task, run)
                continue
            self._go_on(task, run, policy)
            if self._is_full:
                return False
        return True

    def _go_on(self, task: int, run: SimulatedTask, policy: Policy) -> None:
        """A phase has ended."""
        before = run.phase
        run.place += 1
        if run.place == len(run.phases):
            self._remove(task)
            self._done_s += self.profiles[task].work_s
            policy.ended(task)
            self._be_ready(self._finish(task), policy)
            return
        run.phase = run.phases[run.place]
        if run.phase.share != before.share:
            run.lane.demand += run.speed * (run.phase.share - before.share)
        self._enter(task, run, run.phase.work_s)

    def _wait_for_stopped(self, task: int, run: SimulatedTask) -> None:
        run.jobs = run.stopped
        self._enter(task, run, STOPPED_JOB_S * run.stopped)

    def _remove(self, task: int) -> SimulatedTask:
        """A task runs no more."""
        run = self.runs.pop(task)
        run.lane.demand -= run.speed * run.phase.share
        self.used_bytes -= run.used_bytes
        run.stamp = 0
        self.states.pop(self._tids[task], None)
        return run

    def grow(self) -> None:
        """Count what compilers hold now."""
        for run in self.compilers.tasks.values():
            clock = run.lane.clock
            self._hold(run, run.phase.base_bytes + sum([compiler.bytes(clock) for compiler in run.compilers]))

    def _outcome(self, finished: bool) -> Outcome:
        share = 1.0 if finished else self._share_done()
        return Outcome(finished, share, self.now_s, self.peak_bytes)

    def _share_done(self) -> float:
        """The part of all work that is done, without what is lost with the tasks that ran."""
        total_s = sum(profile.work_s for profile in self.profiles)
        return self._done_s / total_s if total_s else 0.0
