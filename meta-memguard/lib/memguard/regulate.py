# SPDX-License-Identifier: MIT
"""What to do to running tasks as memory changes: give and withdraw tokens, stop, wake and kill single jobs.

Runs in: the sentinel, `memguard run` and every simulation; pure, no clock, no file.
Covers: who gets how many tokens; which job or task is stopped, woken or killed, and when.
Does not cover: which task starts (decide); what jobs will take (jobsizes); signals and token pools (reflex).

In order of severity, by what is left until the limit:

- Tokens are given while the forecast fits: what all running jobs, those that follow them and the ones to be added are
  expected to take at several moments ahead, within what is left less the reserve. Where it does not fit, tokens are
  withdrawn, from the newest task first. The oldest task gets its tokens first; each task keeps its one implicit job.
- Below the stop mark, or where the oldest job could not finish with what is left, the youngest jobs of the newest tasks
  are stopped, then whole tasks. The oldest job of the oldest task is never stopped: with all others stopped it finishes
  and frees what it held, so the next one can (the banker's algorithm, with the oldest first).
- Below the kill mark, with nothing left to stop, the youngest job of the newest task is killed.
- One at a time, oldest first, what was stopped is woken once what it held fits beside what is used.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from memguard.jobsizes import Expected
from memguard.units import MIB

# The marks, as shares of the reserve that is kept free by plan.
STOP_SHARE = 0.5
KILL_SHARE = 0.25
# A pressed container (PSI) is stopped this much earlier: pressure only confirms what use says.
PRESSED_FACTOR = 1.5
# From one wake, or kill, to the next: memory must be seen to move.
WAKE_PAUSE_S = 1.0
KILL_PAUSE_S = 0.5
# What is left is judged as it will be after this much more time at the present rate: a look and its effect.
REACTION_S = 0.25
# The forecast's moments, as shares of the longest time a job still has to run, and how far it looks at most.
MOMENTS = (0.1, 0.25, 0.5, 0.75, 1.0)
FORECAST_MOST_S = 60.0
# How many standard deviations of the peaks that are still unknown are kept free.
SPREADS = 0.5
# A job that is expected to grow by less than this is as large as it gets.
GROWN_BYTES = 4 * MIB


class Act(str, enum.Enum):
    """What may be done to a running task, or to one job of it."""

    TOKENS = "tokens"
    STOP = "stop"
    WAKE = "wake"
    KILL = "kill"


@dataclass(frozen=True)
class Job:
    """One job of a task: a compiler or linker process.

    age_s:         how long it has run, without the time it was stopped.
    growth_bytes_s: how fast it grew when it was last looked at.
    expected:      the life it is expected to have.
    """

    pid: int
    start_ticks: int
    program: str
    bytes: int
    age_s: float
    growth_bytes_s: float
    expected: Expected
    is_stopped: bool = False

    @property
    def need_bytes(self) -> int:
        """What it is expected to take beyond what it holds."""
        return max(0, self.expected.peak_bytes - self.bytes)

    @property
    def left_s(self) -> float:
        """How long it is expected to run on."""
        return max(0.1, self.expected.wall_s - self.age_s)

    def growth_at(self, ahead_s: float) -> float:
        """Bytes it is expected to hold beyond those of now, so many seconds ahead (before its end)."""
        rise_left_s = self.expected.rise_s - self.age_s
        if rise_left_s <= 0:
            # It should have risen by now; that it has not says the same for the next moment.
            rise_left_s = max(0.25, self.left_s / 2)
        return self.need_bytes * min(1.0, ahead_s / rise_left_s)


@dataclass(frozen=True)
class Running:
    """One task that runs.

    place:        counts up over the build; the oldest task has the smallest.
    most_jobs:    what it may run at once by its grant, its implicit job included.
    jobs:         its jobs, the youngest first.
    next_job:     what one more job of it is expected to take.
    held_tokens:  tokens that its jobs hold, None where it has no pool.
    idle_tokens:  tokens that lie in its pool.
    growth_bytes: what it is expected to take beyond what it takes now, its jobs included; 0 where that follows from
                  its jobs alone (with a pool).
    is_stopped:   the whole task is stopped.
    may_stop, may_kill: whether its processes may be.
    """

    tid: str
    place: int
    most_jobs: int
    jobs: tuple[Job, ...]
    next_job: Expected
    held_tokens: int | None = None
    idle_tokens: int = 0
    growth_bytes: int = 0
    current_bytes: int = 0
    is_stopped: bool = False
    may_stop: bool = True
    may_kill: bool = True


@dataclass(frozen=True)
class Moment:
    """All that regulation depends on.

    left_bytes:    what is left until something is killed by the kernel.
    reserve_bytes: what is kept free by plan.
    fill_bytes_s:  how fast memory in use grows now; negative where it falls.
    slots:         jobs of all tasks together, implicit ones included.
    is_pressed:    the container's own pressure has just passed its threshold.
    since_wake_s, since_kill_s: the time since the last one, also of another task.
    tasks:         those that run, in any order.
    """

    left_bytes: int
    reserve_bytes: int
    fill_bytes_s: float
    slots: int
    tasks: tuple[Running, ...]
    is_pressed: bool = False
    since_wake_s: float = 1e9
    since_kill_s: float = 1e9

    @property
    def stop_bytes(self) -> int:
        """Where less than this is left, jobs are stopped."""
        share = STOP_SHARE * (PRESSED_FACTOR if self.is_pressed else 1.0)
        return int(self.reserve_bytes * share)

    @property
    def kill_bytes(self) -> int:
        """Where less than this is left, and nothing can be stopped, a job is killed."""
        return int(self.reserve_bytes * KILL_SHARE)


@dataclass(frozen=True)
class Action:
    """One thing to do; a `job` of None is the whole task, `tokens` what its pool shall have, held ones included."""

    act: Act
    tid: str
    reason: str
    job: Job | None = None
    tokens: int = 0


def regulate(moment: Moment) -> list[Action]:
    """What to do now, in this order. Each stop, wake and kill is a change; tokens are told for every pool."""
    oldest_first = sorted(moment.tasks, key=lambda task: task.place)
    stops = _stops(moment, oldest_first)
    kills = _kills(moment, oldest_first) if not stops else []
    wakes = _wakes(moment, oldest_first) if not stops and not kills else []
    return [*stops, *kills, *wakes, *_tokens(moment, oldest_first)]


# -- tokens ------------------------------------------------------------------------------------------------------------


class _Forecast:
    """The increase over what is used now, at several moments ahead, of all jobs and of those that follow them."""

    def __init__(self, tasks: Sequence[Running]) -> None:
        self._tasks = tasks
        ahead = [job.left_s for task in tasks for job in task.jobs if not job.is_stopped]
        ahead += [task.next_job.rise_s for task in tasks]
        most_s = min(max(ahead, default=1.0), FORECAST_MOST_S)
        self.moments = [share * most_s for share in MOMENTS]
        self.increase = [0.0] * len(self.moments)
        self._variance = 0.0
        # Of each task the jobs that will end first, whose tokens can still be withdrawn.
        self._following: dict[str, list[Job]] = {}
        for task in tasks:
            self._add_task(task)

    def _add_task(self, task: Running) -> None:
        ending = sorted((job for job in task.jobs if not job.is_stopped), key=lambda job: -job.left_s)
        # The implicit job is followed by another whatever happens; it is taken to be the one that ends last.
        self._following[task.tid] = ending[1:] if task.held_tokens is not None else []
        for place, ahead_s in enumerate(self.moments):
            self.increase[place] += task.growth_bytes
            if task.growth_bytes:
                continue  # its jobs' growth is in there
            if task.held_tokens is not None and not task.jobs:
                # Its implicit job may begin any time.
                self.increase[place] += _risen(task.next_job, ahead_s)
            for job in task.jobs:
                if job.is_stopped:
                    # It is woken once as much as it held, or as it still needs, fits.
                    self.increase[place] += max(job.bytes, job.need_bytes)
                elif ahead_s < job.left_s:
                    self.increase[place] += job.growth_at(ahead_s)
                else:
                    self.increase[place] += _risen(task.next_job, ahead_s - job.left_s) - job.bytes
        for job in ending:
            self._variance += job.expected.spread_bytes**2 if job.need_bytes > GROWN_BYTES else 0

    @property
    def most_bytes(self) -> float:
        """The largest increase, with a margin for what is not known of the jobs."""
        return max(self.increase) + SPREADS * sqrt(self._variance)

    def add(self, task: Running) -> None:
        """One more job of `task`, from now on."""
        for place, ahead_s in enumerate(self.moments):
            self.increase[place] += _risen(task.next_job, ahead_s)
        self._variance += task.next_job.spread_bytes**2

    def drop(self, task: Running) -> None:
        """Take the last one back."""
        for place, ahead_s in enumerate(self.moments):
            self.increase[place] -= _risen(task.next_job, ahead_s)
        self._variance -= task.next_job.spread_bytes**2

    def withdraw(self, task: Running) -> None:
        """Let nothing follow the job of `task` that ends first."""
        following = self._following[task.tid]
        if following:
            job = following.pop()
            for place, ahead_s in enumerate(self.moments):
                if ahead_s >= job.left_s:
                    self.increase[place] -= _risen(task.next_job, ahead_s - job.left_s)


def _risen(life: Expected, age_s: float) -> float:
    """What a job holds at an age."""
    return life.peak_bytes * min(1.0, age_s / life.rise_s)


def _tokens(moment: Moment, oldest_first: Sequence[Running]) -> list[Action]:
    """What each pool shall have: what is held, less what must be withdrawn, or more where it fits."""
    pools = [task for task in oldest_first if task.held_tokens is not None]
    if not pools:
        return []
    room = moment.left_bytes - moment.reserve_bytes
    forecast = _Forecast(oldest_first)
    tokens = {task.tid: min(task.held_tokens or 0, task.most_jobs - 1) for task in pools}
    slots = moment.slots - sum(1 + tokens[task.tid] if task.tid in tokens else len(task.jobs) for task in oldest_first)
    is_short = _withdraw(forecast, pools, tokens, room, slots)
    is_calm = not is_short and not any(task.is_stopped or _stopped(task) for task in oldest_first)
    if is_calm and not moment.is_pressed:
        _give(forecast, pools, tokens, room, slots)
    return [Action(Act.TOKENS, task.tid, "short" if is_short else "fits", tokens=tokens[task.tid]) for task in pools]


def _withdraw(forecast: _Forecast, pools: Sequence[Running], tokens: dict[str, int], room: float, slots: int) -> bool:
    """Take held tokens back until the rest fits, the newest task's first; whether memory made that necessary."""
    is_short = False
    for task in reversed(pools):
        while tokens[task.tid] > 0 and (slots < 0 or forecast.most_bytes > room):
            is_short = is_short or forecast.most_bytes > room
            forecast.withdraw(task)
            tokens[task.tid] -= 1
            slots += 1
    return is_short or forecast.most_bytes > room


