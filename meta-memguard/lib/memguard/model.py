# SPDX-License-Identifier: MIT
"""The nouns that pass between the stages: sense -> predict -> decide -> act -> record.

Runs in: everywhere; pure.
Covers: what each stage hands to the next, in bytes, jobs and seconds.
Does not cover: where the values come from (sense, predict) or what is done with them (decide, act).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple


class Mode(str, enum.Enum):
    """What memguard may do to a build."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    OFF = "off"


@dataclass(frozen=True)
class Reading:
    """Memory and CPUs of the container at one moment.

    limit_bytes:          the smallest finite limit over the container, None where none is visible.
    limit_source:         the file (or variable) that limit was read from, "MemTotal" where there is none.
    used_bytes:           memory that cannot be reclaimed: anonymous, shmem and kernel memory, never page cache.
    shmem_bytes:          the part of used_bytes that lies in tmpfs and shared memory; no task's end frees it.
    room_bytes:           what is left until the nearest limit is hit, over every level that has one.
    host_available_bytes: MemAvailable of the machine, None where it cannot be read.
    total_bytes:          MemTotal of the machine, None where it cannot be read.
    cpus:                 CPUs the container may use at once; 2.5 is possible under a quota.
    charged_bytes:        all that is charged to the container, page cache included; the gate never looks at it.
    working_set_bytes:    what the kubelet acts on: charged less inactive page cache. None, as charged_bytes, where
                          there is no cgroup or it does not say.
    swap_left_bytes:      what of the container may still go to swap.
    """

    limit_bytes: int | None
    limit_source: str
    used_bytes: int
    shmem_bytes: int
    room_bytes: int
    host_available_bytes: int | None
    total_bytes: int | None
    cpus: float
    charged_bytes: int | None = None
    working_set_bytes: int | None = None
    swap_left_bytes: int = 0

    @cached_property
    def bound_bytes(self) -> int:
        """The limit that bounds the plan: the container's, or MemTotal where no limit is visible."""
        return (self.total_bytes or 0) if self.limit_bytes is None else self.limit_bytes

    @cached_property
    def left_bytes(self) -> int:
        """What is left until something would be killed; negative where a limit is passed already."""
        if self.host_available_bytes is None:
            return self.room_bytes
        return min(self.room_bytes, self.host_available_bytes)

    @cached_property
    def ceiling_bytes(self) -> int:
        """The use at which something would be killed: the nearest limit or the end of the host's memory."""
        return self.used_bytes + max(0, self.left_bytes)


# Where a footprint comes from that is the user's word, or that was learned from runs of the task itself.
OWN_ORIGIN = "MEMGUARD_FOOTPRINT"
HISTORY_ORIGIN = "history"


