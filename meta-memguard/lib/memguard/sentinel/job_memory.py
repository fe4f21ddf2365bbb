# SPDX-License-Identifier: MIT
"""What is learned of one task's jobs as they live: how each has grown so far, and what those that ended took.

Runs in: the sentinel and `memguard run`; pure.
Covers: age without the time a job was stopped, growth, peak and rise; a life for each job that has ended; the names of
those that took most.
Does not cover: what follows for jobs that run (predict/job_lives), and acting on them (reflex).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from memguard.decide.admit import LIGHT_BYTES
from memguard.decide.moment import Job
from memguard.predict.job_lives import BEGUN_SHARE, KEPT, Expected, JobSizes, Life
from memguard.predict.remembered_lives import Lives
from memguard.record.events import JobRow
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler
from memguard.sentinel.pace import LOOK_LEAST_S

# A job has risen once it holds this share of its peak.
# evidence: chosen; half and double make no difference in the replay
RISEN_SHARE = 0.9
# The jobs of a task whose names are kept: what took less than a light task is not worth one.
# evidence: chosen; what people read on one screen
NAMED_MOST = 5


# A stopped job that takes more than this goes on: somebody else has woken it, or a debugger lets no stop through. After
# so many stops that did not hold it is not stopped any more.
# evidence: chosen; what is stopped takes nothing, and is seen once more as it was stopped
ESCAPED_BYTES = 4 << 20
ESCAPES_MOST = 3


@dataclass
class _Known:
    """A job as it was at the last look. bytes: what it holds, in memory and in swap."""

    program: str
    bytes: int
    at_s: float
    unit: int = 0
    growth_bytes_s: float = 0.0
    peak_bytes: int = 0
    # Age and size whenever it had grown by a tenth.
    steps: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])
    age_s: float = 0.0
    stopped_s: float = 0.0
    source: str = ""
    was_killed: bool = False
    may_stop: bool = True
    # What it held at the first look that found it stopped, None while it is not.
    bytes_stopped: int | None = None
    escapes: int = 0

    @property
    def still_s(self) -> float:
        """How long it has not grown by a tenth."""
        return self.age_s - self.steps[-1][0]

    def take(self, compiler: Compiler, now_s: float, is_stopped: bool) -> None:
        """Bring it up to date."""
        passed_s, held_bytes = now_s - self.at_s, compiler.bytes + compiler.swapped_bytes
        if not is_stopped:
            self.bytes_stopped = None
        elif self.bytes_stopped is None:
            self.bytes_stopped = held_bytes
        if is_stopped:
            self.stopped_s += passed_s
        elif passed_s > 0:
            self.growth_bytes_s = (held_bytes - self.bytes) / passed_s
        self.bytes, self.at_s, self.unit, self.source = held_bytes, now_s, compiler.unit, compiler.source
        self.age_s = max(0.0, compiler.age_s - self.stopped_s)
        self.peak_bytes = max(self.peak_bytes, held_bytes)
        if held_bytes * RISEN_SHARE > self.steps[-1][1]:
            self.steps.append((self.age_s, held_bytes))

    @property
    def has_escaped(self) -> bool:
        """Whether it takes more although it was stopped."""
        return self.bytes_stopped is not None and self.bytes - self.bytes_stopped > ESCAPED_BYTES

    def life(self, now_s: float) -> Life:
        """Its life, once it has ended somewhere between the last look and now."""
        wall_s = max(self.age_s + (now_s - self.at_s) / 2, 0.1)
        rise_s = max(self.steps[-1][0], 0.05)
        begun_s = next((age_s for age_s, size in self.steps if size >= BEGUN_SHARE * self.peak_bytes), 0.0)
        return Life(self.peak_bytes, wall_s, rise_s, min(begun_s, rise_s / 2))


class JobMemory:
    """The jobs of one task. `lives` are those of earlier builds, to which those that end are added.

    prior_bytes: what one job is thought to take beforehand, None where nothing is known.
    largest_bytes: what the largest took in earlier builds, 0 where that is not known.
    """

    def __init__(self, prior_bytes: int | None, lives: Lives, largest_bytes: int = 0) -> None:
        self._lives = lives
        self._sizes = JobSizes(prior_bytes, lives.sample(KEPT), largest_bytes)
        self._known: dict[ProcessId, _Known] = {}
        self._heaviest: list[JobRow] = []

    def heaviest(self) -> tuple[JobRow, ...]:
        """Those that took most so far, the heaviest first; of what was built again the larger one."""
        return tuple(
            _heaviest([*self._heaviest, *(job for known in self._known.values() for job in _named(known, 0.0))])
        )

    @property
    def living(self) -> Collection[ProcessId]:
        """The jobs that ran at the last look."""
        return self._known.keys()

    def learn(self, compilers: Sequence[Compiler], now_s: float, stopped: Collection[ProcessId]) -> None:
        """Bring what is known up to date; those that are there no more have ended, and teach what a job takes."""
        seen = {ProcessId(job.pid, job.start_ticks): job for job in compilers}
        for target in self._known.keys() - seen.keys():
            ended = self._known.pop(target)
            life = ended.life(now_s)
            self._heaviest = _heaviest([*self._heaviest, *_named(ended, life.wall_s)])
            if not ended.was_killed and ended.peak_bytes > 0:
                self._sizes.add(life, ended.program)
                self._lives.add(ended.unit, life)
        for target, compiler in seen.items():
            known = self._known.get(target)
            if known is None:
                # What a program maps as it starts is no pace at which it goes on.
                known = self._known[target] = _Known(compiler.name, 0, now_s - max(compiler.age_s, LOOK_LEAST_S))
            known.take(compiler, now_s, target in stopped)

    def take_escaped(self) -> list[ProcessId]:
        """The jobs that go on although they were stopped; those that do so again and again may not be stopped."""
        found = [target for target, known in self._known.items() if known.has_escaped]
        for target in found:
            known = self._known[target]
            known.bytes_stopped, known.escapes = None, known.escapes + 1
            known.may_stop = known.may_stop and known.escapes < ESCAPES_MOST
        return found

    def note_kill(self, target: ProcessId) -> None:
        """A job was killed: what it took says nothing of what jobs take."""
        if target in self._known:
            self._known[target].was_killed = True

    def note_final_wake(self, target: ProcessId) -> None:
        """A job was woken, and must not be stopped again."""
        if target in self._known:
            self._known[target].may_stop = False

    def job(self, compiler: Compiler, stopped: Collection[ProcessId]) -> Job:
        """One of the jobs of the last look, as regulate() sees it."""
        target = ProcessId(compiler.pid, compiler.start_ticks)
        known = self._known[target]
        return Job(
            pid=compiler.pid,
            start_ticks=compiler.start_ticks,
            program=compiler.name,
            bytes=compiler.bytes,
            age_s=known.age_s,
            growth_bytes_s=known.growth_bytes_s,
            expected=self._sizes.expect(
                known.bytes, known.age_s, compiler.name, known.still_s, self._lives.of(compiler.unit)
            ),
            swapped_bytes=compiler.swapped_bytes,
            is_stopped=target in stopped,
            may_stop=known.may_stop,
        )

    def expect_new(self, running: Sequence[Life] = ()) -> Expected:
        """What one more job is expected to take."""
        return self._sizes.expect_new(running)


def _named(job: _Known, wall_s: float) -> list[JobRow]:
    """A job as one of the heaviest, nothing where it is too light; wall_s: of one that has ended."""
    if job.peak_bytes < LIGHT_BYTES:
        return []
    seconds = round(max(wall_s, job.age_s), 1)
    return [JobRow(job.source, job.program, job.peak_bytes, seconds, int(job.was_killed))]


def _heaviest(jobs: Sequence[JobRow]) -> list[JobRow]:
    """The heaviest NAMED_MOST of different names."""
    largest: dict[tuple[str, str], JobRow] = {}
    for job in sorted(jobs, key=lambda job: job.peak_bytes):
        largest[job.source, job.program] = job
    return heapq.nlargest(NAMED_MOST, largest.values(), key=lambda job: job.peak_bytes)
