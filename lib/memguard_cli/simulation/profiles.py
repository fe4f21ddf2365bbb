# SPDX-License-Identifier: MIT
"""What the tasks of a simulated build truly take, over time, and what is thought of them beforehand.

Runs in: outside BitBake.
Covers: phases of work with their jobs and memory; profiles drawn around known durations and footprints; the error of
predictions as it was measured (docs/prediction.md).
Does not cover: which tasks there are (graph), when they run (engine).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from memguard.model import Duration, Footprint
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


@dataclass(frozen=True)
class Phase:
    """A part of a task in which its need does not change.

    work_s:     CPU seconds.
    width:      the most jobs it can be divided among.
    base_bytes: what it holds whatever its jobs, job_bytes what each of its jobs holds.
    """

    work_s: float
    width: int
    base_bytes: int
    job_bytes: int

    def used_bytes(self, jobs: int) -> int:
        """What it takes with `jobs` jobs granted."""
        return self.base_bytes + self.job_bytes * min(jobs, self.width)


@dataclass(frozen=True)
class Profile:
    """One task over time."""

    phases: tuple[Phase, ...]

    @property
    def work_s(self) -> float:
        """CPU seconds of it all."""
        return sum(phase.work_s for phase in self.phases)

    def seconds(self, jobs: int) -> float:
        """Wall time with `jobs` jobs, each on a CPU of its own."""
        return sum(phase.work_s / min(jobs, phase.width) for phase in self.phases)

    def peak_bytes(self, jobs: int) -> int:
        """The most it takes at one moment with `jobs` jobs granted."""
        return max(phase.used_bytes(jobs) for phase in self.phases)

    def byte_seconds(self, jobs: int) -> float:
        """Memory x time with `jobs` jobs, each on a CPU of its own."""
        return sum(phase.used_bytes(jobs) * phase.work_s / min(jobs, phase.width) for phase in self.phases)


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
