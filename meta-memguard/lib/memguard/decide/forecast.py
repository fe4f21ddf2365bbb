# SPDX-License-Identifier: MIT
"""What memory will be: running jobs, those that follow them and any that are added, at several moments ahead.

Runs in: the sentinel, `memguard run` and every simulation; pure.
Covers: what each job holds ahead, and mean and variance of the sum over all of them.
Does not cover: what is done about it (regulate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import sqrt
from typing import NamedTuple

from memguard.decide.moment import LEAST_LEFT_S, Job, Moment, Running
from memguard.predict.job_lives import Life

# The forecast's moments, as shares of the longest time a job still has to run, and how far it looks at most.
# evidence: chosen; few compilers of real recipes run longer
MOMENTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
FORECAST_MOST_S = 60.0
# Standard deviations of the sum of all jobs that must fit above the kill mark.
# evidence: chosen; half and double make no difference in the replay
DEVIATIONS = 1.0


class _Sizes(NamedTuple):
    """What something holds at each moment of a forecast: the mean of what is possible, and its variance."""

    means: list[float]
    variances: list[float]

    @classmethod
    def of(cls, possible: Sequence[Sequence[float]]) -> _Sizes:
        """From equally likely ways, each as sizes by moment."""
        means = [sum(sizes) / len(possible) for sizes in zip(*possible)]
        squares = [sum([size * size for size in sizes]) / len(possible) for sizes in zip(*possible)]
        return cls(means, [max(0.0, square - mean * mean) for square, mean in zip(squares, means)])


class Budget:
    """What is used beyond what is used now, at each moment of a forecast."""

    def __init__(self, moments: int, doubt_bytes: int) -> None:
        self._means, self._variances = [0.0] * moments, [0.0] * moments
        self._doubt_bytes = doubt_bytes

    def copy(self) -> Budget:
        """The same, to go on with."""
        other = Budget(len(self._means), self._doubt_bytes)
        other._means, other._variances = list(self._means), list(self._variances)
        return other

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

    def fits(self, room_bytes: float) -> bool:
        """Whether that much room is enough at every moment."""
        return self.most_bytes <= room_bytes

    def is_largest_with(self, sizes: _Sizes) -> bool:
        """Whether `sizes` add to it where it is largest."""
        return sizes.means[max(range(len(self._means)), key=self._at)] > 0

    def _at(self, place: int) -> float:
        deviation = sqrt(max(0.0, self._variances[place]))
        return self._means[place] + max(0.0, DEVIATIONS * deviation - self._doubt_bytes)


class Outlook:
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
    more, now = max(0, life.peak_bytes - job.held_bytes), life.bytes_at(job.age_s)
    if now < life.peak_bytes:
        risen = (life.bytes_at(job.age_s + ahead_s) - now) / (life.peak_bytes - now)
    else:
        # It should have risen by now; that it has not says the same for the next moment.
        risen = min(1.0, 2 * ahead_s / left_s)
    return job.swapped_bytes + max(more * risen, min(more, job.growth_bytes_s * ahead_s))


class Forecast:
    """The outlooks of all jobs, at moments that reach to the end of the longest one."""

    def __init__(self, moment: Moment) -> None:
        tasks = moment.tasks
        ahead = [job.left_s for task in tasks for job in task.jobs] + [task.next_job.rise_s for task in tasks]
        most_s = min(max(ahead, default=1.0), FORECAST_MOST_S)
        self._moment, self._moments = moment, [share * most_s for share in MOMENTS]
        self._jobs = {(task.tid, job.pid): Outlook(job, task, self._moments) for task in tasks for job in task.jobs}

    def budget(self, doubt_bytes: int) -> Budget:
        """A budget without any job; `doubt_bytes` are kept free for what is not known."""
        return Budget(len(self._moments), doubt_bytes)

    @cached_property
    def of_all(self) -> Budget:
        """All jobs, and those that follow them: each task goes on with as many as it has.

        What is stopped counts as if it went on: it does so before others begin. Where a task with a pool has none, its
        implicit job may begin any time.
        """
        budget = self.budget(self._moment.reserve_bytes - self._moment.kill_bytes)
        for task in self._moment.tasks:
            if task.held_tokens is not None and not task.jobs:
                budget.add(self.new(task))
            for job in task.jobs:
                outlook = self.of(task, job)
                budget.add(outlook.own)
                budget.add(outlook.following)
        return budget

    @property
    def rise_bytes(self) -> int:
        """What all tasks are expected to take together beyond what is used now, when that is most."""
        return max(0, int(self.of_all.most_bytes))

    def of(self, task: Running, job: Job) -> Outlook:
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
