# SPDX-License-Identifier: MIT
"""What a task took over its run, out of its usage at each scan.

Runs in: the sentinel; pure.
Covers: peaks, the memory of one more job, CPU time.
Does not cover: how the run ended, and what is kept in the history (sentinel).
"""

from __future__ import annotations

import math
from collections import Counter

from memguard.sense.process_tree import Usage


class Tally:
    """What a task took over its run, so far.

    peak_bytes, largest_process_bytes, largest_process, most_compilers: the most of each at one moment.
    serial_bytes: the peak while no more than one compiler ran, None where at every moment several did.
    """

    # Sizes are counted in steps of 4.4 %, so that a task of any length is kept in a few numbers.
    _STEPS_PER_DOUBLING = 16

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.largest_process_bytes = 0
        self.largest_process = ""
        self.serial_bytes: int | None = None
        self.most_compilers = 0
        self.cpu_s = 0.0
        self._sizes: Counter[int] = Counter()

    def add(self, usage: Usage) -> None:
        """Take one more moment into account; one without processes is none."""
        self.cpu_s = max(self.cpu_s, usage.cpu_s)
        if not usage.processes:
            return
        # What lies in swap would be in memory where there is none.
        held_bytes = usage.current_bytes + usage.swapped_bytes
        self.peak_bytes = max(self.peak_bytes, held_bytes)
        if usage.largest_process_bytes > self.largest_process_bytes:
            self.largest_process_bytes, self.largest_process = usage.largest_process_bytes, usage.largest_process
        self.most_compilers = max(self.most_compilers, len(usage.compilers))
        if len(usage.compilers) <= 1:
            self.serial_bytes = max(self.serial_bytes or 0, held_bytes)
            return
        for compiler in usage.compilers:
            size = compiler.bytes + compiler.swapped_bytes
            if size > 0:
                self._sizes[round(math.log2(size) * self._STEPS_PER_DOUBLING)] += 1

    @property
    def per_job_bytes(self) -> int | None:
        """What one more job takes, to within 3 %; None where never two compilers ran at once.

        It is the median over all compilers at all moments with at least two of them, each weighted by its bytes: half
        of the memory that compilers held, over time, was held by compilers larger than this. The plain median is too
        small, since every compiler begins small and most files are: over generated builds (sizes flat, growing,
        lognormal) it was 0.2 to 0.95 of the real slope of peak(jobs), the weighted one 0.95 to 1.6.
        """
        weights = {step: count * 2 ** (step / self._STEPS_PER_DOUBLING) for step, count in self._sizes.items()}
        left = sum(weights.values()) / 2
        for step in sorted(weights):
            left -= weights[step]
            if left <= 0:
                return round(2 ** (step / self._STEPS_PER_DOUBLING))
        return None
