# SPDX-License-Identifier: MIT
"""The reflex: looks at what running tasks take and does at once what regulate() says, to pools and processes.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: what each job has taken so far and in the last build, how fast memory fills, tokens, signals, and when to look
again.
Does not cover: reading processes (procs) and the container (sense), deciding (regulate), telling of it (sentinel, run).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Callable

from memguard.act.signals import Signals
from memguard.act.token_pool import Pool, certainly_lost
from memguard.decide.moment import Act, Action, Job, Moment, Running
from memguard.decide.regulate import regulate
from memguard.model import Reading
from memguard.predict.job_lives import BEGUN_SHARE, KEPT, JobSizes, Life
from memguard.predict.remembered_lives import Lives
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler, Usage
from memguard.units import GIB

# The time to the next look is what is left over the fastest fill rate seen (earlyoom's rule), within these.
LOOK_LEAST_S = 0.1
LOOK_MOST_S = 1.0
# Memory is taken to fill at least this fast, though it was never seen to; what was seen is half forgotten in a minute.
FILL_LEAST_BYTES_S = 1.0 * GIB
FILL_HALF_LIFE_S = 60.0
# A job like none that has ended may take so many times what is guessed.
GUESS_FACTOR = 8
# What is used outside of all tasks is the median over so much time: the kernel may tell of a cgroup two seconds late.
OUTSIDE_S = 3.0
# A job has risen once it holds this share of its peak.
RISEN_SHARE = 0.9
# How late looks come is remembered for so long, and counts up to so much: a machine that slept says nothing.
LATE_S = 5.0
LATE_MOST_S = 0.5
# Looks over which lost tokens are counted.
LOST_LOOKS = 4
# Programs that run their jobs as threads, each with a token of its own.
_THREADED = frozenset({"rustc", "cargo"})


@dataclass(frozen=True)
class Ward:
    """One task to regulate.

    leader:        its process.
    place:         counts up; the oldest task has the smallest.
    most_jobs:     what it may run at once, its implicit job included.
    job_bytes:     what one job is thought to take, None where nothing is known.
    granted_bytes: what the whole task is expected to take; 0 where nothing is known.
    pool:          the path of its pool, "" where it has none.
    """

    leader: ProcessId
    place: int
    most_jobs: int
    job_bytes: int | None = None
    granted_bytes: int = 0
    pool: str = ""
    may_stop: bool = True
    may_kill: bool = True


@dataclass(frozen=True)
class Acted:
    """What was done: the action, and the task it was done to. `tokens_before` is told of a change of tokens."""

    action: Action
    tokens_before: int = 0


@dataclass
class _Known:
    """A job as it was at the last look."""

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
    was_killed: bool = False

    @property
    def still_s(self) -> float:
        """How long it has not grown by a tenth."""
        return self.age_s - self.steps[-1][0]

    def life(self, wall_s: float) -> Life:
        """Its life, now that it has ended."""
        rise_s = max(self.steps[-1][0], 0.05)
        begun_s = next((age_s for age_s, size in self.steps if size >= BEGUN_SHARE * self.peak_bytes), 0.0)
        return Life(self.peak_bytes, wall_s, rise_s, min(begun_s, rise_s / 2))


@dataclass
class _Charge:
    """A ward with what is remembered of it from look to look."""

    ward: Ward
    sizes: JobSizes
    pool: Pool | None
    lives: Lives
    known: dict[ProcessId, _Known] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    looks: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=LOST_LOOKS))
    stopped: tuple[ProcessId, ...] = ()
    stops: int = 0
    kills: int = 0


class Reflex:
    """Acts on running tasks. `members` tells the processes of a task (ProcessTable.members).

    Where `acts` is False it only says what it would do, and gives every pool all its tokens. Whoever simulates tasks
    has `signals` and pools of its own.
    """

    def __init__(
        self,
        slots: int,
        members: Callable[[ProcessId], Iterable[ProcessId]],
        acts: bool = True,
        before_kill: Callable[[str, Job], None] = lambda tid, job: None,
        signals: Signals | None = None,
        open_pool: Callable[[str], Pool] = Pool,
    ) -> None:
        self.slots = slots
        self.moment: Moment | None = None
        self.left_bytes = 0
        self._members = members
        self._acts = acts
        self._before_kill = before_kill
        self._charges: dict[str, _Charge] = {}
        self._signals = Signals() if signals is None else signals
        self._open_pool = open_pool
        self._outside: deque[tuple[float, int]] = deque()
        self._used: tuple[float, int] | None = None
        self._fill_bytes_s = 0.0
        self._fastest_bytes_s = FILL_LEAST_BYTES_S
        # Jobs are stopped, or more begin or fewer than may be: what comes of it is seen soon.
        self._is_changing = False
        self._woke_s = self._killed_s = float("-inf")
        self._due_s: float | None = None
        self._late: deque[tuple[float, float]] = deque()

    # -- tasks come and go ------------------------------------------------------------------------------------------

    def begin(self, tid: str, ward: Ward, lives: Lives | None = None) -> bool:
        """Take charge of a task; False where its pool cannot be opened, so that it has none.

        lives: those of its jobs in earlier builds, to which those of this one are added.
        """
        pool = None
        if ward.pool:
            try:
                pool = self._open_pool(ward.pool)
            except OSError:
                pool = None
        self.end(tid)
        lives = Lives() if lives is None else lives
        self._charges[tid] = _Charge(ward, JobSizes(ward.job_bytes, lives.sample(KEPT)), pool, lives)
        return pool is not None or not ward.pool

    def change(self, tid: str, most_jobs: int, granted_bytes: int) -> None:
        """A task was granted something else."""
        charge = self._charges.get(tid)
        if charge is not None:
            charge.ward = replace(charge.ward, most_jobs=most_jobs, granted_bytes=granted_bytes)

    def end(self, tid: str) -> None:
        """Let go of a task that has ended: what it left stopped is woken, its pool is removed."""
        charge = self._charges.pop(tid, None)
        if charge is None:
            return
        for target in {*charge.stopped, *charge.known} & self._signals.stopped:
            self._signals.wake(target)
        if charge.pool is not None:
            charge.pool.close()

    def adopt(self, tid: str, tokens: int) -> None:
        """The pool of a task has `tokens` already, from a sentinel before this one."""
        charge = self._charges.get(tid)
        if charge is not None and charge.pool is not None:
            charge.pool.adopt(tokens)

    def settle(self, tid: str, now_s: float) -> None:
        """A task has ended, and with it the jobs that still ran at the last look: they teach what they took."""
        charge = self._charges.get(tid)
        if charge is not None:
            charge.usage = Usage()
            self._learn(charge, now_s)

    def renew(self, tid: str) -> None:
        """A task begins anew after a kill: no process of it holds a token."""
        charge = self._charges.get(tid)
        if charge is not None and charge.pool is not None:
            charge.pool.set_tokens(0)
            charge.pool.reissue(charge.pool.held)
            charge.looks.clear()

    def close(self) -> None:
        """Let go of everything; nothing stays stopped."""
        for tid in list(self._charges):
            self.end(tid)
        self._signals.close()

    def stop_again(self) -> None:
        """Stop what is stopped once more: somebody let all processes go on, perhaps a shell's job control."""
        self._signals.stop_again()

    # -- what is told of a task -------------------------------------------------------------------------------------

    def tokens(self, tid: str) -> int | None:
        """The tokens of a task's pool, None where it has none."""
        charge = self._charges.get(tid)
        return charge.pool.target if charge is not None and charge.pool is not None else None

    def job_bytes(self, tid: str) -> int:
        """What one more job of a task is expected to take."""
        charge = self._charges.get(tid)
        return charge.sizes.expect_new().peak_bytes if charge is not None else 0

    def stopped(self, tid: str) -> int:
        """How many of its processes are stopped."""
        charge = self._charges.get(tid)
        return len({*charge.stopped, *charge.known} & self._signals.stopped) if charge is not None else 0

    def jobs_now(self, tid: str) -> int | None:
        """The jobs that its pool lets a task run at this moment, None where it has none."""
        charge = self._charges.get(tid)
        return charge.pool.held + 1 if charge is not None and charge.pool is not None else None

    def interventions(self, tid: str) -> tuple[int, int]:
        """How often jobs of a task were stopped, and killed."""
        charge = self._charges.get(tid)
        return (charge.stops, charge.kills) if charge is not None else (0, 0)

    @property
    def next_look_s(self) -> float:
        """Seconds until memory should be looked at again."""
        if self.moment is None:
            return LOOK_LEAST_S
        headroom = self.moment.left_bytes - self.moment.stop_bytes
        if self._is_changing or headroom < sum(_may_take_bytes(task) for task in self.moment.tasks):
            return LOOK_LEAST_S
        return min(LOOK_MOST_S, max(LOOK_LEAST_S, headroom / self._fastest_bytes_s))

    # -- one look ---------------------------------------------------------------------------------------------------

    def look(
        self, now_s: float, reading: Reading, reserve_bytes: int, usages: Mapping[str, Usage], is_pressed: bool = False
    ) -> list[Acted]:
        """Take in what tasks use now and act; what was done, changes of tokens included."""
        used = self._use(now_s, reading, sum(usage.current_bytes for usage in usages.values()))
        self.left_bytes = reading.left_bytes - (used - reading.used_bytes)
        self._measure_fill(now_s, used)
        living: set[ProcessId] = set()
        for tid, charge in self._charges.items():
            charge.usage = usages.get(tid, Usage())
            self._learn(charge, now_s)
            living.update(charge.known, charge.stopped)
        self._signals.keep_only(living)
        self.moment = Moment(
            left_bytes=self.left_bytes,
            reserve_bytes=reserve_bytes,
            fill_bytes_s=self._fill_bytes_s,
            slots=self.slots,
            tasks=tuple(self._running(tid, charge) for tid, charge in self._charges.items()),
            is_pressed=is_pressed,
            late_s=self._lateness(now_s),
            since_wake_s=now_s - self._woke_s,
            since_kill_s=now_s - self._killed_s,
        )
        done = [acted for action in regulate(self.moment) if (acted := self._carry_out(action, now_s))]
        self._is_changing = bool(self._signals.stopped or done)
        self._due_s = now_s + self.next_look_s
        return done

    def _lateness(self, now_s: float) -> float:
        """By how much the latest of the last looks came too late: so many compilers are ready to run besides."""
        if self._due_s is not None:
            self._late.append((now_s, min(LATE_MOST_S, now_s - self._due_s)))
        while self._late and self._late[0][0] < now_s - LATE_S:
            self._late.popleft()
        return max([0.0, *(late_s for _, late_s in self._late)])

    def _use(self, now_s: float, reading: Reading, tasks_bytes: int) -> int:
        """What is used now: as the cgroup says, or more where the processes have grown since it was counted.

        The kernel may bring memory.stat up to date late; processes tell at once, and what is charged bounds both.
        """
        self._outside.append((now_s, reading.used_bytes - tasks_bytes))
        while self._outside[0][0] < now_s - OUTSIDE_S:
            self._outside.popleft()
        outside = max(0, sorted([size for _, size in self._outside])[len(self._outside) // 2])
        used = max(reading.used_bytes, outside + tasks_bytes)
        return used if reading.charged_bytes is None else min(used, max(reading.charged_bytes, tasks_bytes))

    def _measure_fill(self, now_s: float, used_bytes: int) -> None:
        before, self._used = self._used, (now_s, used_bytes)
        if before is None or now_s <= before[0]:
            return
        passed_s = now_s - before[0]
        self._fill_bytes_s = (used_bytes - before[1]) / passed_s
        faded = self._fastest_bytes_s * 0.5 ** (passed_s / FILL_HALF_LIFE_S)
        self._fastest_bytes_s = max(FILL_LEAST_BYTES_S, faded, self._fill_bytes_s)

    def _learn(self, charge: _Charge, now_s: float) -> None:
        """Bring what is known of a task's jobs up to date; those that have ended teach what a job takes."""
        seen = {ProcessId(job.pid, job.start_ticks): job for job in charge.usage.compilers}
        for target in charge.known.keys() - seen.keys():
            ended = charge.known.pop(target)
            if not ended.was_killed and ended.peak_bytes > 0:
                # It has ended somewhere between the last look and this one.
                wall_s = max(ended.age_s + (now_s - ended.at_s) / 2, 0.1)
                life = ended.life(wall_s)
                charge.sizes.add(life, ended.program)
                charge.lives.add(ended.unit, life)
        for target, compiler in seen.items():
            known = charge.known.get(target)
            if known is None:
                # What a program maps as it starts is no pace at which it goes on.
                known = charge.known[target] = _Known(compiler.name, 0, now_s - max(compiler.age_s, LOOK_LEAST_S))
            passed_s = now_s - known.at_s
            if target in self._signals.stopped:
                known.stopped_s += passed_s
            elif passed_s > 0:
                known.growth_bytes_s = (compiler.bytes - known.bytes) / passed_s
            known.bytes, known.at_s, known.unit = compiler.bytes, now_s, compiler.unit
            known.age_s = max(0.0, compiler.age_s - known.stopped_s)
            known.peak_bytes = max(known.peak_bytes, compiler.bytes)
            if compiler.bytes * RISEN_SHARE > known.steps[-1][1]:
                known.steps.append((known.age_s, compiler.bytes))

    def _running(self, tid: str, charge: _Charge) -> Running:
        """A task as regulate() sees it."""
        ward, usage, pool = charge.ward, charge.usage, charge.pool
        held = pool.held if pool is not None else None
        if pool is not None and held is not None:
            self._look_for_lost(charge, pool, held)
            held = pool.held
        growth = 0
        if pool is None and ward.granted_bytes:
            growth = max(0, ward.granted_bytes - usage.current_bytes)
        jobs = tuple(self._job(charge, compiler) for compiler in usage.compilers)
        return Running(
            tid=tid,
            place=ward.place,
            most_jobs=ward.most_jobs,
            jobs=jobs,
            next_job=charge.sizes.expect_new([job.expected for job in jobs]),
            held_tokens=held,
            idle_tokens=pool.idle if pool is not None else 0,
            growth_bytes=growth,
            current_bytes=usage.current_bytes,
            is_stopped=bool(set(charge.stopped) & self._signals.stopped),
            may_stop=ward.may_stop,
            may_kill=ward.may_kill,
        )

    def _job(self, charge: _Charge, compiler: Compiler) -> Job:
        target = ProcessId(compiler.pid, compiler.start_ticks)
        known = charge.known[target]
        return Job(
            pid=compiler.pid,
            start_ticks=compiler.start_ticks,
            program=compiler.name,
            bytes=compiler.bytes,
            age_s=known.age_s,
            growth_bytes_s=known.growth_bytes_s,
            expected=charge.sizes.expect(
                compiler.bytes, known.age_s, compiler.name, known.still_s, charge.lives.of(compiler.unit)
            ),
            is_stopped=target in self._signals.stopped,
        )

    def _look_for_lost(self, charge: _Charge, pool: Pool, held: int) -> None:
        """Give anew the tokens of clients that were killed."""
        if any(compiler.name in _THREADED for compiler in charge.usage.compilers):
            charge.looks.clear()
            return
        charge.looks.append((held, charge.usage.workers))
        lost = certainly_lost(charge.looks, LOST_LOOKS)
        if lost:
            pool.reissue(lost)
            charge.looks.clear()

    # -- acting -----------------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action, now_s: float) -> Acted | None:
        """Do one thing; None where there was nothing to do, or it could not be done."""
        charge = self._charges[action.tid]
        if action.act is Act.TOKENS:
            return self._set_tokens(charge, action)
        if not self._acts:
            return Acted(action)
        if action.act is Act.KILL:
            return self._kill(charge, action, now_s)
        if action.act is Act.WAKE:
            self._woke_s = now_s
            targets = [_target(action.job)] if action.job else list(charge.stopped)
            charge.stopped = () if action.job is None else charge.stopped
            return Acted(action) if any([self._signals.wake(target) for target in targets]) else None
        if action.job is not None:
            is_done = self._signals.stop(_target(action.job))
        else:
            charge.stopped = tuple(ProcessId(*member) for member in self._members(charge.ward.leader))
            # The youngest first, so that none is left that could start others.
            is_done = any([self._signals.stop(target) for target in sorted(charge.stopped, reverse=True)])
        charge.stops += is_done
        return Acted(action) if is_done else None

    def _set_tokens(self, charge: _Charge, action: Action) -> Acted | None:
        if charge.pool is None:
            return None
        tokens = action.tokens if self._acts else charge.ward.most_jobs - 1
        before = charge.pool.target
        charge.pool.set_tokens(tokens)
        return Acted(replace(action, tokens=tokens), before) if tokens != before else None

    def _kill(self, charge: _Charge, action: Action, now_s: float) -> Acted | None:
        if action.job is None:
            return None
        target = _target(action.job)
        self._before_kill(action.tid, action.job)
        if not self._signals.kill(target):
            return None
        self._killed_s = now_s
        charge.kills += 1
        if target in charge.known:
            charge.known[target].was_killed = True
        return Acted(action)


def _may_take_bytes(task: Running) -> int:
    """What a task may take soon: the rest of its jobs, and those that begin with the tokens that lie idle."""
    jobs = sum(job.need_bytes if job.expected.ended else GUESS_FACTOR * job.need_bytes for job in task.jobs)
    begin = task.idle_tokens + (task.held_tokens is not None and not task.jobs)
    return jobs + begin * task.next_job.peak_bytes


def _target(job: Job) -> ProcessId:
    return ProcessId(job.pid, job.start_ticks)
