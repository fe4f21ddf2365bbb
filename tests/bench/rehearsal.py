# SPDX-License-Identifier: MIT
"""Makes whose units have known memory over time, in simulated time: the real Reflex, or a fixed number of jobs.

Covers: makes that take tokens, units that grow, stand still and end, the kernel's OOM killer; several builds in one
        container; hundreds of builds a minute, each the same whenever it is repeated.
Does not cover: real makes, processes and cgroups (feedback); workloads (schedules).

What only reality has is left out: CPUs that are short, counters that lag, tokens that make takes back before the pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable

from memguard.act.token_pool import Pool
from memguard.channels.neighbours import Entry, as_bytes, parse
from memguard.decide.moment import Act
from memguard.model import Policy, Reading
from memguard.predict.remembered_lives import Lives
from memguard.sense.compilers import unit_of
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler, Usage
from memguard.sentinel.look import MEASURE_S
from memguard.sentinel.neighbours import BEAT_AGE_S
from memguard.sentinel.others import NOBODY, Others, Told, entry_of, others_of, unheard
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Ward
from memguard.units import MIB
from memguard_cli.simulation.running import PROCESS_BYTES, TICKS_PER_S
from memguard_cli.simulation.stand_ins import SimulatedSignals
from testbed.liveness import Liveness

from .schedules import Make, Unit, Workload

STEP_S = 0.01
# What a look takes beside 64 compilers, and what `memguard run` takes until its command runs.
LOOK_S, START_S = 0.01, 0.15
# Make and memguard.
BASE_BYTES = 40 * MIB
# A build that takes so long has stalled.
MOST_S = 300.0


@dataclass
class Rehearsed:
    """What came of a build. `oom_kills` are the kernel's; with a fixed number of jobs the first of them ends it."""

    wall_s: float = 0.0
    peak_bytes: int = 0
    oom_kills: int = 0
    stopped: int = 0
    killed: int = 0
    has_built: bool = False
    # The longest time in which a job was stopped and no other went on.
    stalled_s: float = 0.0


@dataclass
class Job:
    """A compiler that runs. name: its unit (compilers.unit_of), 0 where that is not known."""

    unit: Unit
    name: int
    pid: int
    began_s: float
    has_token: bool
    ran_s: float = 0.0
    is_killed: bool = False

    @property
    def target(self) -> ProcessId:
        return ProcessId(self.pid, round(self.began_s * TICKS_PER_S))

    @property
    def bytes(self) -> int:
        return PROCESS_BYTES + int(self.unit.bytes_at(self.ran_s))

    @property
    def has_ended(self) -> bool:
        return self.is_killed or self.ran_s >= self.unit.wall_s

    def seen(self, now_s: float, program: str = "cc1plus") -> Compiler:
        """What a look sees of it."""
        return Compiler(*self.target, program, self.bytes, now_s - self.began_s, self.name)


@dataclass
class _RunningMake:
    """A make: the pool it takes tokens from, what it has still to begin, its jobs, of which one has no token."""

    pool: TokenPool
    units: deque[Unit]
    links: deque[Unit]
    jobs: list[Job] = field(default_factory=list)
    is_linking: bool = False

    @classmethod
    def of(cls, make: Make, pool: TokenPool) -> _RunningMake:
        return cls(pool, deque(make.units), deque(make.links))

    @property
    def has_built(self) -> bool:
        return not (self.units or self.links or self.jobs)

    @property
    def ready(self) -> deque[Unit]:
        """What it may begin now: links only when all units are there."""
        self.is_linking = self.is_linking or not (self.units or self.jobs)
        return self.links if self.is_linking else self.units

    @property
    def is_free(self) -> bool:
        """Whether it may begin one without a token."""
        return all(job.has_token for job in self.jobs)


class TokenPool(Pool):
    """A pool without a FIFO: what is owed is taken back whenever a job ends."""

    def __init__(self) -> None:
        self._target = self._issued = self._held = 0

    @property
    def idle(self) -> int:
        return self._issued - self._held

    @property
    def held(self) -> int:
        return self._held

    def take(self) -> bool:
        """Whether a client gets a token."""
        taken = self.idle > 0
        self._held += taken
        return taken

    def give_back(self) -> None:
        """A client's job has ended."""
        self._held -= 1
        self._settle()

    def set_tokens(self, tokens: int) -> None:
        self._target = tokens
        self._settle()

    def reissue(self, count: int) -> None:
        """Give anew the tokens of clients that are gone."""
        self._held -= count
        self._settle()

    def close(self, unlink: bool = True) -> None:
        """Nothing to let go of."""

    def _settle(self) -> None:
        self._issued = max(self._target, self._held)


