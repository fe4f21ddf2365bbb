# SPDX-License-Identifier: MIT
"""Workloads of units with known memory over time, and the schedule of somebody who knows all of it beforehand.

Covers: the scenarios of the bench of live feedback, drawn from a seed; the clairvoyant's schedule and its lower bound.
Does not cover: running them (feedback).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memguard.units import MIB

# The clairvoyant sees memory in steps of this: short beside a unit, long enough to search many schedules.
STEP_S = 0.05
SCHEDULES = 200
_TRIED_AT_ONCE = 16

Sizes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """One job: the program's name, and its memory in points (seconds, bytes) joined by straight lines from (0, 0)."""

    program: str
    points: tuple[tuple[float, float], ...]

    @property
    def wall_s(self) -> float:
        """How long it runs."""
        return self.points[-1][0]

    @property
    def peak_bytes(self) -> int:
        """The most it takes."""
        return int(max(size for _, size in self.points))

    def bytes_at(self, age_s: float) -> float:
        """What it takes at an age."""
        before_s, before = 0.0, 0.0
        for at_s, size in self.points:
            if age_s < at_s:
                return before + (size - before) * (age_s - before_s) / (at_s - before_s)
            before_s, before = at_s, size
        return before

    def steps(self) -> Sizes:
        """The most it takes in each step of the clairvoyant's time."""
        count = max(1, round(self.wall_s / STEP_S))
        fine = np.linspace(0.0, self.wall_s, 10 * count + 1)
        sizes = np.interp(fine, [0.0, *(at_s for at_s, _ in self.points)], [0.0, *(size for _, size in self.points)])
        return np.maximum(sizes[:-1].reshape(count, 10).max(axis=1), sizes[10::10])


@dataclass(frozen=True)
class Make:
    """What one make builds: units in the order of its makefile, then those that need all of the former."""

    units: tuple[Unit, ...]
    links: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Workload:
    """Makes that run at once."""

    makes: tuple[Make, ...]

    @property
    def units(self) -> list[Unit]:
        """All units of all makes."""
        return [unit for make in self.makes for unit in (*make.units, *make.links)]

    @property
    def heaviest_bytes(self) -> int:
        """What the heaviest unit takes."""
        return max(unit.peak_bytes for unit in self.units)


