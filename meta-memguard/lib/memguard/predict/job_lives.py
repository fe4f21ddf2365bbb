# SPDX-License-Identifier: MIT
"""What one job of a task takes over its life: learned while the task runs, from those of its jobs that have ended.

Runs in: the sentinel, `memguard run` and every simulation; pure.
Covers: peak, length and rise of a job that runs, given its program, age and size, or what the same took in the last
build; and of one that is still to start.
Does not cover: what a whole task takes (fit), lives from one build to the next (remembered_lives), and what follows
from an expected life (decide/regulate).

A job is like those of its program that were about its size at its age. Where none was, or none has ended yet, it goes
on as it has begun for as long again: of something whose end is not known, half of its life is over, on average.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memguard.units import MIB

# The peak of a job of a task of which nothing is known and none runs yet.
# evidence: what several distributions plan for a C++ job
UNKNOWN_BYTES = 512 * MIB
# Extrapolate a young job's growth at least this far: its age alone says too little about its end.
# evidence: chosen; half and double make no difference in the replay
UNKNOWN_S = 1.0
# The newest jobs that are remembered of a task: where every tenth is ten times as large, six of those are among them.
# evidence: chosen; half and double make no difference in the replay
KEPT = 64
# Until this many jobs have ended, the prior counts as one job more, and so does each job that runs.
# evidence: chosen; half and double make no difference in the replay
KNOWN_FROM = 8
# At most this many lives stand for all of them where the future is worked out.
# evidence: chosen; half and double make no difference in the replay
SAMPLE = 12
# A job that has lasted longer than in the last build is taken to have this part of its age still before it.
# evidence: chosen; half and double make no difference in the replay
OVERDUE_SHARE = 0.1
# A job is like those that had its size at its age, give or take the factor ALIKE, and whose peak it has not passed by
# more than the factor GROWN.
# evidence: half and double in the replay
ALIKE = 1.5
GROWN = 1.1
# A job has begun to rise once it holds this share of its peak.
# evidence: chosen; half and double make no difference in the replay
BEGUN_SHARE = 0.1
# No job is expected to take less.
# evidence: what a compiler maps as it starts
LEAST_BYTES = 4 * MIB


@dataclass(frozen=True)
class Life:
    """The whole life of a job: its peak in bytes, its length, and how it rose to that peak.

    rise_s:  when it had nearly all of its peak.
    begun_s: when it had BEGUN_SHARE of it; 0 where it rose in one straight line.
    """

    peak_bytes: int
    wall_s: float
    rise_s: float
    begun_s: float = 0.0

    @property
    def _begun_share(self) -> float:
        return BEGUN_SHARE if self.begun_s else 0.0

    def bytes_at(self, age_s: float) -> float:
        """What it holds at an age: straight lines from nothing through BEGUN_SHARE to its peak."""
        if age_s >= self.rise_s:
            return float(self.peak_bytes)
        share = self._begun_share
        if age_s < self.begun_s:
            return self.peak_bytes * share * age_s / self.begun_s
        return self.peak_bytes * (share + (1 - share) * (age_s - self.begun_s) / (self.rise_s - self.begun_s))

    @property
    def mean_bytes(self) -> float:
        """What it holds on average over its life."""
        share, rise_s = self._begun_share, min(self.rise_s, self.wall_s)
        begun_s = min(self.begun_s, rise_s)
        missing_s = begun_s * (1 - share / 2) + (rise_s - begun_s) * (1 - share) / 2
        return self.peak_bytes * (1 - missing_s / self.wall_s)


@dataclass(frozen=True)
class Expected(Life):
    """The life a job is expected to have.

    ended: the jobs that have ended from which this is known.
    lives: some of those, evenly over their lengths: it will live like one of these.
    """

    ended: int = 0
    lives: tuple[Life, ...] = ()


class JobSizes:
    """The lives of one task's jobs, the newest KEPT of them, by program.

    prior_bytes: the peak that a job is thought to have before any has ended, None where nothing is known.
    before:      the lives of some jobs in earlier builds.
    largest_bytes: what the largest took in earlier builds, 0 where that is not known; believed until one takes more.
    """

    def __init__(self, prior_bytes: int | None = None, before: Sequence[Life] = (), largest_bytes: int = 0) -> None:
        self._prior_bytes = prior_bytes
        self._largest_bytes = largest_bytes
        self._prior = Life(prior_bytes or UNKNOWN_BYTES, 2.0, 1.0)
        self._before = before
        self._ended: deque[tuple[str, Life]] = deque(maxlen=KEPT)
        self._by_program: dict[str, list[Life]] = {}

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, life: Life, program: str = "") -> None:
        """Take into account a job that has ended."""
        self._ended.append((program, life))
        self._by_program.clear()

    def expect_new(self, running: Sequence[Life] = ()) -> Expected:
        """The next job to start: like any of those that have ended, each of which takes the place of one before.

        While all of these are few, it is like the running ones, too.
        """
        lives = [*self._before[len(self._ended) :], *(life for _, life in self._ended)]
        ended = len(lives)
        if ended < KNOWN_FROM:
            lives += [*running, self._prior]
        return _middle(lives, 0, 0.0, ended)

    def expect(
        self,
        size_bytes: int,
        age_s: float,
        program: str = "",
        still_s: float = 0.0,
        before: Life | None = None,
    ) -> Expected:
        """A job that runs: like those of its program that were about its size at its age, else as it has begun.

        still_s: seconds in which it has hardly grown.
        before:  what the same took in the last build. That is believed until it has taken more.
        """
        if before is not None and size_bytes <= before.peak_bytes * GROWN:
            return _again(before, size_bytes, age_s)
        lives = self._lives(program)
        low, high = size_bytes / ALIKE, size_bytes * ALIKE + LEAST_BYTES
        later = [life for life in lives if life.wall_s > age_s]
        alike = [
            life for life in later if low <= life.bytes_at(age_s) <= high and size_bytes <= life.peak_bytes * GROWN
        ]
        if alike:
            return _middle(alike, size_bytes, age_s, len(alike))
        as_begun = _go_on(size_bytes, age_s, still_s)
        if size_bytes < self._largest_bytes < as_begun.peak_bytes:
            as_begun = replace(as_begun, peak_bytes=self._largest_bytes)
        larger = [life for life in lives if life.peak_bytes > size_bytes]
        if larger and (expected := _middle(larger, size_bytes, age_s, len(larger))).peak_bytes >= as_begun.peak_bytes:
            return expected
        if not lives and self._prior_bytes and self._prior_bytes > as_begun.peak_bytes:
            return replace(as_begun, peak_bytes=self._prior_bytes)
        return as_begun

    def _lives(self, program: str) -> list[Life]:
        """Those of one program that have ended."""
        if program not in self._by_program:
            self._by_program[program] = [life for name, life in self._ended if name == program]
        return self._by_program[program]


def _again(before: Life, size_bytes: int, age_s: float) -> Expected:
    """The same life once more. A job that lasts longer will soon be over, or is slower where it has yet to rise."""
    is_late = age_s > before.rise_s * GROWN and size_bytes * GROWN < before.peak_bytes
    wall_s = max(before.wall_s, age_s * (2.0 if is_late else 1 + OVERDUE_SHARE))
    life = replace(before, peak_bytes=max(before.peak_bytes, size_bytes), wall_s=wall_s)
    return Expected(life.peak_bytes, life.wall_s, life.rise_s, life.begun_s, ended=1, lives=(life,))


def _go_on(size_bytes: int, age_s: float, still_s: float) -> Expected:
    """As much growth again in as long again, but what UNKNOWN_S adds at its pace where it is younger than that.

    The longer it has been still, the less: a job that has been still for as long as it grew has probably grown up.
    """
    grown_s = max(age_s - still_s, 0.1)
    more_s = max(grown_s, UNKNOWN_S)
    more = int(size_bytes * more_s / grown_s * max(0.0, 1 - still_s / more_s))
    left_s = max(age_s, UNKNOWN_S)
    return Expected(max(size_bytes + more, LEAST_BYTES), age_s + left_s, age_s + left_s)


def _middle(lives: Sequence[Life], size_bytes: int, age_s: float, ended: int) -> Expected:
    """The mean of `lives`, but no less than what a job of this size and age has reached already."""
    peak = sum([life.peak_bytes for life in lives]) / len(lives)
    wall_s = sum([life.wall_s for life in lives]) / len(lives)
    rise_s = sum([life.rise_s for life in lives]) / len(lives)
    begun_s = sum([life.begun_s for life in lives]) / len(lives)
    return Expected(
        peak_bytes=max(int(peak), size_bytes, LEAST_BYTES),
        wall_s=max(wall_s, age_s + 0.1),
        rise_s=max(rise_s, 0.05),
        begun_s=min(begun_s, rise_s / 2),
        ended=ended,
        lives=_sample(lives),
    )


def _sample(lives: Sequence[Life]) -> tuple[Life, ...]:
    """At most SAMPLE of them, evenly over their lengths."""
    if len(lives) <= SAMPLE:
        return tuple(lives)
    ordered = sorted(lives, key=lambda life: life.wall_s)
    return tuple(ordered[int((place + 0.5) * len(ordered) / SAMPLE)] for place in range(SAMPLE))
