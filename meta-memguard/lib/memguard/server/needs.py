# SPDX-License-Identifier: MIT
"""What a task that starts has waited for: the tasks that it needed and that this build has run.

Runs in: the BitBake server; pure.
Covers: tasks that ran nothing (covered from sstate, with a current stamp), which are looked through; what is needed by
what is needed, which is left out.
Does not cover: what needs what (BitBake), what is made of it (the report simulates the build once more).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Callable

# Of a build of more tasks nothing is told, and it is not simulated: each simulation of so many takes half a second, and
# up to ten are made; here each number costs a bit for each later task.
MOST_TASKS = 5000


class Needs:
    """Numbers the tasks of a build as they start, from 0 on. depends: what each task needs, by tid."""

    def __init__(self, depends: Callable[[str], Collection[str]] = lambda tid: ()) -> None:
        self.depends = depends
        self._numbers: dict[str, int] = {}
        # Of each task that has started all that it has waited for, and itself, as bits.
        self._before: list[int] = []
        # What is behind a task that ran nothing; it stays so, since it is done once a task that needs it starts.
        self._behind: dict[str, tuple[int, ...]] = {}

    def start(self, tid: str) -> tuple[int, ...]:
        """A task starts; the numbers of those that it has waited for, in order."""
        if len(self._before) >= MOST_TASKS:
            self.depends = lambda tid: ()
            return ()
        found, number = self._found(tid), len(self._before)
        self._numbers[tid] = number
        before = 1 << number
        for one in found:
            before |= self._before[one]
        self._before.append(before)
        return found

    def _found(self, tid: str) -> tuple[int, ...]:
        """What is behind a task, worked out from the far end: chains are longer than calls may be deep."""
        numbers, behind = self._numbers, self._behind
        way, branches = [tid], [iter(self.depends(tid))]
        while way:
            needed = next((one for one in branches[-1] if one not in numbers and one not in behind), None)
            if needed is None:
                branches.pop()
                done = way.pop()
                behind[done] = self._least(self._of(done))
            else:
                way.append(needed)
                branches.append(iter(self.depends(needed)))
        return behind.pop(tid)

    def _of(self, tid: str) -> Iterable[int]:
        for one in self.depends(tid):
            if one in self._numbers:
                yield self._numbers[one]
            else:
                yield from self._behind[one]

    def _least(self, numbers: Iterable[int]) -> tuple[int, ...]:
        """Those of them for which no other of them has waited; who waits has the greater number."""
        kept, covered = [], 0
        for number in sorted(set(numbers), reverse=True):
            if not covered >> number & 1:
                kept.append(number)
                covered |= self._before[number]
        return tuple(reversed(kept))
