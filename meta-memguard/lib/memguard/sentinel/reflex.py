# SPDX-License-Identifier: MIT
"""The reflex: takes in what running tasks take and does at once what regulate() says, to pools and processes.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: tokens, signals, lost tokens, and when to look again.
Does not cover: reading processes (process_table) and the container (sense), what is learned of jobs (job_memory),
deciding (regulate), what people are shown of it (sentinel, run).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Callable

from memguard.act.signals import BEAT_S, Signals
from memguard.act.token_pool import Pool, certainly_lost
from memguard.decide.forecast import Forecast
from memguard.decide.moment import Act, Action, Caution, Job, Moment, Running
from memguard.decide.regulate import regulate
from memguard.model import Reading
from memguard.predict.remembered_lives import Lives
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Usage
from memguard.sentinel.job_memory import JobMemory
from memguard.sentinel.others import NOBODY, Others, Rise, Trust, place_of
from memguard.sentinel.pace import CRAWL_CPUS, LOOK_LEAST_S, LOOK_MOST_S, LOOK_NEAR_S, Fill, Lateness, Standstill
from memguard.sentinel.ward import Acted, Ward, WardUse

# A job like none that has ended may take this many times what is guessed.
# evidence: chosen; half and double make no difference in the replay
GUESS_FACTOR = 8
# Looks over which lost tokens are counted.
# evidence: chosen; a token is on its way for less than one look
LOST_LOOKS = 4
# Programs that run their jobs as threads, each with a token of its own.
_THREADED = frozenset({"rustc", "cargo"})


@dataclass
class _Charge:
    """A ward with what is remembered of it from look to look. stopped: its processes when it was stopped as a whole."""

    ward: Ward
    jobs: JobMemory
    pool: Pool | None
    usage: Usage = field(default_factory=Usage)
    looks: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=LOST_LOOKS))
    stopped: tuple[ProcessId, ...] = ()
    stopped_s: float = 0.0
    lost_s: float = 0.0
    is_woken_for_good: bool = False
    kills: int = 0

    def settle(self, now_s: float) -> None:
        """The task has ended, and with it the jobs that ran at the last look: they teach what they took."""
        self.usage = Usage()
        self.jobs.learn((), now_s, ())

    def note_stopped(self, passed_s: float, stopped: set[ProcessId]) -> None:
        """These of its processes were stopped for so long; what other jobs of it did meanwhile is not lost."""
        if stopped:
            is_whole = not stopped.isdisjoint(self.stopped)
            self.stopped_s += passed_s
            self.lost_s += passed_s * (1.0 if is_whole else len(stopped) / len(self.jobs.living))

    def look_for_lost(self) -> None:
        """Give anew the tokens of clients that were killed."""
        if self.pool is None:
            return
        if any(compiler.name in _THREADED for compiler in self.usage.compilers):
            self.looks.clear()
            return
        self.looks.append((self.pool.held, self.usage.workers))
        lost = certainly_lost(self.looks, LOST_LOOKS)
        if lost:
            self.pool.reissue(lost)
            self.looks.clear()

    def set_tokens(self, action: Action, acts: bool) -> Acted | None:
        """Give its pool so many tokens, or all of them where nobody acts; what that changed."""
        if self.pool is None:
            return None
        tokens = action.tokens if acts else self.ward.most_jobs - 1
        before = self.pool.target
        self.pool.set_tokens(tokens)
        return Acted(replace(action, tokens=tokens), before) if tokens != before else None

    def stop(self, members: Callable[[ProcessId], Iterable[ProcessId]], signals: Signals) -> bool:
        """Stop all its processes; where that was done before, those that have begun since."""
        # The youngest first, so that none is left that could start others.
        found = sorted((ProcessId(*member) for member in members(self.ward.leader)), reverse=True)
        new = [target for target in found if target not in signals.stopped and signals.stop(target)]
        self.stopped = (*self.stopped, *new)
        return bool(new)

    def wake(self, action: Action, signals: Signals) -> bool:
        """Wake a job of it, or all its processes."""
        if action.job is not None:
            target = _target(action.job)
            if action.is_final:
                self.jobs.note_final_wake(target)
            return signals.wake(target)
        targets, self.stopped = self.stopped, ()
        self.is_woken_for_good = self.is_woken_for_good or action.is_final
        return any([signals.wake(target) for target in targets])

    def use(self, stopped: int) -> WardUse:
        """What is known of the task, of which so many processes are stopped."""
        return WardUse(
            tokens=self.pool.target if self.pool is not None else None,
            job_bytes=self.jobs.expect_new().peak_bytes,
            stopped=stopped,
            stopped_s=self.stopped_s,
            lost_s=self.lost_s,
            kills=self.kills,
            heaviest=self.jobs.heaviest,
        )

    def running(self, tid: str, stopped: set[ProcessId], is_alone: bool) -> Running:
        """The task as regulate() sees it. is_alone: no other build shares the limit, so that its place is its own."""
        ward, usage, pool = self.ward, self.usage, self.pool
        jobs = tuple(self.jobs.job(compiler, stopped) for compiler in usage.compilers)
        return Running(
            tid=tid,
            place=ward.place if is_alone else place_of(ward.leader),
            most_jobs=ward.most_jobs,
            jobs=jobs,
            next_job=self.jobs.expect_new([job.expected for job in jobs]),
            held_tokens=pool.held if pool is not None else None,
            idle_tokens=pool.idle if pool is not None else 0,
            current_bytes=usage.current_bytes,
            swapped_bytes=usage.swapped_bytes,
            is_stopped=not stopped.isdisjoint(self.stopped),
            may_stop=ward.may_stop and not self.is_woken_for_good,
            may_kill=ward.may_kill,
        )


class Reflex:
    """Acts on running tasks. `members` gives the processes of a task (ProcessTable.members).

    Where `acts` is False it only says what it would do, and gives every pool all its tokens. Whoever simulates tasks
    has `signals` and pools of its own. `moment` is what it judged last, `used_bytes` what was used then, `rise_bytes`
    what all tasks are expected to take together beyond that, `caution` how carefully it judges by itself.
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
        self.rise_bytes = 0
        self.caution = Caution()
        self._members = members
        self._acts = acts
        self._before_kill = before_kill
        self._charges: dict[str, _Charge] = {}
        self._signals = Signals() if signals is None else signals
        self._open_pool = open_pool
        self._fill, self._lateness = Fill(), Lateness()
        self._standstill, self._crawl = Standstill(), Standstill(CRAWL_CPUS)
        # Jobs are stopped, or more begin or fewer than may be: what comes of it is seen soon.
        self._is_changing = False
        self._looked_s = self._counted_s = self._woke_s = self._killed_s = float("-inf")
        self._trust, self._their_kills = Trust(), Rise()

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
        jobs = JobMemory(ward.job_bytes, Lives() if lives is None else lives, ward.largest_bytes)
        self._charges[tid] = _Charge(ward, jobs, pool)
        return pool is not None or not ward.pool

    def change(self, tid: str, most_jobs: int) -> None:
        """A task may run another number of jobs."""
        charge = self._charges.get(tid)
        if charge is not None:
            charge.ward = replace(charge.ward, most_jobs=most_jobs)

    def end(self, tid: str, now_s: float | None = None) -> None:
        """Let go of a task: what is stopped of it is woken, its pool is removed.

        now_s: when it has ended, so that the jobs that ran until then teach what they took; None where that is unknown.
        """
        charge = self._charges.pop(tid, None)
        if charge is None:
            return
        for target in self._stopped_of(charge):
            self._signals.wake(target)
        if charge.pool is not None:
            charge.pool.close()
        if now_s is not None:
            charge.settle(now_s)

    def adopt(self, tid: str, tokens: int) -> None:
        """The pool of a task has `tokens` already, from a sentinel before this one."""
        charge = self._charges.get(tid)
        if charge is not None and charge.pool is not None:
            charge.pool.adopt(tokens)

    def renew(self, tid: str) -> None:
        """A task begins anew after a kill: no process of it holds a token."""
        charge = self._charges.get(tid)
        if charge is not None and charge.pool is not None:
            charge.pool.set_tokens(0)
            charge.pool.reissue(charge.pool.held)
            charge.looks.clear()

    def close(self, now_s: float | None = None) -> None:
        """Let go of everything; nothing stays stopped. now_s: as of end()."""
        for tid in list(self._charges):
            self.end(tid, now_s)
        self._signals.close()

    def let_go(self) -> None:
        """Guard no longer, after a fault: all go on, and may run as many jobs as they were granted. close() follows."""
        self._signals.close()
        for charge in self._charges.values():
            if charge.pool is not None:
                charge.pool.set_tokens(charge.ward.most_jobs - 1)

    def rest(self) -> None:
        """No look comes for a while, since this process is to be stopped; what is stopped stays so."""
        self._signals.rest()

    def stop_again(self) -> None:
        """Stop what is stopped once more: somebody let all processes go on, perhaps a shell's job control."""
        self._signals.stop_again()

    # -- what is known of tasks -------------------------------------------------------------------------------------

    def uses(self) -> dict[str, WardUse]:
        """What is known of each task."""
        return {tid: self.use_of(tid) for tid in self._charges}

    def use_of(self, tid: str) -> WardUse:
        """What is known of one task; nothing of one that is not there."""
        charge = self._charges.get(tid)
        return WardUse() if charge is None else charge.use(len(self._stopped_of(charge)))

    def _stopped_of(self, charge: _Charge) -> set[ProcessId]:
        return {*charge.stopped, *charge.jobs.living} & self._signals.stopped

    # -- one look ---------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What was used at the last look, corrected by what processes say sooner than the kernel's sums."""
        return self._fill.used_bytes

    @property
    def next_look_s(self) -> float:
        """Seconds until memory should be looked at again."""
        if self.moment is None:
            return LOOK_LEAST_S
        if self._acts and self.moment.is_near:
            return LOOK_NEAR_S
        headroom = self.moment.left_bytes - self.moment.stop_bytes
        if self._is_changing or headroom < sum(_may_take_bytes(task) for task in self.moment.tasks):
            return LOOK_LEAST_S
        return min(LOOK_MOST_S, max(LOOK_LEAST_S, headroom / self._fill.fastest_bytes_s))

    def look(
        self,
        now_s: float,
        reading: Reading,
        reserve_bytes: int,
        usages: Mapping[str, Usage],
        is_pressed: bool = False,
        others: Others = NOBODY,
    ) -> list[Acted]:
        """Take in what tasks use now and act; what was done, changes of tokens included.

        others: the builds beside this one, which act on their tasks themselves.
        """
        used = {**usages, **others.usages}
        if self._their_kills.take(others.kills):
            self._killed_s = now_s  # what it held must be seen to come free first
        self._fill.take(now_s, reading, sum(usage.current_bytes for usage in used.values()))
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        living: set[ProcessId] = set()
        for tid, charge in self._charges.items():
            charge.note_stopped(passed_s, self._stopped_of(charge))
            charge.usage = usages.get(tid, Usage())
            charge.jobs.learn(charge.usage.compilers, now_s, self._signals.stopped)
            for target in charge.jobs.take_escaped():
                self._signals.wake(target)  # it goes on, whatever we think
            if charge.stopped:
                charge.stop(self._members, self._signals)
            living.update(charge.jobs.living, charge.stopped)
        self._signals.keep_only(living)
        if now_s - self._counted_s >= LOOK_LEAST_S / 2:  # sooner, a token may be on its way to a job still
            self._counted_s = now_s
            for charge in self._charges.values():
                charge.look_for_lost()
        self.caution = Caution(reserve_bytes, self._lateness.take(now_s), is_pressed)
        caution = self.caution.joined(others.caution_within(reading.bound_bytes))
        stopped, is_alone = self._signals.stopped, not others.builds
        ours = [charge.running(tid, stopped, is_alone) for tid, charge in self._charges.items()]
        left_bytes = reading.left_bytes - (self._fill.used_bytes - reading.used_bytes)
        self.moment = Moment(
            left_bytes=left_bytes,
            reserve_bytes=caution.reserve_bytes,
            fill_bytes_s=self._fill.bytes_s,
            slots=self.slots,
            tasks=(*ours, *self._trust.tasks(now_s, others)),
            is_pressed=caution.is_pressed,
            late_s=caution.late_s,
            since_wake_s=now_s - self._woke_s,
            since_kill_s=now_s - self._killed_s,
            stalled_s=self._standstill.take(now_s, used, reading.cpus) if self._signals.stopped else 0.0,
            crawl_s=self._crawl.take(now_s, used, reading.cpus) if left_bytes < caution.reserve_bytes else 0.0,
            swap_left_bytes=reading.swap_left_bytes,
        )
        forecast = Forecast(self.moment)
        self.rise_bytes = forecast.rise_bytes
        actions = self._trust.leave_theirs(now_s, regulate(self.moment, forecast), self._charges)
        done = [acted for action in actions if (acted := self._carry_out(action, now_s))]
        # A look or two that see nothing are no standstill yet.
        if done or self.moment.stalled_s < BEAT_S:
            self._signals.beat()
        if any(acted.action.act is not Act.TOKENS for acted in done):
            self._standstill.begin()
        self._is_changing = bool(self._signals.stopped or done)
        self._lateness.expect(now_s + self.next_look_s)
        return done

    # -- acting -----------------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action, now_s: float) -> Acted | None:
        """Do one thing; None where there was nothing to do, or it could not be done."""
        charge = self._charges[action.tid]
        if action.act is Act.TOKENS:
            return charge.set_tokens(action, self._acts)
        if not self._acts:
            return Acted(action)
        if action.act is Act.KILL:
            return self._kill(charge, action, now_s)
        if action.act is Act.WAKE:
            self._woke_s = now_s
            return Acted(action) if charge.wake(action, self._signals) else None
        if action.job is not None:
            is_done = self._signals.stop(_target(action.job))
        else:
            is_done = charge.stop(self._members, self._signals)
        return Acted(action) if is_done else None

    def _kill(self, charge: _Charge, action: Action, now_s: float) -> Acted | None:
        if action.job is None:
            return None
        target = _target(action.job)
        self._before_kill(action.tid, action.job)
        if not self._signals.kill(target):
            return None
        self._killed_s = now_s
        charge.kills += 1
        charge.jobs.note_kill(target)
        return Acted(action)


def _may_take_bytes(task: Running) -> int:
    """What a task may take soon: the rest of its jobs, and those that begin with the tokens that lie idle."""
    jobs = sum(job.need_bytes if job.expected.ended else GUESS_FACTOR * job.need_bytes for job in task.jobs)
    begin = task.idle_tokens + (task.held_tokens is not None and not task.jobs)
    return jobs + begin * task.next_job.peak_bytes


def _target(job: Job) -> ProcessId:
    return ProcessId(job.pid, job.start_ticks)