def _give(forecast: _Forecast, pools: Sequence[Running], tokens: dict[str, int], room: float, slots: int) -> None:
    """Give more, the oldest task's first: to those that have used up theirs as many again, to others what lay idle.

    As many again: what a task does with tokens is seen at the next look, and memory only seconds later.
    """
    for is_second in (False, True):
        for task in pools:
            has_used_up = not task.idle_tokens
            if has_used_up is is_second:
                continue
            more = 1 + (task.held_tokens or 0) if has_used_up else task.idle_tokens
            for _ in range(min(more, task.most_jobs - 1 - tokens[task.tid], slots)):
                forecast.add(task)
                if forecast.most_bytes > room:
                    forecast.drop(task)
                    break
                tokens[task.tid] += 1
                slots -= 1


# -- stop, wake, kill --------------------------------------------------------------------------------------------------


def _stopped(task: Running) -> list[Job]:
    return [job for job in task.jobs if job.is_stopped]


def _oldest(oldest_first: Sequence[Running]) -> tuple[Running, Job] | None:
    """The oldest job that is not stopped, of the oldest task that has one: the one that always goes on."""
    for task in oldest_first:
        going = [job for job in task.jobs if not job.is_stopped]
        if going and not task.is_stopped:
            return task, max(going, key=lambda job: job.age_s)
    return None


