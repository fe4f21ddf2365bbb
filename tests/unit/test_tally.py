# SPDX-License-Identifier: MIT
"""What a task took over its run, out of made-up moments."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from memguard.sense.process_tree import Compiler, Usage
from memguard.sense.tally import Tally
from memguard.units import MIB


def compilers(*sizes: int) -> Usage:
    """A moment with compilers of these sizes beside 10 bytes of others."""
    found = tuple(Compiler(pid, 1, "cc1", size, 1.0) for pid, size in enumerate(sizes))
    return Usage(
        current_bytes=sum(sizes) + 10,
        processes=len(sizes) + 1,
        compilers=found,
        largest_process_bytes=max(sizes, default=10),
        largest_process="cc1",
        cpu_s=float(len(sizes)),
    )


def test_a_tally_of_nothing() -> None:
    """A task that was never seen took nothing, and nothing is known of its jobs."""
    tally = Tally()
    tally.add(Usage())
    assert (tally.peak_bytes, tally.serial_bytes, tally.per_job_bytes, tally.most_compilers) == (0, None, None, 0)


def test_a_tally_keeps_the_most() -> None:
    """Peaks, the serial peak and the most compilers are those of all moments."""
    tally = Tally()
    for usage in (compilers(), compilers(700), compilers(300, 400), compilers(250, 250, 300), compilers(100)):
        tally.add(usage)
    assert (tally.peak_bytes, tally.largest_process_bytes, tally.largest_process) == (810, 700, "cc1")
    assert (tally.serial_bytes, tally.most_compilers, tally.cpu_s) == (710, 3, 3.0)


def test_what_lies_in_swap_was_taken() -> None:
    """Where there is none it would be in memory."""
    tally = Tally()
    tally.add(replace(compilers(700), swapped_bytes=300))
    assert (tally.peak_bytes, tally.serial_bytes) == (1010, 1010)


def test_a_tally_without_a_serial_moment() -> None:
    """Where several compilers always ran, the serial peak is unknown."""
    tally = Tally()
    tally.add(compilers(100, 100))
    assert tally.serial_bytes is None
    assert tally.per_job_bytes == pytest.approx(100, rel=0.03)


@pytest.mark.parametrize("jobs", [2, 4, 8, 16])
def test_per_job_is_near_the_slope(jobs: int) -> None:
    """On a build whose compilers grow from nothing, the estimate is within a third of what a job really adds."""
    chance = random.Random(jobs)
    tally, running, peak = Tally(), [], 0
    for moment in range(2000):
        running = [one for one in running if moment < one[1]]
        running += [(moment, moment + chance.randint(4, 20)) for _ in range(jobs - len(running))]
        sizes = [int(500 * MIB * (moment - start + 1) / (end - start)) for start, end in running]
        peak = max(peak, sum(sizes))
        tally.add(compilers(*sizes))
    assert tally.per_job_bytes == pytest.approx(peak / jobs, rel=0.34)
