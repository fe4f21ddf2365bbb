# SPDX-License-Identifier: MIT
"""The lines that a build prints while it runs.

Runs in: the BitBake server; pure.
Covers: the first line, the summary, and which holds are worth a line.
Does not cover: who prints them (bitbake/session), the report on a finished build.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from memguard.decide.admit import LIGHT_BYTES
from memguard.decide.ledger import Hold, Release, Totals
from memguard.model import Grant, Policy, Reading, Task
from memguard.units import counted, format_bytes, format_duration

# A hold is worth a line once it has lasted for this long: most are over before anybody could read of them. That of a
# light task is only where nobody would expect it: a build of real recipes had forty such lines.
SAY_HOLD_S = 2.0
SAY_LIGHT_HOLD_S = 30.0


class HoldLines:
    """The lines on tasks that are held, and that start after that, or with fewer jobs than they want."""

    def __init__(self) -> None:
        self._unsaid: dict[float, deque[Hold]] = {SAY_HOLD_S: deque(), SAY_LIGHT_HOLD_S: deque()}
        self._said: set[str] = set()

    def note(self, hold: Hold) -> None:
        """A task is held from now on."""
        self._unsaid[SAY_LIGHT_HOLD_S if hold.need_bytes <= LIGHT_BYTES else SAY_HOLD_S].append(hold)

    def due(self, held: dict[str, Hold], now_s: float) -> Iterator[str]:
        """The holds that have lasted long enough by now; held: those that last still."""
        for say_s, unsaid in self._unsaid.items():
            while unsaid and now_s - unsaid[0].since_s >= say_s:
                noted = unsaid.popleft()
                hold = held.get(noted.task.tid)
                if hold is not None and hold.since_s == noted.since_s:
                    self._said.add(hold.task.tid)
                    yield f"hold {hold.task}: {hold.reason}"

    def start(self, task: Task, grant: Grant, reason: str, release: Release | None) -> str | None:
        """A task starts; None where that is not worth a line."""
        was_said = task.tid in self._said
        self._said.discard(task.tid)
        if not was_said and grant.jobs >= task.wanted_jobs:
            return None
        after = f" after {format_duration(release.held_s)}" if release is not None and was_said else ""
        return f"start {task}{after}: {reason}"


def start_line(policy: Policy, reading: Reading) -> str:
    """What the build begins with: limit, how it was found, reserve, mode."""
    limit = "no limit, all memory" if reading.limit_bytes is None else "limit"
    return (
        f"{limit} {format_bytes(reading.bound_bytes)} ({reading.limit_source}), "
        f"{format_bytes(reading.used_bytes)} used, "
        f"{format_bytes(policy.reserve_of(reading.bound_bytes))} in reserve, "
        f"{reading.cpus:g} CPUs, mode {policy.mode.value}"
    )


def summary_lines(
    totals: Totals, peak_bytes: int, bound_bytes: int, kills: int | None, is_observing: bool
) -> list[str]:
    """What came of a build; `kills` by the kernel, None where they cannot be counted."""
    would = "would have " if is_observing else ""
    waits = f" ({format_duration(totals.held_s)} in total, {format_duration(totals.idle_s)} of CPU idle meanwhile)"
    return [
        f"peak {format_bytes(peak_bytes)} of {format_bytes(bound_bytes)} "
        f"({100 * peak_bytes // max(1, bound_bytes)} %)"
        + ("" if kills is None else f", {kills} killed by the kernel for memory"),
        f"{would}held {counted(totals.held, 'task')}"
        + ("" if is_observing else waits)
        + f", {would}shrunk {totals.shrunk}, started {totals.granted}"
        + (f", {totals.forced} of them although they may not fit" if totals.forced else ""),
    ]
