# SPDX-License-Identifier: MIT
"""What to do to running tasks as memory changes: give and withdraw tokens, stop, wake and kill single jobs.

Runs in: the sentinel, `memguard run` and every simulation; pure, no clock, no file.
Covers: who gets how many tokens; which job or task is stopped, woken or killed, and when.
Does not cover: which task starts (decide); what jobs will take (jobsizes); signals and token pools (reflex).

All of it rests on one forecast: what running jobs, those that follow them, and any that are added are expected to hold
beyond what is used now, at several moments until the longest job ends. In order of severity:

- Tokens are given while the forecast fits into what is left less the reserve. Where it does not, those are withdrawn
  whose next jobs would make it so, from the newest task first. The oldest task gets its tokens first; each task keeps
  its one implicit job. Tokens of all tasks together never exceed the slots.
- Where the running jobs alone would pass the stop mark, or grow so fast that they will before the next look, the
  youngest jobs of the newest tasks are stopped: they hold least, and have most still to take. Then whole tasks.
- Where the kill mark is passed and nothing can be stopped, one job is killed: the youngest that holds what is missing.
- What was stopped is woken, the oldest first and before new jobs begin, once what it will take fits again.

Something always goes on: the oldest job of the oldest task is never stopped, its room is kept, and it is woken first.
With all others stopped it finishes and frees what it held, so the next one can (the banker's algorithm).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from memguard.jobsizes import Expected, Life
from memguard.units import MIB

# The marks, as shares of the reserve that is kept free by plan.
STOP_SHARE = 0.5
KILL_SHARE = 0.25
# A pressed container (PSI) is stopped this much earlier: pressure only confirms what use says.
PRESSED_FACTOR = 1.5
# From one wake to the next of a single job, whose memory the forecast knows; no more than so many at one look.
WAKE_PAUSE_S = 0.02
WAKES_MOST = 8
# From one wake, or kill, to the next where nobody knows what comes of it: memory must be seen to move.
TASK_PAUSE_S = 1.0
KILL_PAUSE_S = 0.5
# What is left is judged as it will be after this much more time at the present rate: a look and its effect. For stops,
# what looks came late by of late is added; nothing is killed for that.
REACTION_S = 0.12
# A job that should have ended runs on for so long, for all that is known.
LEAST_LEFT_S = 0.02
# The forecast's moments, as shares of the longest time a job still has to run, and how far it looks at most.
MOMENTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
FORECAST_MOST_S = 60.0
# So many standard deviations of the sum of all jobs must fit above the kill mark.
DEVIATIONS = 1.0
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
    growth_bytes_s: how fast it grew when it was last looked at, or stopped.
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
        return max(LEAST_LEFT_S, self.expected.wall_s - self.age_s)

    def soon_bytes(self, seconds: float) -> float:
        """What it takes in so long at its present pace, up to the largest peak known of its kind."""
        pace_bytes = max(0.0, self.growth_bytes_s) * seconds
        if not self.expected.ended:
            return pace_bytes
        largest = max(life.peak_bytes for life in self.expected.lives or (self.expected,))
        return min(pace_bytes, max(0, largest - self.bytes))


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
    late_s:        by how much looks came too late in the last seconds, at the most.
    since_wake_s, since_kill_s: the time since the last one, also of another task.
    tasks:         those that run, in any order.
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
    forecast = _Forecast(moment)
    stops = _stops(moment, oldest_first, forecast)
    going = _going(oldest_first, stops)
    # Where all jobs are stopped none makes memory shorter; the first one may.
    kills = _kills(moment, oldest_first, going) if going and not stops else []
    wakes = _wakes(moment, oldest_first, forecast, going, not stops) if not kills else []
    return [*stops, *kills, *wakes, *_tokens(moment, oldest_first, forecast)]


# -- what memory will be -----------------------------------------------------------------------------------------------


class _Sizes(NamedTuple):
    """What something holds at each moment of a forecast: the mean of what is possible, and its variance."""

    means: list[float]
    variances: list[float]

    @classmethod
    def of(cls, possible: Sequence[Sequence[float]]) -> _Sizes:
        """From equally likely ways, each told by moment."""
        means = [sum(sizes) / len(possible) for sizes in zip(*possible)]
        squares = [sum([size * size for size in sizes]) / len(possible) for sizes in zip(*possible)]
        return cls(means, [max(0.0, square - mean * mean) for square, mean in zip(squares, means)])


class _Increase:
    """What is used beyond what is used now, at each moment of a forecast."""

    def __init__(self, whole: float, moments: int, doubt_bytes: int) -> None:
        self._means, self._variances = [whole] * moments, [0.0] * moments
        self._doubt_bytes = doubt_bytes

    def add(self, sizes: _Sizes, sign: int = 1) -> None:
        """Something more, or with sign -1 less."""
        for place, (mean, variance) in enumerate(zip(*sizes)):
            self._means[place] += sign * mean
            self._variances[place] += sign * variance

    def take(self, sizes: _Sizes) -> None:
        """Take it back."""
        self.add(sizes, -1)

    @property
    def most_bytes(self) -> float:
        """The largest of all moments, with what its doubt goes beyond what is kept free for that."""
        return max(self._at(place) for place in range(len(self._means)))

    def is_largest_with(self, sizes: _Sizes) -> bool:
        """Whether `sizes` add to it where it is largest."""
        return sizes.means[max(range(len(self._means)), key=self._at)] > 0

    def _at(self, place: int) -> float:
        deviation = sqrt(max(0.0, self._variances[place]))
        return self._means[place] + max(0.0, DEVIATIONS * deviation - self._doubt_bytes)


class _Outlook:
    """What one job is expected to hold beyond what it holds now, and what those that follow it will hold, by moment.

    It lives like one of the jobs that it is like, and nobody knows which.
    """

    def __init__(self, job: Job, task: Running, moments: Sequence[float]) -> None:
        own, following = [], []
        for life in job.expected.lives or (job.expected,):
            left_s = max(life.wall_s - job.age_s, LEAST_LEFT_S)
            own.append([_growth(job, life, left_s, ahead_s) for ahead_s in moments])
            following.append([_held_at(task.next_job, ahead_s - left_s) for ahead_s in moments])
        self.own = _Sizes.of(own)
        self.following = _Sizes.of(following)


def _growth(job: Job, life: Life, left_s: float, ahead_s: float) -> float:
    """What a job holds beyond what it holds now, were its life this one."""
    if ahead_s >= left_s:
        return -float(job.bytes)
    more, now = max(0, life.peak_bytes - job.bytes), life.bytes_at(job.age_s)
    if now < life.peak_bytes:
        risen = (life.bytes_at(job.age_s + ahead_s) - now) / (life.peak_bytes - now)
    else:
        # It should have risen by now; that it has not says the same for the next moment.
        risen = min(1.0, 2 * ahead_s / left_s)
    return max(more * risen, min(more, job.growth_bytes_s * ahead_s))


class _Forecast:
    """The outlooks of all jobs, at moments that reach to the end of the longest one."""

    def __init__(self, moment: Moment) -> None:
        tasks = moment.tasks
        ahead = [job.left_s for task in tasks for job in task.jobs] + [task.next_job.rise_s for task in tasks]
        most_s = min(max(ahead, default=1.0), FORECAST_MOST_S)
        self._moments = [share * most_s for share in MOMENTS]
        self._jobs = {(task.tid, job.pid): _Outlook(job, task, self._moments) for task in tasks for job in task.jobs}

    def begin(self, doubt_bytes: int, whole_bytes: int = 0) -> _Increase:
        """The increase without any job; `doubt_bytes` are kept free for what is not known."""
        return _Increase(float(whole_bytes), len(self._moments), doubt_bytes)

    def of(self, task: Running, job: Job) -> _Outlook:
        """That of one job."""
        return self._jobs[task.tid, job.pid]

    def new(self, task: Running) -> _Sizes:
        """One more job of `task`, from now on."""
        lives = task.next_job.lives or (task.next_job,)
        return _Sizes.of([[_held_at(life, ahead_s) for ahead_s in self._moments] for life in lives])


def _held_at(life: Life, age_s: float) -> float:
    """What a job holds at an age; nothing before, and once it has ended, what those that follow it hold on average."""
    if age_s < 0:
        return 0.0
    return life.bytes_at(age_s) if age_s < life.wall_s else life.mean_bytes


# -- tokens ------------------------------------------------------------------------------------------------------------


def _tokens(moment: Moment, oldest_first: Sequence[Running], forecast: _Forecast) -> list[Action]:
    """What each pool shall have: what is held, less what must be withdrawn, or more where it fits."""
    pools = [task for task in oldest_first if task.held_tokens is not None]
    if not pools:
        return []
    room = moment.left_bytes - moment.reserve_bytes
    # The growth of a task without a pool is told as a whole, that of its jobs is in there.
    whole_bytes = sum(task.growth_bytes for task in oldest_first)
    increase = forecast.begin(moment.reserve_bytes - moment.kill_bytes, whole_bytes)
    following: dict[str, list[_Outlook]] = {}
    for task in oldest_first:
        if task.growth_bytes:
            continue
        if task.held_tokens is not None and not task.jobs:
            increase.add(forecast.new(task))  # its implicit job may begin any time
        # What is stopped counts as if it went on: it does so before others begin.
        outlooks = [forecast.of(task, job) for job in sorted(task.jobs, key=lambda job: -job.left_s)]
        for outlook in outlooks:
            increase.add(outlook.own)
            if task.held_tokens is not None:
                increase.add(outlook.following)
        # The implicit job is followed by another whatever happens; it is taken to be the one that ends last.
        following[task.tid] = outlooks[1:]
    tokens = {task.tid: min(task.held_tokens or 0, task.most_jobs - 1) for task in pools}
    slots = moment.slots - sum(1 + tokens[task.tid] if task.tid in tokens else len(task.jobs) for task in oldest_first)
    is_short = increase.most_bytes > room
    for task in reversed(pools):
        last = following.get(task.tid, [])
        while tokens[task.tid] > 0 and (slots < 0 or increase.most_bytes > room):
            if slots >= 0 and not (last and increase.is_largest_with(last[-1].following)):
                break  # to end this job's line now would not help
            if last:
                increase.take(last.pop().following)
            tokens[task.tid] -= 1
            slots += 1
    if not is_short and not moment.is_pressed:
        _give(moment, increase, forecast, pools, tokens, slots)
    return [Action(Act.TOKENS, task.tid, "short" if is_short else "fits", tokens=tokens[task.tid]) for task in pools]


def _give(
    moment: Moment,
    increase: _Increase,
    forecast: _Forecast,
    pools: Sequence[Running],
    tokens: dict[str, int],
    slots: int,
) -> None:
    """Give more, the oldest task's first: to those that have used up theirs, and then to others what lay idle.

    As many again as are held, or as jobs have ended: what a task does with tokens is seen at the next look, and what
    its jobs take only as they live. And no more at once than fit whole into what is left now: that others will end is
    not certain, and neither is that the next ones are like the last ones.
    """
    room = moment.left_bytes - moment.reserve_bytes
    at_once = float(moment.left_bytes - moment.stop_bytes)
    for is_second in (False, True):
        for task in pools:
            has_used_up = not task.idle_tokens
            if has_used_up is is_second:
                continue
            more = max(1 + (task.held_tokens or 0), task.next_job.ended) if has_used_up else task.idle_tokens
            new = forecast.new(task)
            for _ in range(min(more, task.most_jobs - 1 - tokens[task.tid], slots)):
                increase.add(new)
                at_once -= task.next_job.peak_bytes
                if increase.most_bytes > room or at_once < 0:
                    increase.take(new)
                    break
                tokens[task.tid] += 1
                slots -= 1


# -- stop, wake, kill --------------------------------------------------------------------------------------------------


def _first(oldest_first: Sequence[Running]) -> tuple[Running, Job] | None:
    """The oldest job of the oldest task that has one: the one that always goes on."""
    return next(((task, task.jobs[-1]) for task in oldest_first if task.jobs and not task.is_stopped), None)


def _soon_bytes(jobs: Iterable[Job], seconds: float) -> float:
    """What `jobs` take in so long at their present pace, if none of them ends."""
    return sum(job.soon_bytes(seconds) for job in jobs)


def _going(tasks: Sequence[Running], stops: Sequence[Action]) -> list[tuple[Running, Job]]:
    """The jobs that run and will not be stopped."""
    stopped = {(action.tid, action.job.pid) for action in stops if action.job}
    return [
        (task, job)
        for task in tasks
        if not task.is_stopped
        for job in task.jobs
        if not job.is_stopped and (task.tid, job.pid) not in stopped
    ]


def _stops(moment: Moment, oldest_first: Sequence[Running], forecast: _Forecast) -> list[Action]:
    """Jobs to stop, the youngest of the newest task first, until what the others take fits.

    It must fit by the forecast, and until the next look also if no job ends and all grow on at their pace.
    """
    first = _first(oldest_first)
    increase = forecast.begin(moment.stop_bytes - moment.kill_bytes)
    for task in oldest_first:
        for job in task.jobs:
            # The first one's room is kept also where it is stopped still.
            if not job.is_stopped or (first and job is first[1]):
                increase.add(forecast.of(task, job).own)
    room, reaction_s = moment.left_bytes - moment.stop_bytes, moment.reaction_s
    soon_bytes = _soon_bytes([job for task in oldest_first for job in task.jobs if not job.is_stopped], reaction_s)
    soon_bytes = max(soon_bytes, moment.fill_bytes_s * reaction_s)
    found: list[Action] = []
    for task in reversed(oldest_first):
        if not task.may_stop or task.is_stopped:
            continue
        for job in task.jobs:
            if increase.most_bytes <= room and soon_bytes <= room:
                return found
            if job.is_stopped or (first and job is first[1]):
                continue
            if job.need_bytes < GROWN_BYTES and job.growth_bytes_s <= 0:
                continue
            found.append(Action(Act.STOP, task.tid, "memory is short", job))
            increase.take(forecast.of(task, job).own)
            soon_bytes = max(0.0, soon_bytes - job.soon_bytes(reaction_s))
    if found or soon_bytes <= room:
        return found
    # No job is left to be stopped: whole tasks, but never the oldest.
    for task in reversed(oldest_first[1:]):
        if task.may_stop and not task.is_stopped and not task.jobs and task.current_bytes > GROWN_BYTES:
            return [Action(Act.STOP, task.tid, "memory is short, and no job is left to be stopped")]
    return []


def _kills(moment: Moment, oldest_first: Sequence[Running], going: Sequence[tuple[Running, Job]]) -> list[Action]:
    """The job to kill, where next to nothing is left and nothing can be stopped any more.

    It is the youngest that holds what is missing, else the one that holds most: no more are killed than must be. What
    it held must last until the next one may be killed.
    """
    short = moment.kill_bytes - moment.left_bytes
    if short + max(0.0, moment.fill_bytes_s) * REACTION_S <= 0 or moment.since_kill_s < KILL_PAUSE_S:
        return []
    until_next_s = REACTION_S + KILL_PAUSE_S
    missing = short + max(_soon_bytes([job for _, job in going], until_next_s), moment.fill_bytes_s * until_next_s)
    first = _first(oldest_first)
    youngest_first = [(task, job) for task in reversed(oldest_first) if task.may_kill for job in task.jobs]
    found = [(task, job) for task, job in youngest_first if not first or job is not first[1]] or youngest_first
    enough = next((pair for pair in found if pair[1].bytes >= missing), None)
    for task, job in [enough] if enough else sorted(found, key=lambda pair: -pair[1].bytes)[:1]:
        return [Action(Act.KILL, task.tid, "the limit is near, and nothing can be stopped", job)]
    return []


def _wakes(
    moment: Moment,
    oldest_first: Sequence[Running],
    forecast: _Forecast,
    going: Sequence[tuple[Running, Job]],
    is_calm: bool,
) -> list[Action]:
    """The jobs to wake, the oldest first, while what they are expected to take beside the others fits.

    What they held is in use all the time. The first job may have what is kept free for it, and is woken in any case
    where no other goes on. They grow on at once as they did when they were stopped: until the next look that must fit
    above the stop mark, whatever the forecast says of others that will end. Whole tasks wake one at a time, with a
    longer pause, where as much fits again as they hold: nobody knows what they will take.
    """
    first = _first(oldest_first)
    if first and not going and first[1].is_stopped:
        return [Action(Act.WAKE, first[0].tid, "nothing else goes on", first[1])]
    is_stuck = not going and not any(task.current_bytes for task in oldest_first if not task.is_stopped)
    if not is_stuck and (moment.is_pressed or not is_calm):
        return []
    increase = forecast.begin(moment.reserve_bytes - moment.kill_bytes)
    for task, job in going:
        increase.add(forecast.of(task, job).own)
    soon_bytes = _soon_bytes([job for _, job in going], moment.reaction_s)
    most = int(min(WAKES_MOST, moment.since_wake_s / WAKE_PAUSE_S))
    found: list[Action] = []
    for task in oldest_first:
        if task.is_stopped:
            fits = moment.left_bytes - moment.reserve_bytes >= increase.most_bytes + task.current_bytes
            if not found and (is_stuck or (fits and moment.since_wake_s >= TASK_PAUSE_S)):
                found.append(Action(Act.WAKE, task.tid, "it fits again"))
            return found
        for job in [job for job in reversed(task.jobs) if job.is_stopped]:
            increase.add(forecast.of(task, job).own)
            free = moment.stop_bytes if first and job is first[1] else moment.reserve_bytes
            soon_bytes += job.soon_bytes(moment.reaction_s)
            fits_soon = soon_bytes <= moment.left_bytes - moment.stop_bytes
            if len(found) >= most or not fits_soon or increase.most_bytes > moment.left_bytes - free:
                return found
            found.append(Action(Act.WAKE, task.tid, "it fits again", job))
    return found
