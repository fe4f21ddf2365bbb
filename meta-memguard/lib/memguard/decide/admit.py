# SPDX-License-Identifier: MIT
"""Which task may start now, and with how many jobs.

Runs in: the BitBake server and every simulation; pure, no clock, no file.
Covers: admission by what running tasks are expected to take from now on, and what may start beyond that.
Does not cover: what runs and what is held (ledger); what the memory is (sense) or will be (predict, decide/forecast).
See also: docs/feedback.md, which has the equations and a worked example.

Where a sentinel watches, a task that has started too soon costs little: its youngest compiler is stopped, with next to
nothing done, until there is room. A CPU that idles costs a CPU, a kill costs work. So:

- What is expected to fit beside all that runs starts, and a light task starts whatever is expected.
- Where a CPU idles, what fits beside what is used *now* starts, too: the peaks of tasks seldom meet, and where they do
  the newest waits.
- Tasks that need more than half of the memory run one after the other, or all are left to the end, where nothing is
  left to fill the gaps beside them: while none runs, memory is kept for the oldest. What fits beside it, what is light,
  and, with a CPU idle, what fits now, starts all the same.
- A task that has waited for very long has its memory kept whatever idles.
- One that needs more than the plan has, but no more than most of the reserve besides, starts in its turn all the same;
  beside it only light tasks start.

Where nobody watches, grants are added up, since nothing could be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

from memguard.decide.moment import KILL_SHARE, STOP_SHARE, slots_of
from memguard.decide.order import HALF
from memguard.model import Footprint, Grant, Policy, Reading, Task
from memguard.units import MIB, format_bytes

# A task that takes no more than this is light: to hold it gains nothing that could be measured.
# evidence: of the 223 tasks that run for nineteen recipes of OE-core, 205 to 210 took no more
LIGHT_BYTES = 64 * MIB
# With swap so many times as much is light: what it is in the way of can be parked.
# evidence: with 1 GiB and swap a configure step of 70 MiB waited for two minutes, and with it the longest compile
PARKED_FACTOR = 2
# A task of which only the kind is known is not tried where a CPU idles if its kind takes more than this.
# evidence: in first builds of real recipes C++ compiles that were tried came to stand still with 200 to 570 MiB, and
# held these for more than a minute, in which nothing else fitted
TRIED_BYTES = 192 * MIB
# The jobs of one task seldom have their peaks at once, and where they do one waits. Where no other task waits that
# could keep the CPUs busy, or none may be left by its end, since it takes this long with one job, as many start as
# would fit into this many times what there is; of a task of which only the kind is known twice as many, up to one a
# CPU, since the guess is made for the heaviest of its kind.
# evidence: on real recipes a compile holds 30 to 80 % of its peak on average over its run, the median is 57 %; with 1
# instead of it replayed second builds took 6 % longer in 1 GiB
OVERCOMMIT = 1.5
LONG_S = 60.0
GUESS_FACTOR = 2


@dataclass(frozen=True)
class Verdict:
    """The answer to "may this task start?", with the reason in words: a grant, or None to hold it.

    is_forced: it starts although it may not fit, since nothing else runs.
    """

    reason: str
    grant: Grant | None = None
    is_forced: bool = False

    @property
    def starts(self) -> bool:
        return self.grant is not None


@dataclass(frozen=True)
class Situation:
    """Everything an admission depends on besides the task itself.

    idle_bytes:    what the container uses when no task runs (server, workers), shmem left out.
    rise_bytes:    what running compilers, and those that follow them, are expected to take together beyond what is used
                   now, when that is most.
    pending_bytes: what running tasks will take besides: the needs of those that are too young to be seen or have run no
                   compiler yet, and what the user has said that they take.
    granted_bytes: the grants of all tasks that run, together.
    is_watched:    a sentinel says what tasks take, and can stop their jobs.
    stopped:       how many jobs are stopped since memory is short.
    emergency:     in words, why nothing may start now; "" for no reason.
    kept:          the held task for which memory is kept, or None.
    is_starved:    it has waited for very long.
    others_wait:   tasks are held, which could keep idle CPUs busy.
    filling:       the task that runs and needs all that there is, or more; None where none does.
    parked_bytes:  what stopped jobs have in memory that is as good as free, since it may go to swap.
    """

    reading: Reading
    policy: Policy
    idle_bytes: int
    rise_bytes: int = 0
    pending_bytes: int = 0
    granted_bytes: int = 0
    is_watched: bool = True
    stopped: int = 0
    emergency: str = ""
    kept: Task | None = None
    is_starved: bool = False
    others_wait: bool = False
    filling: Task | None = None
    parked_bytes: int = 0

    @cached_property
    def budget_bytes(self) -> int:
        """What tasks may use together: the ceiling less the reserve and what is used when none runs."""
        return self._usable_bytes - self._resting_bytes

    @property
    def parks(self) -> bool:
        """Whether what proves too much is stopped and goes to swap, which has room for half of what tasks may use.

        Not without a limit: then the whole machine would swap, and what its user works with goes first.
        """
        can = self.is_watched and self.policy.parks and self.reading.limit_bytes is not None
        return can and self.reading.swap_left_bytes >= max(1, HALF * self.budget_bytes)

    @cached_property
    def reach_bytes(self) -> int:
        """What one task may need: the budget, and what there is of swap."""
        return self.budget_bytes + (self.reading.swap_left_bytes if self.parks else 0)

    @property
    def basis(self) -> tuple[bool, bool, int]:
        """All that need_bytes() depends on, to within 16 MiB of the budget."""
        return self.is_watched, self.parks, self.budget_bytes >> 24

    @cached_property
    def room_bytes(self) -> int:
        """What is free now, whatever running compilers will take."""
        return self._usable_bytes - self.reading.used_bytes - self.pending_bytes + self.parked_bytes

    @cached_property
    def free_bytes(self) -> int:
        """What one more task may use beside all that runs; negative where that is expected to need more than is there.

        Watched: what is free less what running tasks will take. Else the budget less all grants, or less what is used
        where that is more.
        """
        if self.is_watched:
            # What is parked comes back, beside what it will still take.
            return self.room_bytes - self.rise_bytes - self.parked_bytes
        return self._usable_bytes - max(self._resting_bytes + self.granted_bytes, self.reading.used_bytes)

    @cached_property
    def spare_bytes(self) -> int:
        """What a task may use that is not the one for which memory is kept."""
        return self.free_bytes - (self.need_bytes(self.kept) if self.kept else 0)

    @cached_property
    def kept_bytes(self) -> int:
        """What the one for which memory is kept may use: up to the stop mark, as light ones beside it soon end."""
        if not self.is_watched:
            return self.free_bytes
        return self.free_bytes + int(self.policy.reserve_of(self.reading.bound_bytes) * (1 - STOP_SHARE))

    @cached_property
    def most_bytes(self) -> int:
        """No task that needs more than this is let through by admit()."""
        return max(self.kept_bytes if self.kept else self.free_bytes, min(self.light_bytes, self.room_bytes))

    @property
    def light_bytes(self) -> int:
        """What a task takes at most that starts whatever is expected: it has ended by then."""
        return LIGHT_BYTES * (PARKED_FACTOR if self.parks else 1)

    @property
    def _usable_bytes(self) -> int:
        return self.reading.ceiling_bytes - self.policy.reserve_of(self.reading.bound_bytes)

    @property
    def _resting_bytes(self) -> int:
        return self.idle_bytes + self.reading.shmem_bytes

    def size_of(self, task: Task) -> Footprint:
        """The footprint that counts: where somebody watches, what is likely; what is too much can be taken back."""
        return task.footprint.likely if self.is_watched else task.footprint

    def is_heavy(self, need_bytes: int) -> bool:
        """Whether no other task that needs as much can run beside one that needs this."""
        return HALF * self.budget_bytes < need_bytes <= self.budget_bytes

    def fits_empty(self, task: Task) -> bool:
        """Whether `task` fits when nothing else runs. One that does not runs when all else is done, and nothing is kept
        for it: nothing could run beside it at any time."""
        return self.need_bytes(task) <= self.budget_bytes

    def fills(self, task: Task) -> bool:
        """Whether `task` needs more than the plan has, wherever that is found."""
        return self.is_watched and not task.footprint.is_guess and self._whole_bytes(task) > self.reach_bytes

    def leaves_nothing_for(self, need_bytes: int) -> bool:
        """Whether a task that needs this waits for the one that needs all that there is: any that is no light one."""
        return self.filling is not None and need_bytes > LIGHT_BYTES

    def fewest_jobs(self, task: Task) -> int:
        """The fewest jobs `task` starts with: the policy's, or fewer where an empty container fits no more."""
        fewest = self.policy.fewest_jobs(task.wanted_jobs, self.reading.cpus)
        alone = self.size_of(task).jobs_within(self.budget_bytes, fewest)
        return max(1, min(fewest, alone))

    def need_bytes(self, task: Task) -> int:
        """What `task` takes at least, with the fewest jobs it starts with.

        One that is known from its own runs, and that an empty container fits if it may use most of the reserve, counts
        with what the plan has: it starts in its turn, beside light ones. With swap a task counts with half of that, but
        for what swap has no room for: where two that are heavy meet, jobs of one are parked.
        """
        whole_bytes, budget_bytes = self._whole_bytes(task), self.budget_bytes
        if self.parks and whole_bytes <= self.reach_bytes:
            return min(whole_bytes, max(int(HALF * budget_bytes), whole_bytes - self.reading.swap_left_bytes))
        if whole_bytes <= budget_bytes or not self.is_watched or not task.footprint.is_history:
            return whole_bytes
        reserve_bytes = self.policy.reserve_of(self.reading.bound_bytes)
        return budget_bytes if whole_bytes <= budget_bytes + reserve_bytes * (1 - KILL_SHARE) else whole_bytes

    def _whole_bytes(self, task: Task) -> int:
        return self.size_of(task).peak_bytes(self.fewest_jobs(task))

    def jobs_for(self, task: Task) -> int:
        """The jobs `task` starts with.

        All that it wants where these fit now, or where jobs make no difference to what it takes. Else, watched: all
        that an empty container fits, since those that do not fit now are held back one by one, but no more than keep
        the CPUs busy; some more where no other task waits, or this one is so long that it may be the last. Not watched,
        or of a task of which only the kind is known while others wait: those that fit now.
        """
        footprint, wanted = self.size_of(task), task.wanted_jobs
        if not footprint.per_job_bytes:
            return wanted
        fit = max(1, footprint.jobs_within(self.free_bytes, wanted))
        if fit == wanted or not self.is_watched:
            return fit
        is_filled = self.others_wait and not _is_long(task)
        wanted = min(wanted, ceil(self.reading.cpus) if is_filled else slots_of(wanted, self.reading.cpus))
        if is_filled:
            if footprint.is_guess and not self.parks:
                return min(fit, wanted)
            return max(1, footprint.jobs_within(self.reach_bytes, wanted))
        jobs = max(1, footprint.jobs_within(max(int(OVERCOMMIT * self.budget_bytes), self.reach_bytes), wanted))
        if not footprint.is_guess:
            return jobs
        tried = min(ceil(self.reading.cpus), footprint.jobs_within(GUESS_FACTOR * self.budget_bytes, wanted))
        return max(jobs, tried)


