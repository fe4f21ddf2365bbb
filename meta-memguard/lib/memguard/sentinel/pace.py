# SPDX-License-Identifier: MIT
"""How fast memory fills from look to look, by how much looks come too late, and whether anything goes on at all.

Runs in: the sentinel and `memguard run`; pure.
Covers: what is used, corrected by what processes say sooner than the kernel's sums; the numbers that a look rests on.
Does not cover: when the next look comes (reflex), and waiting for it (look).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from memguard.model import Reading
from memguard.sense.process_tree import Usage
from memguard.units import GIB, MIB

# The time to the next look is what is left over the fastest fill rate seen (earlyoom's rule), within these.
# evidence: earlyoom; a look costs 1 % of a core at three a second with 500 processes (scripts/bench sentinel)
LOOK_LEAST_S = 0.1
LOOK_MOST_S = 1.0
# To the next look where the kill mark is near: a look that comes later must kill sooner.
# evidence: as KILL_REACTION_S
LOOK_NEAR_S = 0.025
# Memory is taken to fill at least this fast, though it was never seen to; what was seen is half forgotten in a minute.
# evidence: chosen; earlyoom reckons with 6 GB/s of a whole machine, and what was seen counts where it is more
FILL_LEAST_BYTES_S = 1.0 * GIB
FILL_HALF_LIFE_S = 60.0
# What is used outside of all tasks is the median over this time: the kernel may bring a cgroup's sums two seconds late.
# evidence: the kernel flushes statistics of cgroups every two seconds (FLUSH_TIME in mm/memcontrol.c)
OUTSIDE_S = 3.0
# What tasks hold beyond all that is used, for this long, is charged to another container: they were moved there.
# evidence: chosen; five times what the kernel is late by
ELSEWHERE_S = 10.0
# How long a late look is remembered, and how late it counts at the most: a machine that slept says nothing.
# evidence: chosen; a machine is busy for seconds, not for moments
LATE_S = 5.0
LATE_MOST_S = 0.5
# Tasks that change by no more than this, and take no more than this share of one CPU, only wait. Who asks again and
# again for a lock takes some thousandths of a CPU; a compiler that shares its CPU with twenty others still takes more.
# evidence: what waits for a lock was seen to take thousandths of a CPU
STILL_BYTES = 4 * MIB
STILL_CPUS = 0.02
# Once nothing was seen to go on for this long every process is looked at: of most the CPU time is seconds old.
# evidence: one that does not grow is else looked at once in 64 looks, every 6 s while something is stopped
DOUBTED_S = 3.0
# Those that take no more than this crawl. A compiler takes a whole CPU, or its share of one.
# evidence: one that reads its own code again and again takes 0.24 of one
CRAWL_CPUS = 0.4


class Fill:
    """Memory in use, look by look. bytes_s: how fast it grows now; fastest_bytes_s: the fastest of late."""

    def __init__(self) -> None:
        self.used_bytes = 0
        self.bytes_s = 0.0
        self.fastest_bytes_s = FILL_LEAST_BYTES_S
        self._outside: deque[tuple[float, int]] = deque()
        # While less is used than tasks hold: since when, and by how much, below zero.
        self._lacking: deque[tuple[float, int]] = deque()
        self._lacks_since_s = 0.0
        self._before: tuple[float, int] | None = None

    def take(self, now_s: float, reading: Reading, tasks_bytes: int) -> None:
        """Take in a reading, and what the processes of all tasks take together at that moment."""
        self.used_bytes = self._use(now_s, reading, tasks_bytes)
        before, self._before = self._before, (now_s, self.used_bytes)
        if before is None or now_s <= before[0]:
            return
        passed_s = now_s - before[0]
        self.bytes_s = (self.used_bytes - before[1]) / passed_s
        faded = self.fastest_bytes_s * 0.5 ** (passed_s / FILL_HALF_LIFE_S)
        self.fastest_bytes_s = max(FILL_LEAST_BYTES_S, faded, self.bytes_s)

    def _use(self, now_s: float, reading: Reading, tasks_bytes: int) -> int:
        """What is used now: as the cgroup says, or more where the processes have grown since it was counted.

        The kernel may bring memory.stat up to date late; processes say it at once, and what is charged bounds both.
        Without a limit it is the machine's memory that is used, which its own cgroup's charge does not bound.
        """
        self._outside.append((now_s, reading.used_bytes - tasks_bytes))
        while self._outside[0][0] < now_s - OUTSIDE_S:
            self._outside.popleft()
        outside = sorted([size for _, size in self._outside])[len(self._outside) // 2]
        outside = max(-self._elsewhere(*self._outside[-1]), outside)
        used = max(reading.used_bytes, outside + tasks_bytes)
        if reading.charged_bytes is None:
            return used
        return min(used, max(reading.charged_bytes, reading.used_bytes, tasks_bytes))

    def _elsewhere(self, now_s: float, outside: int) -> int:
        """What tasks hold that is charged elsewhere, for all that is known: no less was lacking for a long time."""
        if outside >= 0:
            self._lacking.clear()
            return 0
        if not self._lacking:
            self._lacks_since_s = now_s
        self._lacking.append((now_s, outside))
        while self._lacking[0][0] < now_s - ELSEWHERE_S:
            self._lacking.popleft()
        return -max(size for _, size in self._lacking) if now_s - self._lacks_since_s >= ELSEWHERE_S else 0


class Lateness:
    """By how much looks come too late: compilers that are ready to run are there besides."""

    def __init__(self) -> None:
        self._due_s: float | None = None
        self._late: deque[tuple[float, float]] = deque()

    def take(self, now_s: float) -> float:
        """A look is taken now; by how much the latest of the last ones came too late, in seconds."""
        if self._due_s is not None:
            self._late.append((now_s, min(LATE_MOST_S, now_s - self._due_s)))
        while self._late and self._late[0][0] < now_s - LATE_S:
            self._late.popleft()
        return max([0.0, *(late_s for _, late_s in self._late)])

    def expect(self, due_s: float) -> None:
        """The next look is due then."""
        self._due_s = due_s


class Standstill:
    """For how long nothing has gone on: no job began or ended, memory neither grew nor shrank, nobody took CPU time.

    cpus: who takes no more than this many CPUs, on average, takes none; where there is less than one, as much less.
    """

    def __init__(self, cpus: float = STILL_CPUS) -> None:
        self._cpus = cpus
        self._still_s = 0.0
        self._looked_s = 0.0
        self._before: tuple[frozenset[tuple[str, int, int]], int, float] | None = None

    def begin(self) -> None:
        """Something was done that may let others go on."""
        self._before = None

    def take(self, now_s: float, usages: Mapping[str, Usage], cpus: float = 1.0) -> float:
        """Take in what tasks use of `cpus`; seconds since anything went on, without those in which nobody looked."""
        # On a busy machine looks come up to a second late; in what is longer nobody looked.
        passed_s, self._looked_s = min(2 * LOOK_MOST_S, now_s - self._looked_s), now_s
        cpus_least = self._cpus * min(1.0, cpus)
        jobs = {(tid, job.pid, job.start_ticks) for tid, usage in usages.items() for job in usage.compilers}
        names = frozenset(jobs.union((tid, 0, 0) for tid in usages))
        size_bytes = sum(usage.current_bytes for usage in usages.values())
        cpu_s = sum(usage.cpu_s for usage in usages.values())
        if self._before is not None:
            names_before, bytes_before, cpu_before_s = self._before
            self._still_s += passed_s
            is_still = abs(size_bytes - bytes_before) <= STILL_BYTES
            if names == names_before and is_still and cpu_s - cpu_before_s <= cpus_least * max(1.0, self._still_s):
                return self._still_s
        self._still_s, self._before = 0.0, (names, size_bytes, cpu_s)
        return 0.0