def _stops(moment: Moment, oldest_first: Sequence[Running]) -> list[Action]:
    """Jobs to stop, the youngest of the newest task first, until what still grows leaves the oldest one its room."""
    oldest = _oldest(oldest_first)
    floor = moment.stop_bytes + (oldest[1].need_bytes if oldest else 0)
    growing = max(0.0, moment.fill_bytes_s)
    found: list[Action] = []
    for task in reversed(oldest_first):
        if not task.may_stop or task.is_stopped:
            continue
        for job in task.jobs:
            if moment.left_bytes - growing * REACTION_S >= floor:
                return found
            if job.is_stopped or (oldest and job is oldest[1]):
                continue
            if job.need_bytes < GROWN_BYTES and job.growth_bytes_s <= 0:
                continue
            found.append(Action(Act.STOP, task.tid, "memory is short", job))
            growing = max(0.0, growing - job.growth_bytes_s)
    if found or moment.left_bytes - growing * REACTION_S >= moment.stop_bytes:
        return found
    # No job is left to be stopped: whole tasks, but never the oldest.
    for task in reversed(oldest_first[1:]):
        if task.may_stop and not task.is_stopped and not task.jobs and task.current_bytes > GROWN_BYTES:
            return [Action(Act.STOP, task.tid, "memory is short, and no job is left to be stopped")]
    return []