def _is_long(task: Task) -> bool:
    """Whether a task may be the last that runs, if it has one job."""
    return task.duration is not None and task.duration.seconds(1) >= LONG_S


def is_light(footprint: Footprint) -> bool:
    """Whether a task takes next to nothing."""
    return footprint.likely.peak_bytes(1) <= LIGHT_BYTES


def _amount(size_bytes: int) -> str:
    """What is left, in words."""
    return format_bytes(size_bytes) if size_bytes > 0 else "nothing"


def admit(task: Task, situation: Situation) -> Verdict:
    """May `task` start now, beside all that runs? Else it is held, with the reason in words."""
    if situation.emergency:
        return Verdict(situation.emergency)
    need_bytes = situation.need_bytes(task)
    if situation.leaves_nothing_for(need_bytes):
        return _held_by_filling(need_bytes, situation)
    is_kept = situation.kept is not None and situation.kept.tid == task.tid
    room = situation.kept_bytes if is_kept else situation.spare_bytes
    if need_bytes <= room:
        return _start(task, situation, "it fits")
    is_calm = not situation.stopped or situation.parked_bytes > 0
    if is_calm and need_bytes <= min(situation.light_bytes, situation.room_bytes):
        return _start(task, situation, "it is light")
    need = format_bytes(need_bytes)
    if need_bytes <= situation.free_bytes:
        return Verdict(f"needs {need}, which would delay {situation.kept}")
    return Verdict(f"needs {need}, {_amount(room)} will be free")