class Rehearsal:
    """One build in a container: with so many fixed jobs for all makes, or under the reflex where that is None.

    gate_bytes: what must be free for a unit to begin to take memory.
    are_tasks:  each make is a task with a pool of its own, as in a build of BitBake; else all are one command's.
    before:     what a rehearsal of the same kind has remembered of the same workload.
    first_pid:  the pids of its processes are higher than this, so that those of several builds are told apart.
    late_s:     by how much each look comes later than it should.
    """

    def __init__(
        self,
        workload: Workload,
        limit_bytes: int,
        jobs: int,
        fixed_jobs: int | None = None,
        gate_bytes: int = 0,
        are_tasks: bool = False,
        before: Mapping[str, bytes] | None = None,
        first_pid: int = 0,
        late_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.found = Rehearsed()
        self.said_s = float("-inf")
        self._cpu_s = 0.0
        self._limit_bytes = limit_bytes
        self._gate_bytes = gate_bytes
        self._late_s = late_s
        pools = [TokenPool() for _ in (workload.makes if are_tasks else ("command",))]
        self._makes = [_RunningMake.of(make, pools[place % len(pools)]) for place, make in enumerate(workload.makes)]
        self._tasks = {str(place): pool for place, pool in enumerate(pools)}
        self._lives = {tid: Lives((before or {}).get(tid, b"")) for tid in self._tasks}
        self._names = {id(unit): unit_of(b"%d.o" % number) for number, unit in enumerate(workload.units)}
        self._signals = SimulatedSignals(self._tell)
        self.now_s = self._look_at_s = 0.0
        self._begun = first_pid + len(pools)
        self._liveness = Liveness()
        self._reflex: Reflex | None = None
        self._told: dict[str, Told] = {}
        if fixed_jobs is None:
            self._reflex = Reflex(jobs, lambda leader: [], signals=self._signals, open_pool=self._tasks.__getitem__)
            for place, tid in enumerate(self._tasks, start=1):
                leader = ProcessId(first_pid + place, 1)
                self._told[tid] = Told(leader)
                self._reflex.begin(tid, Ward(leader, place, jobs, pool=tid), self._lives[tid])
        else:
            for pool in pools:
                pool.set_tokens(max(0, fixed_jobs - len(self._makes)))

    def run(self) -> Rehearsed:
        """The whole build, by itself in its container."""
        while self.goes_on:
            step([self], self._limit_bytes)
        return self.found

    @property
    def goes_on(self) -> bool:
        """Whether it has neither been built nor stalled; make ends where a compiler of it was killed."""
        is_broken = self._reflex is None and self.found.oom_kills > 0
        return not (self.found.has_built or is_broken) and self.now_s < MOST_S

    @property
    def jobs(self) -> list[Job]:
        """Its compilers that run."""
        return [job for make in self._makes for job in make.jobs]

    @property
    def bytes(self) -> int:
        """What it holds."""
        return BASE_BYTES + sum(job.bytes for job in self.jobs)

    @property
    def entry(self) -> Entry:
        """What it says to other builds since its last look, at `said_s`."""
        if self._reflex is None:
            return Entry()
        careful, kills = self._reflex.caution, self.found.killed
        said = Entry(cpu_s=self._cpu_s, kills=kills, reserve_bytes=careful.reserve_bytes, late_s=careful.late_s)
        return entry_of(self._reflex.moment, self._told, True, said)

    def lives(self, process: ProcessId) -> bool:
        """Whether one of its processes has not ended."""
        jobs = {job.target for job in self.jobs}
        return process in jobs or any(told.leader == process for told in self._told.values())

    def remembered(self) -> dict[str, bytes]:
        """What the next build of the same units may know."""
        return {tid: lives.packed() for tid, lives in self._lives.items()}

    def _tell(self, act: Act, target: ProcessId) -> None:
        if act is Act.KILL:
            self.kill(target)

    def kill(self, target: ProcessId) -> None:
        """Kill a job; its unit is built anew, as by the command's second run."""
        for job in self.jobs:
            job.is_killed = job.is_killed or job.target == target

    def change_jobs(self) -> None:
        """Let end what ends, and begin what may."""
        self._end_jobs()
        self._begin_jobs()

    def look(self, used_bytes: int, others: Others = NOBODY) -> None:
        """Look and act, if it is time: so much is used in the container."""
        if self._reflex is not None and self.now_s >= self._look_at_s:
            self._look(self._reflex, used_bytes, others)

    def advance(self, used_bytes: int) -> None:
        """Let what runs go on until the next step."""
        free_bytes = self._limit_bytes - used_bytes
        for job in self.jobs:
            may_begin = job.ran_s > 0 or free_bytes >= self._gate_bytes
            if may_begin and job.target not in self._signals.stopped:
                job.ran_s += STEP_S
        self.now_s += STEP_S
        ran_s = sum(job.ran_s for job in self.jobs)
        self._liveness.see(self.now_s, bool(self._signals.stopped), (self._begun, ran_s))
        self.found.has_built = all(make.has_built for make in self._makes)
        self.found.stalled_s = self._liveness.longest_s
        self.found.wall_s = self.now_s + (0.0 if self._reflex is None else START_S)

    def hang(self, seconds: float) -> None:
        """Let nobody look for so long."""
        self._look_at_s = max(self._look_at_s, self.now_s + seconds)

    def _end_jobs(self) -> None:
        for make in self._makes:
            again, ended = make.ready, [job for job in make.jobs if job.has_ended]
            make.jobs = [job for job in make.jobs if not job.has_ended]
            for job in ended:
                if job.is_killed:
                    again.append(job.unit)
                if job.has_token:
                    make.pool.give_back()

    def _begin_jobs(self) -> None:
        for make in self._makes:
            while make.ready:
                needs_token = not make.is_free
                if needs_token and not make.pool.take():
                    break
                self._begun += 1
                unit = make.ready.popleft()
                make.jobs.append(Job(unit, self._names[id(unit)], self._begun, self.now_s, needs_token))

    def _look(self, reflex: Reflex, used_bytes: int, others: Others) -> None:
        for tid in [tid for tid, pool in self._tasks.items() if all(make.has_built for make in self._makes_of(pool))]:
            del self._tasks[tid]
            reflex.end(tid)
        usages = {
            tid: self._usage([job for make in self._makes_of(pool) for job in make.jobs])
            for tid, pool in self._tasks.items()
        }
        limit, used = self._limit_bytes, used_bytes
        reading = Reading(limit, "rehearsed", used, 0, limit - used, None, None, 2.0, charged_bytes=used)
        for acted in reflex.look(self.now_s, reading, Policy().reserve_of(limit), usages, others=others):
            self.found.stopped += acted.action.act is Act.STOP
            self.found.killed += acted.action.act is Act.KILL
        self._look_at_s = self.now_s + min(reflex.next_look_s, MEASURE_S) + LOOK_S + self._late_s()
        self.said_s, self._cpu_s = self.now_s, sum(usage.cpu_s for usage in usages.values())

    def _makes_of(self, pool: TokenPool) -> list[_RunningMake]:
        return [make for make in self._makes if make.pool is pool]

    def _usage(self, jobs: list[Job]) -> Usage:
        compilers = tuple(job.seen(self.now_s, job.unit.program) for job in sorted(jobs, key=lambda job: -job.pid))
        used_bytes, ran_s = sum(job.bytes for job in jobs), sum(job.ran_s for job in jobs)
        return Usage(used_bytes, len(compilers) + 1, len(compilers), compilers, cpu_s=ran_s)


def step(builds: Sequence[Rehearsal], limit_bytes: int) -> int:
    """One moment of builds in one container, which see what the others say; what is used then, in bytes.

    Where that is more than the limit, the kernel kills the largest job.
    """
    for build in builds:
        build.change_jobs()
    used_bytes = sum(build.bytes for build in builds)
    if used_bytes > limit_bytes:
        build, job = max(((build, job) for build in builds for job in build.jobs), key=lambda pair: pair[1].bytes)
        job.is_killed = True
        build.found.oom_kills += 1
    for build in builds:
        build.found.peak_bytes = max(build.found.peak_bytes, used_bytes)
        if build.goes_on:
            build.look(used_bytes, _others(build, builds))
            build.advance(used_bytes)
    return used_bytes


def _others(build: Rehearsal, builds: Sequence[Rehearsal]) -> Others:
    """What the others have said lately, as a sentinel reads it."""
    said = {}
    for number, other in enumerate(builds, start=1):
        if other is not build and other.goes_on:
            entry = parse(as_bytes(other.entry))
            is_heard = build.now_s - other.said_s <= BEAT_AGE_S
            said[ProcessId(number, 1)] = entry if is_heard else unheard(entry, other.lives)
    return others_of(said) if said else NOBODY
