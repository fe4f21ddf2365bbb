# SPDX-License-Identifier: MIT
"""What the tasks of a simulated build truly take, over time, and what is thought of them beforehand.

Runs in: outside BitBake.
Covers: phases of work with their jobs and memory; profiles drawn around known durations and footprints; the error of
predictions as it was measured (docs/prediction.md).
Does not cover: which tasks there are (graph), when they run (engine).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from memguard.model import Duration, Footprint
from memguard.predict.job_lives import Life
from memguard.units import MIB

# A compiler of 600 MB reaches half of its peak in two to three seconds; 32 of them together then grow by 5 GB/s, near
# the most that the authors of earlyoom have seen. What is lighter in all has no slope worth an event. A slope is a
# stair with steps of this height, as far as that is not too many steps.
RISE_BYTES_S = 150 * MIB
SLOPING_BYTES = 512 * MIB
STEP_BYTES = 256 * MIB
MOST_STEPS = 64

# Translation units take seconds, so work for N jobs is at least some N times this.
UNIT_S = 3.0

MOST_WIDTH = 256

# A compiler that was too short to be seen: what C compilers of the bed take (docs/benchmarks.md); and their share of
# what nobody saw of a compile.
SHORT, SHORT_SHARE = Life(25 * MIB, 0.3, 0.2, 0.0), 0.9
# As many compilers stand for all of a build, of each task as many, but no fewer than these: with more the simulation of
# a build of 5,000 tasks takes more than twice as long as by phases.
MOST_COMPILERS, LEAST_COMPILERS = 2000, 8


class Unit(NamedTuple):
    """One compiler: by what it is known in another build, 0 for nothing, and its life in CPU seconds."""

    name: int
    life: Life


@dataclass(frozen=True)
class Phase:
    """A part of a task: jobs that are all alike and do not change, or single compilers.

    work_s:     CPU seconds.
    width:      the most jobs it can be divided among.
    base_bytes: what it holds whatever its jobs, job_bytes what each of its jobs holds.
    units:      its compilers, in the order in which they begin.
    share:      the part of a CPU that each job keeps busy.
    """

    work_s: float
    width: int
    base_bytes: int
    job_bytes: int
    units: tuple[Unit, ...] = ()
    share: float = 1.0

    def used_bytes(self, jobs: int) -> int:
        """What it takes with `jobs` jobs granted, at the most."""
        if self.units:
            return self.base_bytes + self._largest[min(jobs, self.width) - 1]
        return self.base_bytes + self.job_bytes * min(jobs, self.width)

    def byte_seconds(self, jobs: int) -> float:
        """Memory x time with `jobs` jobs, each on a CPU of its own."""
        seconds = self.seconds(jobs)
        if not self.units:
            return self.used_bytes(jobs) * seconds
        return self.base_bytes * seconds + sum(unit.life.mean_bytes * unit.life.wall_s for unit in self.units)

    def seconds(self, jobs: int) -> float:
        """Wall time with `jobs` jobs, each on a CPU of its own."""
        return self.work_s / min(jobs, self.width) / self.share

    @cached_property
    def peaks(self) -> tuple[int, ...]:
        """What each compiler takes at the most, the largest first."""
        return tuple(sorted((unit.life.peak_bytes for unit in self.units), reverse=True))

    @cached_property
    def _largest(self) -> tuple[int, ...]:
        """What the largest compiler takes, the two largest, and so on."""
        return tuple(itertools.accumulate(self.peaks))


@dataclass(frozen=True)
class Profile:
    """One task over time."""

    phases: tuple[Phase, ...]

    @property
    def units(self) -> tuple[Unit, ...]:
        """Its compilers that are the same in each build of it."""
        return tuple(unit for phase in self.phases for unit in phase.units if unit.name)

    @property
    def work_s(self) -> float:
        """CPU seconds of it all."""
        return sum(phase.work_s for phase in self.phases)

    def seconds(self, jobs: int) -> float:
        """Wall time with `jobs` jobs, each on a CPU of its own."""
        return sum(phase.seconds(jobs) for phase in self.phases)

    def peak_bytes(self, jobs: int) -> int:
        """The most it takes at one moment with `jobs` jobs granted."""
        return max((phase.used_bytes(jobs) for phase in self.phases), default=0)

    def byte_seconds(self, jobs: int) -> float:
        """Memory x time with `jobs` jobs, each on a CPU of its own."""
        return sum(phase.byte_seconds(jobs) for phase in self.phases)


@dataclass(frozen=True)
class Error:
    """How predictions miss: the prediction is the truth times a number drawn from a lognormal distribution.

    median, sigma: of the footprint. duration_sigma: of the duration, whose median is the truth.
    """

    median: float = 1.0
    sigma: float = 0.0
    duration_sigma: float = 0.0


# By how much docs/prediction.md found predictions to miss, all classes of recipes together. After three builds 3.4 % of
# runs exceeded their prediction, and predictions lay 35 % too high; after ten 0.9 % and 39 %; before the first 46 % and
# 146 %. A lognormal factor with these two properties has this median and sigma. Durations of the same task in builds
# of the same machine spread by a fifth (its CPUs are busier or idler), which is an assumption.
ERRORS = {
    "exact": Error(),
    "warm": Error(1.33, 0.157, 0.2),
    "hot": Error(1.37, 0.134, 0.2),
    "cold": Error(1.13, 1.25, 0.7),
}


def draw_profile(duration: Duration, footprint: Footprint, dice: random.Random) -> Profile:
    """A task that takes `duration`, peaks as `footprint` says, and moves below that meanwhile.

    Work for several jobs rises over some seconds, then goes in waves of which one has the full size; what runs alone
    comes before it (configure, dependency scans) and after it (the link, with the footprint's serial size).
    """
    serial_s, parallel_s = max(0.0, duration.serial_s), max(0.0, duration.parallel_s)
    width = max(1, min(MOST_WIDTH, round(parallel_s / UNIT_S)))
    base, job, serial = footprint.base_bytes, footprint.per_job_bytes, footprint.serial_bytes
    if parallel_s <= 0:
        return _draw_serial(max(serial_s, 0.01), footprint.peak_bytes(1), dice)
    phases = []
    if serial_s:
        phases.append(Phase(0.4 * serial_s, 1, base, 0))
    sizes = [0.5 + 0.5 * dice.random() for _ in range(1 + min(4, int(parallel_s / (60 * width))))]
    sizes[dice.randrange(len(sizes))] = 1.0
    link_s = 0.6 * serial_s
    if not serial_s and serial > base:
        link_s = 0.1 * parallel_s
        parallel_s -= link_s
    before = 0
    for size in sizes:
        phases += _rise(Phase(parallel_s / len(sizes), width, base, int(job * size)), 0, before)
        before = phases[-1].job_bytes
    if link_s:
        phases += _rise(Phase(link_s, 1, max(base, serial), 0), base, 0)
    return Profile(tuple(phases))


def _rise(phase: Phase, base_bytes: int, job_bytes: int) -> list[Phase]:
    """A phase that begins with a slope from the base and the size of a job that there were before."""
    rise_bytes = max(0, phase.base_bytes - base_bytes) if phase.width == 1 else 0
    rise_bytes += max(0, phase.job_bytes - job_bytes) * phase.width
    if rise_bytes < SLOPING_BYTES or not phase.work_s:
        return [phase]
    steps = min(MOST_STEPS, rise_bytes // STEP_BYTES)
    slope_s = min(rise_bytes / RISE_BYTES_S, 0.5 * phase.work_s)
    first_base = base_bytes if phase.width == 1 else phase.base_bytes
    stair = [
        Phase(
            slope_s / steps,
            phase.width,
            int(first_base + (phase.base_bytes - first_base) * step / (steps + 1)),
            int(job_bytes + (phase.job_bytes - job_bytes) * step / (steps + 1)),
        )
        for step in range(1, steps + 1)
    ]
    return [*stair, replace(phase, work_s=phase.work_s - slope_s)]


def _draw_serial(seconds: float, peak_bytes: int, dice: random.Random) -> Profile:
    if peak_bytes < SLOPING_BYTES or seconds < 1.0:
        return Profile((Phase(seconds, 1, peak_bytes, 0),))
    before_s = (0.1 + 0.6 * dice.random()) * seconds
    first = Phase(before_s, 1, peak_bytes // 5, 0)
    return Profile((first, *_rise(Phase(seconds - before_s, 1, peak_bytes, 0), first.base_bytes, 0)))


def draw_compilers(
    cpu_s: float,
    units: Sequence[Unit],
    base_bytes: int,
    dice: random.Random,
    haste: float = 1.0,
    most: int | None = None,
) -> Profile:
    """A task whose compilers are known: at first what make does between them, then all of them in a drawn order.

    What nobody saw of it are shorter ones, which come last. haste: how many times as long all takes but those; most:
    how many compilers there are at most, so that of more some become one.
    """
    missing_s = max(0.0, cpu_s - sum(unit.life.wall_s for unit in units))
    drawn, short = list(units), int(SHORT_SHARE * missing_s / SHORT.wall_s)
    if most is not None:
        drawn, short = _merge(drawn, max(1, most - min(short, most // 2))), min(short, most // 2)
    dice.shuffle(drawn)
    if short:
        life = replace(SHORT, wall_s=max(SHORT.wall_s, SHORT_SHARE * missing_s / short))
        drawn += [Unit(0, life)] * short
    alone = Phase(max(0.05, (1 - SHORT_SHARE) * missing_s) * haste, 1, base_bytes, 0)
    work_s = sum(unit.life.wall_s for unit in drawn)
    return Profile((alone, Phase(work_s, len(drawn), base_bytes, 0, tuple(drawn))))


def units_of(lives: Sequence[Life], cpu_s: float) -> tuple[Unit, ...]:
    """Compilers that had these lives in a task that took so much CPU time: while they shared CPUs they took longer."""
    slowness = max(1.0, sum(life.wall_s for life in lives) / cpu_s) if cpu_s > 0 else 1.0
    return tuple(
        Unit(
            place, Life(life.peak_bytes, *(seconds / slowness for seconds in (life.wall_s, life.rise_s, life.begun_s)))
        )
        for place, life in enumerate(lives, start=1)
    )


def compilers_each(tasks: int) -> int:
    """How many compilers stand for all of a task, where so many tasks have any."""
    return max(LEAST_COMPILERS, MOST_COMPILERS // max(1, tasks))


def draw_task(
    duration: Duration, footprint: Footprint, units: Sequence[Unit], base_bytes: int, dice: random.Random, most: int
) -> Profile:
    """A task of a build of which single compilers were seen: its own, the `units`, or such as are drawn for it.

    most: how many compilers there are at most.
    """
    cpu_s = duration.serial_s + duration.parallel_s if duration.cpu_s is None else duration.cpu_s
    if not units and duration.parallel_s > 0:
        units, base_bytes = _draw_units(duration, footprint, dice, most), footprint.base_bytes
        cpu_s = duration.serial_s + duration.parallel_s
    if units:
        return draw_compilers(cpu_s, units, base_bytes, dice, most=most)
    cpu_s, wall_s = max(0.01, min(cpu_s, duration.serial_s)), max(0.01, duration.serial_s)
    phases = _draw_serial(cpu_s, footprint.peak_bytes(1), dice).phases
    return Profile(tuple(replace(phase, share=cpu_s / wall_s) for phase in phases))


def _draw_units(duration: Duration, footprint: Footprint, dice: random.Random, most: int) -> list[Unit]:
    """Compilers from half of the footprint's size for a job to all of it, and one that links."""
    count = max(1, min(most, round(duration.parallel_s / UNIT_S)))
    wall_s, sizes = duration.parallel_s / count, [0.5 + 0.5 * dice.random() for _ in range(count - 1)] + [1.0]
    peaks = [(int(footprint.per_job_bytes * size), wall_s) for size in sizes]
    if footprint.serial_bytes > footprint.base_bytes and duration.serial_s:
        peaks.append((footprint.serial_bytes - footprint.base_bytes, SHORT_SHARE * duration.serial_s))
    return [
        Unit(place, Life(peak, wall_s, max(0.05, min(peak / RISE_BYTES_S, 0.5 * wall_s))))
        for place, (peak, wall_s) in enumerate(peaks, start=1)
    ]


def _merge(units: Sequence[Unit], most: int) -> list[Unit]:
    """As they are, but of more than `most` the smaller ones as several that run one after the other as one."""
    if len(units) <= most:
        return list(units)
    largest_first = sorted(units, key=lambda unit: -unit.life.peak_bytes)
    kept, others = largest_first[: most // 2], largest_first[most // 2 :]
    count = most - len(kept)
    merged = [others[place * len(others) // count : (place + 1) * len(others) // count] for place in range(count)]
    return kept + [Unit(some[0].name, _one_after_the_other([unit.life for unit in some])) for some in merged]


def _one_after_the_other(lives: Sequence[Life]) -> Life:
    """What all hold on average, for as long as all take."""
    wall_s = sum(life.wall_s for life in lives)
    held_bytes = sum(life.mean_bytes * life.wall_s for life in lives) / wall_s
    return Life(int(held_bytes), wall_s, lives[0].rise_s)


def misjudge(footprint: Footprint, error: Error, dice: random.Random) -> Footprint:
    """What memguard thinks of a task that truly has `footprint`: all of it too high, or all too low, as it falls."""
    if not error.sigma and error.median == 1:
        return footprint
    factor = error.median * math.exp(dice.gauss(0, error.sigma)) if error.sigma else error.median
    return scale_footprint(footprint, factor)


def scale_footprint(footprint: Footprint, factor: float) -> Footprint:
    """A footprint, `factor` times as large."""
    return replace(
        footprint,
        base_bytes=int(footprint.base_bytes * factor),
        per_job_bytes=int(footprint.per_job_bytes * factor),
        serial_bytes=int(footprint.serial_bytes * factor),
        most_bytes=None if footprint.most_bytes is None else int(footprint.most_bytes * factor),
    )


def misjudge_duration(duration: Duration, error: Error, dice: random.Random) -> Duration:
    """What memguard thinks a task takes that truly takes `duration`."""
    if not error.duration_sigma:
        return duration
    factor = math.exp(dice.gauss(0, error.duration_sigma))
    return Duration(duration.serial_s * factor, duration.parallel_s * factor)
