# SPDX-License-Identifier: MIT
"""What those who look on are told now and then while a build runs: how far it is, and why tasks are held now.

Runs in: the BitBake server.
Covers: how often; holds of which the reason has changed since it was told.
Does not cover: holds that begin and end (guard), lines for people (lines).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from memguard.channels.notes import BuildProgress, Note, TaskHold
from memguard.decide.ledger import Ledger

# How often, and of how many held tasks: what people read on one screen.
NEWS_S, HOLDS_MOST = 2.0, 60
_WAITS_FOR_THREAD = "fits now, and waits for a thread of BitBake"
_WAITS_FOR_CPU = "fits now, but running tasks keep all CPUs busy"


class News:
    """The news of one build; times are of any one clock, in seconds."""

    def __init__(self, tell: Callable[[Note], object]) -> None:
        self._tell = tell
        self._progress_s = self._reasons_s = float("-inf")

    def tell_progress(self, now_s: float, done: int, tasks: int, left_s: Callable[[], float | None]) -> None:
        """So many tasks are done of all; left_s() works out how long the others take, which is asked for seldom."""
        if now_s - self._progress_s >= NEWS_S:
            self._progress_s = now_s
            self._tell(BuildProgress(done, tasks, left_s()))

    def tell_reasons(self, now_s: float, ledger: Ledger) -> None:
        """Bring up to date why the oldest held tasks are held, and tell of those for which it has changed."""
        if now_s - self._reasons_s < NEWS_S:
            return
        self._reasons_s = now_s
        fits_now = _WAITS_FOR_CPU if ledger.is_crowded else _WAITS_FOR_THREAD
        for tid, hold in list(islice(ledger.held.items(), HOLDS_MOST)):
            verdict = ledger.judge(hold.task, is_idle=False)
            reason = fits_now if verdict.starts else verdict.reason
            if reason != hold.reason:
                ledger.held[tid] = replace(hold, reason=reason)
                self._tell(TaskHold(tid, hold.task.recipe, hold.task.name, reason))
