# SPDX-License-Identifier: MIT
"""The tasks that lost a job for memory and wait to run again: lets one of them do so when it is time.

Runs in: the sentinel; pure.
Covers: what the choice rests on, of this build and of those beside it, and when the last turn was.
Does not cover: the choice itself (decide/turn), how a task hears of it (channels/state).
"""

from __future__ import annotations

from collections.abc import Collection

from memguard.decide.turn import Beside, next_turn
from memguard.sentinel.others import Rise
from memguard.sentinel.ward import Sight
from memguard.sentinel.watched import Outside, Watched


class TurnQueue:
    """Gives the turns of one build. given: how many so far."""

    def __init__(self) -> None:
        self.given = 0
        self._last_s = float("-inf")
        self._theirs = Rise()

    def give(self, runs: Collection[Watched], sight: Sight, outside: Outside, now_s: float) -> None:
        """Let the next of `runs` that waits run again, if it is time."""
        others, moment = sight.others, sight.moment
        if self._theirs.take(others.turns):
            self._last_s = now_s
        waiting = {run.note.tid: run for run in runs if run.waits}
        if not waiting or moment is None:
            return
        going = [run for run in runs if not run.waits]
        tid = next_turn(
            [found for run in waiting.values() if (found := run.waiting(now_s, not others.builds)) is not None],
            moment.left_bytes - moment.reserve_bytes,
            Beside(bool(going), any(run.works for run in going), any(run.is_alone for run in going)),
            now_s - self._last_s,
            outside.is_least,
            others.elsewhere if others.builds else None,
        )
        if tid in waiting:
            self._last_s, self.given = now_s, self.given + 1
            waiting[tid].begin_turn(now_s)