@dataclass(frozen=True)
class Footprint:
    """Peak memory of one task as a function of its jobs: base + per_job x jobs, at least serial. In bytes.

    most_bytes: what more jobs do not take it beyond, since it has no more work for them; None where no such is known.
                A serial part that is larger stands all the same.
    origin: where it comes from, for explanations: "MEMGUARD_FOOTPRINT", "history", "known", or the kind of recipe.
    margin: the share that was added to what is likely, so that hardly any run takes more.
    is_guess: nothing is known of the task but its kind.
    """

    base_bytes: int
    per_job_bytes: int
    serial_bytes: int
    origin: str
    most_bytes: int | None = None
    margin: float = 0.0
    is_guess: bool = False

    @cached_property
    def likely(self) -> Footprint:
        """The same without its margin: for who can take back what was too much."""
        if not self.margin:
            return self
        share = 1 / (1 + self.margin)
        return Footprint(
            int(self.base_bytes * share),
            int(self.per_job_bytes * share),
            int(self.serial_bytes * share),
            self.origin,
            None if self.most_bytes is None else int(self.most_bytes * share),
        )

    @property
    def is_own(self) -> bool:
        """Whether the user has said so."""
        return self.origin == OWN_ORIGIN

    @property
    def is_history(self) -> bool:
        """Whether runs of the task itself say so."""
        return self.origin == HISTORY_ORIGIN

    def peak_bytes(self, jobs: int) -> int:
        """Expected peak with `jobs` jobs."""
        peak_bytes = self.base_bytes + self.per_job_bytes * jobs
        if self.most_bytes is not None and peak_bytes > self.most_bytes:
            peak_bytes = self.most_bytes
        return max(peak_bytes, self.serial_bytes)

    def jobs_within(self, room_bytes: int, wanted_jobs: int) -> int:
        """The most jobs, up to `wanted_jobs`, whose peak fits into `room_bytes`; 0 when not even one does."""
        if self.peak_bytes(wanted_jobs) <= room_bytes:
            return wanted_jobs
        # So what is the most does not fit either, and jobs that do are on the line.
        if self.serial_bytes > room_bytes or self.per_job_bytes <= 0:
            return 0
        return max(0, min(wanted_jobs, (room_bytes - self.base_bytes) // self.per_job_bytes))


class PastRun(NamedTuple):
    """One run of a task: jobs and peak are None, and the name of its kind is "", where they are not known."""

    jobs: int | None
    wall_s: float
    cpu_s: float
    peak_bytes: int | None = None
    kind: str = ""


@dataclass(frozen=True)
class Duration:
    """Wall time of one task as a function of its jobs: serial + parallel / jobs. In seconds.

    cpu_s: the CPU time of it all; None for what computes all the time and so takes serial + parallel.
    """

    serial_s: float
    parallel_s: float
    cpu_s: float | None = None

    def seconds(self, jobs: int) -> float:
        """Expected wall time with `jobs` jobs, as many CPUs being free."""
        return self.serial_s + self.parallel_s / jobs

    def cpus(self, jobs: int) -> float:
        """CPUs it keeps busy with `jobs` jobs, on average over its run."""
        wall_s = self.seconds(jobs)
        cpu_s = self.serial_s + self.parallel_s if self.cpu_s is None else self.cpu_s
        return min(float(jobs), cpu_s / wall_s) if wall_s > 0 else 0.0


@dataclass(frozen=True)
class Task:
    """One task of one recipe as the scheduler sees it.

    tid:         BitBake's id within this run queue; history is keyed by recipe and name, never by it.
    wanted_jobs: the jobs it would run with in a stock build, at least 1.
    duration:    how long earlier builds say it takes, None where they say nothing.
    """

    tid: str
    mc: str
    recipe: str
    name: str
    footprint: Footprint
    wanted_jobs: int
    duration: Duration | None = None

    def __str__(self) -> str:
        prefix = f"mc:{self.mc}:" if self.mc else ""
        return f"{prefix}{self.recipe} {self.name}"


@dataclass(frozen=True)
class Grant:
    """What one task was given as it starts: jobs, and what it is expected to take with them."""

    jobs: int
    bytes: int


@dataclass(frozen=True)
class Policy:
    """The validated settings of one build, for its server and its sentinel; those of single tasks: TaskPolicy.

    limit_bytes:   the user's own limit, None to take what the container says.
    reserve_bytes, reserve_share: memory kept free, or that as a share of the limit; None for reserve_of's default.
    min_jobs, min_jobs_share: the fewest jobs before a task is held instead, as a number or a share of what it wants.
    directory:     where events, grants and faults are written; "" to write none.
    history:       the file of what tasks took; "" to keep none.
    fleet:         the URL of a database that many builds share, as it was written; "" for none.
    history_max_bytes: what that may grow to.
    metrics:       the file for Prometheus' node_exporter; "" to write none.
    overrides:     the user's own footprints, by recipe and task.
    pressure_command: what is run before something is killed; "" for nothing.
    parks:         what is stopped may go to swap.
    gives_way:     tasks that the end of the build does not wait for get a higher nice value.
    has_cgroup:    tasks get a cgroup of their own, where one kernel kill would take the whole container.
    neighbours:    where builds under the same limit find each other: "auto", a directory, or "off" for nowhere.
    """

    mode: Mode = Mode.ENFORCE
    limit_bytes: int | None = None
    reserve_bytes: int | None = None
    reserve_share: float | None = None
    min_jobs: int | None = None
    min_jobs_share: float = 0.25
    directory: str = ""
    history: str = ""
    fleet: str = field(default="", repr=False)
    history_max_bytes: int = 64 * 1024**2
    metrics: str = ""
    overrides: dict[str, dict[str, Footprint]] = field(default_factory=dict)
    pressure_command: str = ""
    parks: bool = True
    gives_way: bool = True
    neighbours: str = "auto"
    has_cgroup: bool = False
    _reserves: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    DEFAULT_RESERVE_SHARE = 0.05
    DEFAULT_RESERVE_LEAST_BYTES = 256 * 1024**2
    DEFAULT_RESERVE_MOST_BYTES = 2 * 1024**3

    def reserve_of(self, bound_bytes: int) -> int:
        """Bytes kept free under a limit of `bound_bytes`.

        The default is 5 % of the limit, at least 256 MiB (a BitBake server grows by that while it builds), at
        most 2 GiB (what planners of large build hosts put aside), and never more than a quarter of the limit.
        """
        reserve = self._reserves.get(bound_bytes)
        if reserve is None:
            reserve = self._reserves[bound_bytes] = self._work_out_reserve(bound_bytes)
        return reserve

    def _work_out_reserve(self, bound_bytes: int) -> int:
        if self.reserve_bytes is not None:
            return self.reserve_bytes
        if self.reserve_share is not None:
            return int(bound_bytes * self.reserve_share)
        share = min(int(bound_bytes * self.DEFAULT_RESERVE_SHARE), self.DEFAULT_RESERVE_MOST_BYTES)
        return min(max(share, self.DEFAULT_RESERVE_LEAST_BYTES), bound_bytes // 4)

    def fewest_jobs(self, wanted_jobs: int, cpus: float) -> int:
        """The fewest jobs worth starting a task with that wants `wanted_jobs`, on `cpus` CPUs.

        A large build started with one job would crawl for hours where a short wait gives it many, if it has no pool or
        nobody watches; jobs beyond the CPUs buy nothing, so they do not count as wanted here.
        """
        if self.min_jobs is not None:
            return max(1, min(self.min_jobs, wanted_jobs))
        share = min(wanted_jobs, max(1.0, cpus)) * self.min_jobs_share
        return max(1, math.ceil(round(share, 6)))  # 7 % of 100 is 7.000000000000001


@dataclass(frozen=True)
class TaskPolicy:
    """The validated settings of one task of one recipe, for the process that runs it.

    directory: MEMGUARD_DIR, where grants, notes and pools lie.
    acts:      whether more is done than watching it.
    retries:   how often it runs again with fewer jobs after a compiler was killed for memory, before it runs once more
               with one job and alone; 0: never, not even that.
    may_kill:  whether its compilers may be killed for memory, since it runs again then.
    uses_pool: whether it may take its jobs from a pool of tokens, where its tools can.
    fault:     why a line of its recipe cannot be used, with one that can: it is watched only then. "" where all can.
    """

    directory: str
    acts: bool = False
    retries: int = 0
    may_kill: bool = False
    uses_pool: bool = False
    fault: str = ""


class TaskUse(NamedTuple):
    """What one running task takes now, in bytes, and the CPUs it keeps busy; its peak and its most compilers so far."""

    current_bytes: int
    cpus: float = 1.0
    peak_bytes: int = 0
    most_compilers: int = 0


@dataclass(frozen=True)
class BuildUse:
    """What is seen of running tasks, as far as it matters to which task starts next.

    tasks:      by BitBake's id.
    stopped:    how many jobs are stopped since memory is short.
    parked_bytes: what of them in memory is as good as free, since it may go to swap.
    alone:      in words, the task that wants to run, or runs, with no other beside it; "" for none.
    rise_bytes: what their compilers, and those that follow them, are expected to take together beyond what is used now,
                when that is most.
    is_watched: somebody sees them, and can stop their jobs.
    others_bytes, others_pending_bytes, others_cpus: what tasks of other builds under the same limit hold, what they
                will take that is not in rise_bytes, and the CPUs that they keep busy.
    """

    tasks: Mapping[str, TaskUse]
    stopped: int = 0
    alone: str = ""
    rise_bytes: int = 0
    is_watched: bool = True
    parked_bytes: int = 0
    others_bytes: int = 0
    others_pending_bytes: int = 0
    others_cpus: float = 0.0


class Outcome(str, enum.Enum):
    """How the run of a task ended. The last two say that it might have taken more memory than it did."""

    OK = "ok"
    FAILED = "failed"
    MEMORY_KILL = "memory-kill"
    THROTTLED = "throttled"


@dataclass(frozen=True)
class Record:
    """What one run of one task really took.

    build:      names the build it belongs to; builds are ordered by when they were first recorded.
    machine:    what it was built for (MACHINE, or a native tuning); jobs: those granted; "" and None if unknown.
    peak_bytes: the most memory of its whole process tree at one moment, None where that is not known (buildstats).
    largest_process_bytes: that of one process.
    per_job_bytes: the median memory of a compiler process while several ran, None where that was not seen.
    serial_bytes: the peak while no more than one compiler process ran, None where that was not seen.
    kind: the name of its kind of task (predict.kinds), "" where unknown; kept once for all runs of the task.
    """

    build: str
    recipe: str
    version: str
    task: str
    machine: str
    jobs: int | None
    peak_bytes: int | None
    largest_process_bytes: int
    wall_s: float
    cpu_s: float
    outcome: Outcome
    per_job_bytes: int | None = None
    serial_bytes: int | None = None
    kind: str = ""


@dataclass(frozen=True)
class Sample:
    """A record out of the history.

    age_builds: how many builds of the history were begun after its own; 0 in the newest.
    """

    record: Record
    age_builds: int


@dataclass(frozen=True)
class Kill:
    """One process that the sentinel has killed, as it notes it for the task that lost it.

    time_s:  the monotonic clock.
    bytes:   what it had; used_bytes of limit_bytes (None where there is no limit) were in use then.
    outputs: the files it was writing.
    beside_bytes: what the largest job beside it had.
    """

    time_s: float
    program: str
    bytes: int
    used_bytes: int
    limit_bytes: int | None
    outputs: tuple[str, ...] = ()
    beside_bytes: int = 0


Version = tuple[int, int]
