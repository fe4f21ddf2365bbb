# SPDX-License-Identifier: MIT
"""Runs an imaginary build, event by event: tasks share the CPUs, and their memory adds up.

Runs in: outside BitBake; pure.
Covers: phases of tasks, CPUs that all jobs share by their weight, memory over time, the kill at the limit; jobs that
are stopped, woken and killed.
Does not cover: which task starts (policies), page cache, disks, and what BitBake itself does between two tasks.

Time: while there are more jobs than CPUs, all of one weight are slowed down by the same factor. So each weight has a
clock of its own, which runs at that factor, on which the end of a phase is known once it begins; a change of the factor
moves no event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from memguard.decide.chain import NICE
from memguard.model import TaskUse
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.profiles import UNIT_S, Phase, Profile

# CPU seconds that a stopped job still has to do.
STOPPED_JOB_S = UNIT_S / 2

# What a nice value makes of the share of a CPU, one step at a time (sched_prio_to_weight of Linux).
NICE_STEP = 1.25

# Two events that are closer than this, in seconds, are one.
AT_ONCE_S = 1e-9


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

    def describe(self, outcome: Outcome) -> Outcome:
        """The outcome with what only the policy knows."""


class _Lane:
    """The jobs of one weight, and the clock that runs as fast as they do. demand: those that want a CPU."""

    __slots__ = ("clock", "demand", "events", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.clock = 0.0
        self.demand = 0
        self.events: list[tuple[float, int, int]] = []


class SimulatedTask:
    """A task that runs: its phase, and what is left of it on its lane's clock.

    speed:        jobs that run; stopped: jobs that do not, but hold what they held, frozen_bytes.
    rest_s:       work that is left while no job runs.
    has_jobs:     several run at once in one of its phases.
    """

    __slots__ = (
        "ends",
        "frozen_bytes",
        "has_jobs",
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
        "used_bytes",
    )

    def __init__(self, phases: Sequence[Phase], jobs: int, started_s: float, lane: _Lane) -> None:
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
        self._done_s = 0.0
        self._first, self._behind = self._lanes = (_Lane(1.0), _Lane(NICE_STEP**-NICE))
        self._stamps = 0
        self._resumes: dict[int, tuple[int, float]] = {}
        self._missing = [len(needed) for needed in graph.depends]
        self._tids = [str(task) for task in range(len(graph))]

    def run(self, policy: Policy, until_s: float = math.inf) -> Outcome:
        """Run the build to its end, to the kill, or until a time after which nobody cares. Raises Stuck."""
        for task, missing in enumerate(self._missing):
            if not missing:
                policy.ready(task)
        total = len(self.graph)
        threads = self.container.threads
        limit_bytes = self.container.limit_bytes
        while self.done < total:
            while len(self.runs) < threads:
                chosen = policy.choose()
                if chosen is None:
                    break
                self._start(*chosen, self._behind if policy.gives_way(chosen[0]) else self._first)
            if not self.runs:
                raise Stuck(f"{total - self.done} tasks are left, and none is started")
            policy.before_time_passes()
            if not self.runs and not self.has_failed:
                continue  # the last one that ran was killed, and starts again
            is_over = self.has_failed or self.used_bytes > limit_bytes or self.now_s > until_s
            if is_over or not self._advance(policy, limit_bytes):
                return policy.describe(self._outcome(finished=False))
        return policy.describe(self._outcome(finished=True))

    @property
    def demand(self) -> int:
        """Jobs that want a CPU."""
        return self._first.demand + self._behind.demand

    def set_jobs(self, task: int, jobs: int) -> None:
        """Let a running task have another number of jobs from now on."""
        run = self.runs[task]
        if jobs == run.jobs:
            return
        left_s = self._left_s(run)
        run.jobs = jobs
        self._enter(task, run, left_s)

    def stop(self, task: int, jobs: int) -> None:
        """Stop some of the jobs of a running task; they keep what they hold."""
        run = self.runs[task]
        jobs = min(jobs, run.speed)
        left_s = self._left_s(run)
        run.stopped += jobs
        run.frozen_bytes += jobs * run.phase.job_bytes
        self._enter(task, run, left_s)

    def wake(self, task: int, jobs: int) -> None:
        """Let stopped jobs go on; they take again what their phase says."""
        run = self.runs[task]
        jobs = min(jobs, run.stopped)
        left_s = self._left_s(run)
        run.frozen_bytes -= run.frozen_bytes * jobs // max(1, run.stopped)
        run.stopped -= jobs
        self._enter(task, run, left_s)

    def kill(self, task: int, lost_s: float) -> None:
        """Kill a job of a running task, which then ends and has to be started again.

        lost_s: CPU seconds of work that is to be done once more; all that is done besides stays done.
        """
        run = self.runs.pop(task)
        self._resumes[task] = (run.place, min(run.phase.work_s, self._left_s(run) + lost_s))
        run.lane.demand -= run.speed
        self.used_bytes -= run.used_bytes
        del self.states[self._tids[task]]

    def _left_s(self, run: SimulatedTask) -> float:
        return (run.ends - run.lane.clock) * run.speed if run.speed else run.rest_s

    def _start(self, task: int, jobs: int, lane: _Lane) -> None:
        run = SimulatedTask(self.profiles[task].phases, jobs, self.now_s, lane)
        self.runs[task] = run
        place, left_s = self._resumes.pop(task, (0, run.phase.work_s))
        run.place, run.phase = place, run.phases[place]
        self._enter(task, run, left_s)

    def _enter(self, task: int, run: SimulatedTask, work_s: float) -> None:
        """Begin a phase, or go on with `work_s` of it that are left."""
        phase = run.phase
        speed = max(0, (run.jobs if run.jobs < phase.width else phase.width) - run.stopped)
        run.lane.demand += speed - run.speed
        used_bytes = phase.base_bytes + phase.job_bytes * speed + run.frozen_bytes
        self.used_bytes += used_bytes - run.used_bytes
        if self.used_bytes > self.peak_bytes:
            self.peak_bytes = self.used_bytes
        run.speed, run.used_bytes = speed, used_bytes
        self._stamps += 1
        run.stamp = self._stamps  # earlier events of this task, and of an earlier run of it, are void
        self.states[self._tids[task]] = TaskUse(used_bytes, speed, most_compilers=int(run.has_jobs))
        if speed:
            run.ends = run.lane.clock + work_s / speed
            heapq.heappush(run.lane.events, (run.ends, task, run.stamp))
        else:
            run.rest_s = work_s

    def _advance(self, policy: Policy, limit_bytes: int) -> bool:
        """Go on to the next event, or to when the policy wants to be asked; False where all is killed."""
        for lane in self._lanes:
            self._drop_void(lane)
        paces = self._paces()
        pauses = [
            (lane.events[0][0] - lane.clock) / pace if lane.events else math.inf
            for lane, pace in zip(self._lanes, paces)
        ]
        pause_s, wakes_s = min(pauses), policy.wakes_in_s()
        if wakes_s is None and pause_s == math.inf:
            raise Stuck("every job is stopped, and nobody wants to wake one")
        is_asked = wakes_s is not None and wakes_s < pause_s
        passed_s = wakes_s if wakes_s is not None and is_asked else max(0.0, pause_s)
        self.now_s += passed_s
        for lane, pace in zip(self._lanes, paces):
            lane.clock += passed_s * pace
        if is_asked:
            return True
        lane = self._lanes[pauses.index(pause_s)]
        events, ends = lane.events, lane.events[0][0]
        lane.clock = ends
        while events and events[0][0] <= ends + AT_ONCE_S:
            _, task, stamp = heapq.heappop(events)
            run = self.runs.get(task)
            if run is None or run.stamp != stamp:
                continue
            if run.stopped and (run.place + 1 == len(run.phases) or run.phases[run.place + 1].width == 1):
                # What follows needs the objects of the stopped jobs, too.
                self._wait_for_stopped(task, run)
                continue
            run.place += 1
            if run.place < len(run.phases):
                run.phase = run.phases[run.place]
                self._enter(task, run, run.phase.work_s)
                if self.used_bytes > limit_bytes:
                    return False
            else:
                self._end(task, run, policy)
        return True

    def _drop_void(self, lane: _Lane) -> None:
        """Take away the next events that a later one has replaced."""
        while lane.events:
            _, task, stamp = lane.events[0]
            run = self.runs.get(task)
            if run is not None and run.stamp == stamp:
                return
            heapq.heappop(lane.events)

    def _paces(self) -> tuple[float, float]:
        """What each job of a lane gets of a CPU: by weight, one at most, and what that leaves goes to the others."""
        cpus, first, behind = self.container.cpus, self._first, self._behind
        weights = first.demand * first.weight + behind.demand * behind.weight
        if not weights:
            return 1.0, 1.0
        own = min(1.0, cpus * first.weight / weights)
        others = min(1.0, (cpus - own * first.demand) / behind.demand) if behind.demand else 1.0
        if others == 1.0 and first.demand:
            own = min(1.0, (cpus - behind.demand) / first.demand)
        return own, others

    def _wait_for_stopped(self, task: int, run: SimulatedTask) -> None:
        run.jobs = run.stopped
        self._enter(task, run, STOPPED_JOB_S * run.stopped)

    def _end(self, task: int, run: SimulatedTask, policy: Policy) -> None:
        run.lane.demand -= run.speed
        self.used_bytes -= run.used_bytes
        del self.runs[task]
        del self.states[self._tids[task]]
        self.done += 1
        self._done_s += self.profiles[task].work_s
        policy.ended(task)
        missing = self._missing
        for follower in self.graph.followers[task]:
            missing[follower] -= 1
            if not missing[follower]:
                policy.ready(follower)

    def _outcome(self, finished: bool) -> Outcome:
        share = 1.0 if finished else self._share_done()
        return Outcome(finished, share, self.now_s, self.peak_bytes)

    def _share_done(self) -> float:
        """The part of all work that is done, without what is lost with the tasks that ran."""
        total_s = sum(profile.work_s for profile in self.profiles)
        return self._done_s / total_s if total_s else 0.0