def _kills(moment: Moment, oldest_first: Sequence[Running]) -> list[Action]:
    """The job to kill, where next to nothing is left and nothing can be stopped any more."""
    growing = max(0.0, moment.fill_bytes_s)
    if moment.left_bytes - growing * REACTION_S >= moment.kill_bytes or moment.since_kill_s < KILL_PAUSE_S:
        return []
    oldest = _oldest(oldest_first)
    spared = oldest[1] if oldest else None
    for is_last in (False, True):
        for task in reversed(oldest_first):
            jobs = [job for job in task.jobs if is_last or job is not spared]
            if task.may_kill and jobs:
                return [Action(Act.KILL, task.tid, "the limit is near, and nothing can be stopped", jobs[0])]
    return []


def _wakes(moment: Moment, oldest_first: Sequence[Running]) -> list[Action]:
    """The one job or task to wake: the oldest, if what it held fits beside what is used; any if nothing else runs."""
    oldest = _oldest(oldest_first)
    is_stuck = oldest is None and not any(
        not task.is_stopped and not task.jobs and task.current_bytes for task in oldest_first
    )
    if moment.since_wake_s < WAKE_PAUSE_S or (moment.is_pressed and not is_stuck):
        return []
    room = moment.left_bytes - moment.stop_bytes - (oldest[1].need_bytes if oldest else 0)
    for task in oldest_first:
        if task.is_stopped:
            if is_stuck or room >= task.current_bytes:
                return [Action(Act.WAKE, task.tid, "it fits again")]
            return []
        stopped = _stopped(task)
        if stopped:
            job = max(stopped, key=lambda job: job.age_s)
            if is_stuck or room >= max(job.bytes, job.need_bytes):
                return [Action(Act.WAKE, task.tid, "it fits again", job)]
            return []
    return []
