# SPDX-License-Identifier: MIT
"""BitBake adapter: setscene tasks, which no scheduler is asked about, are counted and start as memory lets them.

Runs in: the BitBake server; imports bb.
Covers: how many may start until the scheduler is asked next, by what one of them is expected to take; those that run,
as entries of the ledger.
Does not cover: which of them starts (BitBake); what they are expected to take (predict).

BitBake starts one after the other, without asking anybody, as long as fewer tasks run than its number of threads. So
that number is lowered between two choices of the scheduler, and given back for each choice. For each task that ends
between two choices one may start that nobody has judged.
"""

from __future__ import annotations

from typing import Any

import bb

from memguard.bitbake.known_tasks import KnownTasks
from memguard.decide.admit import room_for
from memguard.decide.ledger import Ledger
from memguard.model import BuildUse, Task
from memguard.units import format_bytes

_SUFFIX = "_setscene"


class SetsceneLimit:
    """Lowers the number of threads of a run queue from one choice of its scheduler to the next."""

    def __init__(self, runqueue: Any, known: KnownTasks, ledger: Ledger) -> None:
        self._rq, self._known, self._ledger = runqueue, known, ledger
        self._number_tasks: int | None = None
        self._counted: set[str] = set()
        self._next: Task | None = None
        self._judged_by: BuildUse | None = None
        self._has_said = False
        self.lower()

    def lift(self) -> None:
        """Give the run queue back its own number of threads."""
        number, self._number_tasks = self._number_tasks, None
        if number is not None:
            self._rq.number_tasks = number

    def count(self) -> list[str]:
        """Count in those that have begun; those that have ended."""
        live = {tid + _SUFFIX for tid in self._rq.sq_live}
        for tid in live - self._counted:
            self._ledger.count_in(self._known.task(tid))
        ended = [tid for tid in self._counted if tid not in live]
        self._counted = live
        return ended

    def lower(self, starting: int = 0) -> None:
        """Let no more start before the next choice than fit, but one where nothing else runs.

        starting: tasks that start now, and are not counted as active yet.
        """
        rq = self._rq
        if self._ledger.is_observing:
            return
        active = rq.stats.active + len(rq.sq_live) + starting
        room = room_for(self._one_more(), self._ledger.situation, has_such=bool(rq.sq_live))
        number = max(1, active + (room or self._is_left_out()))
        if number < rq.number_tasks:
            self._number_tasks, rq.number_tasks = rq.number_tasks, number
            self._say(number)

    def _one_more(self) -> Task:
        """The next one; which that is nobody knows, so it is one that takes what others have taken."""
        if self._next is None or self._judged_by is not self._ledger.use:
            self._judged_by = self._ledger.use
            self._next = self._known.any_setscene()
        return self._next

    def _waiting(self) -> set[str]:
        """Those that BitBake would start; not yet known while the run queue is made."""
        waiting: set[str] = self._rq.sq_buildable - self._rq.sq_running
        return waiting - self._rq.sqdata.outrightfail if waiting else waiting

    def _is_left_out(self) -> bool:
        """Whether all that are ready have nothing in sstate: BitBake only notes that, and their tasks wait for it."""
        return len(self._rq.sq_buildable) > len(self._rq.sq_running) and not self._waiting()

    def _say(self, number: int) -> None:
        """Say once that some wait for memory."""
        active = self._rq.stats.active + len(self._rq.sq_live)
        if not self._has_said and len(self._waiting()) > number - active:
            self._has_said = True
            need_bytes = self._ledger.situation.need_bytes(self._one_more())
            bb.note(
                f"memguard: {len(self._waiting())} setscene tasks wait for memory: one is expected to need "
                f"{format_bytes(need_bytes)}, {format_bytes(max(0, self._ledger.free_bytes))} will be free"
            )
