# SPDX-License-Identifier: MIT
"""When the platform is asked for a larger container, and for how much more.

Runs in: the BitBake server; pure: time and ledger come in as arguments.
Covers: how long CPUs idle while tasks wait for memory, and what the oldest of them lacks.
Does not cover: asking (the sentinel runs the user's command); how far and in which steps (whoever is asked).

To ask too early costs memory that nobody needed for long: most holds end within seconds. To ask too late costs CPUs
that idle. So it is asked for once CPUs have idled for some seconds in all while tasks were held, and for the oldest
task that has been held for as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memguard.decide.admit import Situation, admit
from memguard.decide.ledger import ASKED_S, Ledger
from memguard.model import Task

# A task has waited for this long, and CPUs have idled for this long meanwhile, before the platform is asked.
# evidence: scripts/bench grow: a first build takes 3 % less after 1 s, 3 % more after 10 s, 16 % more after 30 s
PATIENCE_S = 3.0
# It is not asked again for this long, whatever it has answered.
# evidence: chosen, not measured; a scheduler of pods does not change its mind sooner
AGAIN_S = 60.0
# What is lacking is found in so many steps at most; where other things than room hold a task back, a step is this share
# of the limit.
# evidence: chosen; more room moves the reserve and the fewest jobs by ever less, and ten steps have always been enough
MOST_STEPS = 32
STEP_SHARE = 0.125


@dataclass(frozen=True)
class Wish:
    """What is asked for: bytes beyond what the container has, and the task that waits for them."""

    task: Task
    wanted_bytes: int


class Growth:
    """The wishes of one build. look() is called at each look at the container."""

    def __init__(self) -> None:
        self._idle_s = 0.0
        self._looked_s = float("-inf")
        self._asked_s = float("-inf")

    def look(self, ledger: Ledger, now_s: float) -> Wish | None:
        """What to ask for now, None for nothing."""
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        if not ledger.held:
            self._idle_s = 0.0
        # Where BitBake has not asked for longer, all its threads are taken, and more memory would start nothing.
        elif ledger.is_hungry and passed_s <= ASKED_S:
            self._idle_s += passed_s
        is_early = self._idle_s < PATIENCE_S or now_s - self._asked_s < AGAIN_S
        if is_early or ledger.emergency:
            return None
        wish = _wish(ledger, now_s)
        if wish is not None:
            self._idle_s, self._asked_s = 0.0, now_s
        return wish


def _wish(ledger: Ledger, now_s: float) -> Wish | None:
    """What the oldest held task lacks that has waited for long enough, and that more memory would let start."""
    for hold in ledger.held.values():
        if now_s - hold.since_s >= PATIENCE_S:
            lacking = lacking_bytes(hold.task, ledger.situation)
            if lacking:
                return Wish(hold.task, lacking)
    return None


def lacking_bytes(task: Task, situation: Situation) -> int | None:
    """By how much the limit is too low for `task` to start now: 0 where it is not.

    None where no higher limit would do: there is none, or the machine itself has not got the memory.
    """
    if situation.reading.limit_bytes is None:
        return None
    more_bytes = 0
    for _ in range(MOST_STEPS):
        grown = with_more(situation, more_bytes)
        if admit(task, grown).starts:
            return more_bytes
        is_kept = grown.kept is not None and grown.kept.tid == task.tid
        short_bytes = grown.need_bytes(task) - (grown.kept_bytes if is_kept else grown.spare_bytes)
        more_bytes += short_bytes if short_bytes > 0 else int(situation.reading.limit_bytes * STEP_SHARE) + 1
    return None


def with_more(situation: Situation, more_bytes: int) -> Situation:
    """The same situation in a container whose limit is higher."""
    reading = situation.reading
    limit_bytes, room_bytes = reading.bound_bytes + more_bytes, reading.room_bytes + more_bytes
    grown = replace(situation, reading=replace(reading, limit_bytes=limit_bytes, room_bytes=room_bytes))
    fills = grown.filling is not None and grown.fills(grown.filling)
    return grown if fills else replace(grown, filling=None)