def room_for(task: Task, situation: Situation, has_such: bool = False) -> int:
    """How many tasks like `task` may start now, before anything is seen of them; none while jobs are stopped.

    has_such: some run already; one that is light may start beside a full plan, but not one beside the other.
    """
    if situation.stopped or not admit(task, situation).starts:
        return 0
    return max(0 if has_such else 1, situation.spare_bytes // max(1, situation.need_bytes(task)))


def admit_boldly(task: Task, situation: Situation) -> Verdict:
    """May `task`, which admit() holds, start since a CPU idles? Where it fits beside what is used now, it may.

    Not where only its kind is known, and that is no light one.
    """
    need_bytes = situation.need_bytes(task)
    if situation.leaves_nothing_for(need_bytes):
        return _held_by_filling(need_bytes, situation)
    if task.footprint.is_guess and need_bytes > TRIED_BYTES and not situation.parks:
        return Verdict(f"needs {format_bytes(need_bytes)}, going by its kind")
    if situation.emergency or need_bytes > situation.room_bytes:
        return Verdict(f"needs {format_bytes(need_bytes)}, {_amount(situation.room_bytes)} is free")
    if situation.is_starved and situation.kept is not None and situation.kept.tid != task.tid:
        return Verdict(f"would delay {situation.kept}")
    return _start(task, situation, "a CPU is idle, and it fits beside what is used now")


def admit_alone(task: Task, situation: Situation) -> Verdict:
    """Start `task` although it may not fit: nothing else runs, and a build that starts nothing has failed.

    The liveness law. It gets the jobs that fit, at least one, and all that stay below a serial peak that comes anyway.
    """
    room = max(situation.free_bytes, task.footprint.serial_bytes)
    jobs = max(1, task.footprint.jobs_within(room, task.wanted_jobs))
    reason = f"nothing else runs, so with {jobs} of {task.wanted_jobs} jobs"
    return Verdict(reason, _grant(task, jobs), is_forced=True)


def _held_by_filling(need_bytes: int, situation: Situation) -> Verdict:
    return Verdict(f"needs {format_bytes(need_bytes)} beside {situation.filling}, which needs all that there is")


def _start(task: Task, situation: Situation, reason: str) -> Verdict:
    jobs = situation.jobs_for(task)
    if jobs < task.wanted_jobs:
        is_enough = jobs >= ceil(situation.reading.cpus)
        why = "keep all CPUs busy" if is_enough else "fit into the container"
        reason = f"{jobs} of {task.wanted_jobs} jobs {why}"
    return Verdict(reason, _grant(task, jobs))


def _grant(task: Task, jobs: int) -> Grant:
    return Grant(jobs=jobs, bytes=task.footprint.peak_bytes(jobs))
