# SPDX-License-Identifier: MIT
"""What one job of a task takes over its life: learned while the task runs, from those of its jobs that have ended.

Runs in: the sentinel, `memguard run` and every simulation; pure.
Covers: peak, length and rise of a job that runs, given its age and size, and of one that is still to start.
Does not cover: what a whole task takes (learn), and what follows from it (regulate).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import sqrt

from memguard.units import MIB

# A job of a task that nothing is known of, before one of it has ended: what several distributions plan for a C++ job,
# ten seconds, half of them rising.
UNKNOWN_BYTES = 512 * MIB
UNKNOWN_S = 10.0
# So many jobs are remembered, the newest; with every tenth ten times as large, six of those are among them.
KEPT = 64
# What was thought beforehand counts as one job more until so many have ended.
PRIOR_UNTIL = 8
# A job is like those that had between a half and twice its size at its age.
ALIKE = 2.0
# A job larger than all that have ended is taken to grow by another quarter; none is taken to be smaller than this.
BEYOND = 1.25
LEAST_BYTES = 4 * MIB


@dataclass(frozen=True)
class Life:
    """The whole life of a job: its peak in bytes, its length, and the time in which it rose to that peak."""

    peak_bytes: int
    wall_s: float
    rise_s: float

    def bytes_at(self, age_s: float) -> float:
        """What it holds at an age, were its rise a straight line."""
        if age_s >= self.rise_s:
            return float(self.peak_bytes)
        return self.peak_bytes * age_s / self.rise_s


@dataclass(frozen=True)
class Expected:
    """The life a job is expected to have, and by how much its peak may be off (one standard deviation, in bytes)."""

    peak_bytes: int
    wall_s: float
    rise_s: float
    spread_bytes: int


class JobSizes:
    """The lives of one task's jobs, the newest KEPT of them.

    prior_bytes: the peak of a job as it is thought beforehand, None where nothing is.
    """

    def __init__(self, prior_bytes: int | None = None) -> None:
        self._prior = Life(prior_bytes or UNKNOWN_BYTES, UNKNOWN_S, UNKNOWN_S / 2)
        self._ended: deque[Life] = deque(maxlen=KEPT)
        self._known: list[Life] | None = None
        self._new: Expected | None = None

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, life: Life) -> None:
        """Take into account a job that has ended."""
        self._ended.append(life)
        self._known = self._new = None

    def expect_new(self) -> Expected:
        """The next job to start: like any of those that have ended."""
        if self._new is None:
            self._new = _middle(self._lives(), 0, 0.0)
        return self._new

    def expect(self, size_bytes: int, age_s: float) -> Expected:
        """A job that runs: like those that were about its size at its age, else like those that grew larger."""
        lives = self._lives()
        low, high = size_bytes / ALIKE, size_bytes * ALIKE + LEAST_BYTES
        alike = [life for life in lives if low <= life.bytes_at(age_s) <= high and life.wall_s > age_s]
        if not alike:
            alike = [life for life in lives if life.peak_bytes > size_bytes]
        return _middle(alike, size_bytes, age_s)

    def _lives(self) -> list[Life]:
        if self._known is None:
            self._known = list(self._ended)
            if len(self._known) < PRIOR_UNTIL:
                self._known.append(self._prior)
        return self._known


def _middle(lives: list[Life], size_bytes: int, age_s: float) -> Expected:
    """The mean of `lives`, but no less than what a job of this size and age has reached already."""
    if not lives:
        wall_s = max(age_s * BEYOND, 1.0)
        return Expected(int(size_bytes * BEYOND), wall_s, wall_s, int(size_bytes * (BEYOND - 1)))
    peak = sum([life.peak_bytes for life in lives]) / len(lives)
    wall_s = sum([life.wall_s for life in lives]) / len(lives)
    rise_s = sum([life.rise_s for life in lives]) / len(lives)
    spread = sqrt(sum([(life.peak_bytes - peak) ** 2 for life in lives]) / len(lives))
    return Expected(
        peak_bytes=max(int(peak), size_bytes, LEAST_BYTES),
        wall_s=max(wall_s, age_s + 0.1),
        rise_s=max(rise_s, 0.05),
        spread_bytes=int(spread),
    )
