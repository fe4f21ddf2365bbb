# SPDX-License-Identifier: MIT
"""The words of regulation: a moment of running tasks and their jobs, and the actions that answer it.

Runs in: the sentinel, `memguard run` and every simulation; pure.
Covers: all that regulation depends on, the marks included.
Does not cover: the answer (regulate.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from memguard.predict.job_lives import Expected

# The marks, as shares of the reserve that is kept free by plan.
# evidence: half and double in the replay; rehearsals (scripts/bench feedback --rehearse) are without kernel kills by
# these
STOP_SHARE = 0.5
KILL_SHARE = 0.25
# A pressed container (PSI) is stopped this much earlier: pressure only confirms what use says.
# evidence: chosen; without swap pressure comes too late to matter
PRESSED_FACTOR = 1.5
# What is left is judged as it will be after this much more time at the present rate: a look and its effect. For stops,
# what looks came late by of late is added; nothing is killed for that.
# evidence: a look comes every 0.1 s, and from the mark to a job that stands still it takes 25 ms (scripts/bench
# latency)
REACTION_S = 0.12
# The same for kills: near the kill mark looks follow each other sooner, and it is nearer what really comes.
# evidence: with 1 GiB a compile of 750 MiB beside BitBake's 250 was killed four times at 1005 to 1008; in builds of its
# own it has ended at 1009 to 1011
KILL_REACTION_S = 0.045
# A job that should have ended by now is expected to run on for this time.
# evidence: chosen; a fifth of the time between two looks
LEAST_LEFT_S = 0.02


# Jobs of all tasks together that may run on each CPU: while one waits for a disk another goes on. More of them take
# memory, and CPU time from those that all others wait for, and gain nothing.
# evidence: on real recipes, 2 CPUs, three at once keep both busy 98 % of the time
JOBS_PER_CPU = 1.5
# Who asks for this many jobs per CPU has them run elsewhere, perhaps: distcc, icecream.
# evidence: chosen; BitBake's own default is one job for each CPU
REMOTE_JOBS_PER_CPU = 4


def slots_of(jobs: int, cpus: float) -> int:
    """How many jobs of all tasks together may run at once, where each task asks for `jobs`, 0 where that is unknown."""
    if jobs > REMOTE_JOBS_PER_CPU * cpus:
        return jobs
    return max(ceil(cpus), min(jobs, ceil(JOBS_PER_CPU * cpus)))


class Act(str, enum.Enum):
    """What may be done to a running task, or to one job of it."""

    TOKENS = "tokens"
    STOP = "stop"
    WAKE = "wake"
    KILL = "kill"


@dataclass(frozen=True)
class Job:
    """One job of a task: a compiler or linker process.

    bytes:         what it has in memory.
    age_s:         how long it has run, without the time it was stopped.
    growth_bytes_s: how fast it grew when it was last looked at, or stopped.
    expected:      the life it is expected to have.
    may_stop:      whether it may be stopped, as its task may.
    swapped_bytes: what of it lies in swap, and comes back as it goes on.
    """

    pid: int
    start_ticks: int
    program: str
    bytes: int
    age_s: float
    growth_bytes_s: float
    expected: Expected
    is_stopped: bool = False
    may_stop: bool = True
    swapped_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """What it has in memory and in swap."""
        return self.bytes + self.swapped_bytes

    @property
    def need_bytes(self) -> int:
        """What it is expected to take beyond what it has in memory."""
        return max(self.held_bytes, self.expected.peak_bytes) - self.bytes

    @property
    def left_s(self) -> float:
        """How long it is expected to run on."""
        return max(LEAST_LEFT_S, self.expected.wall_s - self.age_s)

    def soon_bytes(self, seconds: float) -> float:
        """What it takes in this time at its present pace, up to the largest peak known of its kind; and all that lies
        in swap, which comes back as fast as it is asked for."""
        pace_bytes = max(0.0, self.growth_bytes_s) * seconds
        if self.expected.ended:
            largest = max(life.peak_bytes for life in self.expected.lives or (self.expected,))
            pace_bytes = min(pace_bytes, max(0, largest - self.held_bytes))
        return self.swapped_bytes + pace_bytes


@dataclass(frozen=True)
class Running:
    """One task that runs.

    place:        counts up over the build, or over all builds under the limit; the oldest task has the smallest.
    most_jobs:    what it may run at once by its grant, its implicit job included.
    jobs:         its jobs, the youngest first.
    next_job:     what one more job of it is expected to take.
    held_tokens:  tokens that its jobs hold, None where it has no pool.
    idle_tokens:  tokens that lie in its pool.
    current_bytes, swapped_bytes: what it has in memory and in swap.
    is_stopped:   the whole task is stopped.
    may_stop, may_kill: whether its processes may be.
    is_ours:      it is of this build, not of another one under the same limit.
    """

    tid: str
    place: int
    most_jobs: int
    jobs: tuple[Job, ...]
    next_job: Expected
    held_tokens: int | None = None
    idle_tokens: int = 0
    current_bytes: int = 0
    is_stopped: bool = False
    may_stop: bool = True
    may_kill: bool = True
    swapped_bytes: int = 0
    is_ours: bool = True


@dataclass(frozen=True)
class Caution:
    """How carefully memory is judged. Builds under one limit go by the most careful of them: else one would count on
    another to stop what that one lets go on.

    reserve_bytes, late_s, is_pressed: as of a moment.
    """

    reserve_bytes: int = 0
    late_s: float = 0.0
    is_pressed: bool = False

    def joined(self, other: Caution) -> Caution:
        """The more careful of both in every respect."""
        return Caution(
            max(self.reserve_bytes, other.reserve_bytes),
            max(self.late_s, other.late_s),
            self.is_pressed or other.is_pressed,
        )


@dataclass(frozen=True)
class Moment:
    """All that regulation depends on.

    left_bytes:    what is left until something is killed by the kernel.
    reserve_bytes: what is kept free by plan.
    fill_bytes_s:  how fast memory in use grows now; negative where it falls.
    slots:         jobs of all tasks together, implicit ones included.
    is_pressed:    the container's own pressure has just passed its threshold.
    late_s:        by how much looks came too late in the last seconds, at the most.
    since_wake_s, since_kill_s: the time since the last one, also of another task.
    stalled_s:     something is stopped, and for this long nothing of what runs has gone on.
    crawl_s:       for this long what runs has had so little CPU time that it gets nowhere.
    swap_left_bytes: what may still go to swap; only what is stopped is meant to.
    tasks:         those that run, in any order, of all builds under the limit.
    """

    left_bytes: int
    reserve_bytes: int
    fill_bytes_s: float
    slots: int
    tasks: tuple[Running, ...]
    is_pressed: bool = False
    late_s: float = 0.0
    since_wake_s: float = 1e9
    since_kill_s: float = 1e9
    stalled_s: float = 0.0
    crawl_s: float = 0.0
    swap_left_bytes: int = 0

    @cached_property
    def asked_jobs(self) -> int:
        """The most jobs that one task may run."""
        return max((task.most_jobs for task in self.tasks), default=0)

    @property
    def reaction_s(self) -> float:
        """From one look to the effect of the next."""
        return REACTION_S + self.late_s

    @property
    def stop_bytes(self) -> int:
        """Where less than this is left, jobs are stopped."""
        share = STOP_SHARE * (PRESSED_FACTOR if self.is_pressed else 1.0)
        return int(self.reserve_bytes * share)

    @property
    def kill_bytes(self) -> int:
        """Where less than this is left, and nothing can be stopped, a job is killed."""
        return int(self.reserve_bytes * KILL_SHARE)

    @property
    def kill_reaction_s(self) -> float:
        """From one look near the kill mark to the effect of the next; where looks come late, that of any look."""
        return min(REACTION_S, KILL_REACTION_S + self.late_s)

    @property
    def is_near(self) -> bool:
        """Whether the kill mark may be passed before the effect of a look at the usual time, by jobs that run."""
        reaction_s = REACTION_S + self.kill_reaction_s
        has_jobs = any(task.jobs for task in self.tasks)
        left_bytes = self.left_bytes + self.swap_left_bytes
        return has_jobs and left_bytes < max(self.stop_bytes, self.kill_bytes + self.fill_bytes_s * reaction_s)

    @property
    def stopped_bytes(self) -> int:
        """What everything that is stopped has in memory."""
        jobs = sum(job.bytes for task in self.tasks for job in task.jobs if job.is_stopped)
        return jobs + sum(task.current_bytes for task in self.tasks if task.is_stopped and not task.jobs)

    def parked_bytes(self, stopped_bytes: int) -> int:
        """How much of what stopped jobs have in memory is as good as free: it goes to swap, as far as that goes."""
        return min(self.swap_left_bytes, stopped_bytes)

    def beside_bytes(self, job: Job) -> int:
        """What the largest job beside this one holds; a task without jobs counts as one."""
        others = (other.bytes for task in self.tasks for other in task.jobs if other.pid != job.pid)
        return max([*others, *(task.current_bytes for task in self.tasks if not task.jobs)], default=0)


@dataclass(frozen=True)
class Action:
    """One thing to do.

    reason:   in words, why a job is stopped, woken or killed.
    job:      to which job, None for the whole task.
    tokens:   what its pool shall have, held ones included.
    is_short: tokens are withdrawn since memory is short, not since others have the slots.
    is_final: what is woken must not be stopped again.
    """

    act: Act
    tid: str
    reason: str = ""
    job: Job | None = None
    tokens: int = 0
    is_short: bool = False
    is_final: bool = False