class _Draw:
    """Units whose length and size are jittered by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def unit(self, peak: float, wall_s: float = 1.5, rise: float = 0.6, program: str = "cc1plus") -> Unit:
        """One that rises in a straight line for a share of its life, and stays at its peak for the rest."""
        peak *= self._random.uniform(0.8, 1.2)
        wall_s *= self._random.uniform(0.7, 1.3)
        rise = min(1.0, rise * self._random.uniform(0.8, 1.2))
        return Unit(program, ((wall_s * rise, peak), (wall_s, peak)))

    def sudden(self, peak: float, wall_s: float) -> Unit:
        """One that takes next to nothing for half of its life, and all at once."""
        peak *= self._random.uniform(0.8, 1.2)
        wall_s *= self._random.uniform(0.7, 1.3)
        jump_s = wall_s * self._random.uniform(0.4, 0.6)
        return Unit("cc1plus", ((jump_s, peak / 20), (jump_s + 0.3, peak), (wall_s, peak)))


def _flat(draw: _Draw, room: float, jobs: int) -> Workload:
    return Workload((Make(tuple(draw.unit(2 * room / jobs) for _ in range(6 * jobs))),))


def _tenth(draw: _Draw, room: float, jobs: int) -> Workload:
    light = 1.2 * room / max(jobs, 20)
    return Workload(
        (Make(tuple(draw.unit(light * (8 if place % 10 == 9 else 1)) for place in range(7 * jobs))),),
    )


def _links(draw: _Draw, room: float, jobs: int) -> Workload:
    units = tuple(draw.unit(1.2 * room / jobs) for _ in range(7 * jobs))
    return Workload((Make(units, tuple(draw.unit(room / 4, 2.0, program="ld") for _ in range(6))),))


def _slow(draw: _Draw, room: float, jobs: int) -> Workload:
    return Workload((Make(tuple(draw.unit(2 * room / jobs, 2.5, 1.0) for _ in range(5 * jobs))),))


def _burst(draw: _Draw, room: float, jobs: int) -> Workload:
    return Workload((Make(tuple(draw.sudden(2 * room / jobs, 1.5) for _ in range(7 * jobs))),))


def _meet(draw: _Draw, room: float, jobs: int) -> Workload:
    def one() -> Make:
        light, heavy = 0.8 * room / jobs, 2.4 * room / jobs
        return Make(
            tuple(draw.unit(heavy if 2 * jobs <= place < 3 * jobs else light) for place in range(9 * jobs // 2))
        )

    return Workload((one(), one()))


SCENARIOS: dict[str, tuple[str, Callable[[_Draw, float, int], Workload]]] = {
    "flat": ("all units alike", _flat),
    "tenth": ("every tenth unit 8 times heavier", _tenth),
    "links": ("link spikes at the end", _links),
    "slow": ("units that grow slowly to their end", _slow),
    "burst": ("all take their memory late and at once", _burst),
    "meet": ("two makes whose heavy parts meet", _meet),
}


def draw_workload(scenario: str, seed: int, room_bytes: int, jobs: int) -> Workload:
    """The units of a scenario, sized so that `jobs` of them at once want about twice the room."""
    return SCENARIOS[scenario][1](_Draw(seed), float(room_bytes), jobs)


def lower_bound_s(workload: Workload, room_bytes: int, jobs: int) -> float:
    """No schedule is shorter: memory over time, work over jobs, the longest chain."""
    area = sum(float(unit.steps().sum()) * STEP_S for unit in workload.units) / room_bytes
    work = sum(unit.wall_s for unit in workload.units) / jobs
    chains = [
        max((unit.wall_s for unit in make.units), default=0.0) + max((unit.wall_s for unit in make.links), default=0.0)
        for make in workload.makes
    ]
    return max(area, work, *chains)


def clairvoyant_s(workload: Workload, room_bytes: int, jobs: int, schedules: int = SCHEDULES) -> float:
    """The shortest of so many randomised list schedules, each unit at the first moment at which all of its life fits.

    The first order is the makefile's, the second the heaviest first; the others are random, one half of them with a
    leaning to the heavier and longer ones.
    """
    chance = random.Random(1)
    known = {id(unit): unit.steps() for unit in workload.units}
    most_steps = sum(map(len, known.values())) + max(map(len, known.values()))
    best_s = float("inf")
    for number in range(schedules):
        first = [unit for make in workload.makes for unit in make.units]
        last = [(unit, make) for make in workload.makes for unit in make.links]
        if number == 1:
            first.sort(key=lambda unit: -unit.peak_bytes * unit.wall_s)
        elif number % 2:
            first.sort(key=lambda unit: -unit.peak_bytes * unit.wall_s * chance.uniform(0.3, 1.0))
        elif number:
            chance.shuffle(first)
        chance.shuffle(last)
        plan = _Plan(room_bytes, jobs, most_steps)
        ends = {id(unit): plan.place(known[id(unit)], 0) for unit in first}
        for unit, make in last:
            ready = max((ends[id(needed)] for needed in make.units), default=0)
            plan.place(known[id(unit)], ready)
        best_s = min(best_s, plan.end * STEP_S)
    return best_s


class _Plan:
    """One schedule as it is filled: what is used, and how many jobs run, in each step."""

    def __init__(self, room_bytes: int, jobs: int, most_steps: int) -> None:
        self._room, self._jobs = room_bytes, jobs
        self._used = np.zeros(most_steps)
        self._running = np.zeros(most_steps, dtype=np.int64)
        self._first_free = 0
        self.end = 0

    def place(self, sizes: Sizes, ready: int) -> int:
        """Put a unit to the first moment at which it fits; the step at which it ends. One larger than all is alone."""
        length, top = len(sizes), int(sizes.argmax())
        first = max(ready, self._first_free)
        used, running = self._used[first : self.end + length], self._running[first : self.end + length]
        # Where its peak fits, all of its life may.
        peaks = used[top : top + len(used) - length + 1]
        likely = np.flatnonzero((running[: len(peaks)] < self._jobs) & (peaks + sizes[top] <= self._room))
        at = self.end  # where nothing runs any more, it always fits
        for some in range(0, len(likely), _TRIED_AT_ONCE):
            places = likely[some : some + _TRIED_AT_ONCE, None] + np.arange(length)
            fits = ((used[places] + sizes <= self._room) & (running[places] < self._jobs)).all(axis=1)
            if fits.any():
                at = first + int(likely[some + int(fits.argmax())])
                break
        self._used[at : at + length] += sizes
        self._running[at : at + length] += 1
        while self._running[self._first_free] >= self._jobs:
            self._first_free += 1
        self.end = max(self.end, at + length)
        return at + length


def safe_jobs(heaviest_bytes: int, room_bytes: int, jobs: int) -> int:
    """The static -j that fits whatever meets: sized on the heaviest unit."""
    return max(1, min(jobs, room_bytes // max(1, heaviest_bytes)))


def profile_words(unit: Unit) -> str:
    """The profile as the program that stands in for a compiler takes it."""
    return ",".join(f"{at_s:.3f}:{size / MIB:.2f}" for at_s, size in unit.points)
