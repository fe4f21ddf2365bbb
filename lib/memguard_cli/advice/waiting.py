# SPDX-License-Identifier: MIT
"""For how long the tasks of a build waited, and the limit that would have spared them that.

Runs in: outside BitBake; pure.
Does not cover: whether anybody is better off with it (limits), what to change (build).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from memguard.units import GIB, format_bytes
from memguard_cli.builds.record import BuildRecord, TaskRun, most_at_once

# Waiting is worth a larger limit from this share of the build's time on.
WAITING_SHARE = 0.1
# Added to what was measured once: past runs of one task spread by 6 to 15 % (docs/prediction.md).
MARGIN = 1.15


def waiting_s(record: BuildRecord) -> float:
    """For how long at least one task was held."""
    return union_s((hold.begin_s, hold.end_s) for run in record.runs for hold in run.holds)


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """For how long at least one of these times was."""
    total_s, end_s = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total_s += max(0.0, end - max(begin, end_s))
        end_s = max(end_s, end)
    return total_s


def limits_needed(record: BuildRecord) -> list[tuple[int, float]]:
    """For each held task the limit that would have spared it, with the seconds it was held; the smallest limit first.

    That is what would have run with it, had nothing been held: each task from when it was asked for, as long as it ran,
    on as many threads as were seen in use, at what it took, scaled to all its jobs; beside what was used at the start,
    and the reserve.
    """
    runs = [run for run in record.runs if run.began_s is not None and run.granted_bytes is not None]
    threads = most_at_once(runs, record.ended_s)
    idle = (record.start.used_bytes or 0) if record.start else 0
    running: list[tuple[float, int]] = []
    needed: list[tuple[int, float]] = []
    for run in sorted(runs, key=lambda run: run.first_s):
        begins_s, wanted = run.first_s, _wanted_bytes(run)
        while running and (running[0][0] <= begins_s or len(running) >= threads):
            begins_s = max(begins_s, heapq.heappop(running)[0])
        heapq.heappush(running, (begins_s + run.length_s(record.ended_s), wanted))
        if run.holds:
            needed.append((with_reserve(record, idle + sum(size for _, size in running)), run.held_s))
    return sorted(needed)


def _wanted_bytes(run: TaskRun) -> int:
    """What it would have taken with all the jobs it wanted: by what was measured, else by what was predicted."""
    size = int(run.peak_bytes * MARGIN) if run.peak_bytes else run.granted_bytes or 0
    has_fewer = run.jobs and run.wanted_jobs and run.jobs < run.wanted_jobs
    return size * (run.wanted_jobs or 1) // (run.jobs or 1) if has_fewer else size


def with_reserve(record: BuildRecord, size: int) -> int:
    """A size and what is kept free beside it."""
    return size + (record.reserve_bytes or 0)


def round_up(size: int) -> str:
    """A size one would give a container: whole GiB, halves below 8."""
    step = GIB if size > 8 * GIB else GIB // 2
    return format_bytes(-(-size // step) * step)
