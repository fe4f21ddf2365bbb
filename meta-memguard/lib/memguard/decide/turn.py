# SPDX-License-Identifier: MIT
"""Which task that lost a job for memory may run again now.

Runs in: the sentinel; pure.
Covers: the order and the moment of retries.
Does not cover: how a task notices that it lost a job, and runs again (retry).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# From one turn to the next: what the last one takes must be seen first.
# evidence: half and double in the replay; a compiler takes two to three seconds to half of its peak
PAUSE_S = 2.0
# Who waits longer goes on although it may not fit, if nothing else works: something outside of the build holds memory.
# It no longer waits for the tasks of other builds either, of which one follows the other.
# evidence: chosen, not measured
PATIENCE_S = 60.0
# Who waits beside other builds goes on no sooner: until then they have seen that it waits, and give it the turn, too.
# evidence: three looks (MEASURE_S of sentinel/look); what was killed has been gone for as long
SEEN_S = 1.0


@dataclass(frozen=True)
class Waiting:
    """A task that waits to run again.

    place:      the oldest task has the smallest.
    need_bytes: what it is expected to take then.
    alone:      it runs when no other does, and none may start beside it.
    waits_s:    how long it has waited.
    """

    tid: str
    place: int
    need_bytes: int
    alone: bool
    waits_s: float


class Beside(NamedTuple):
    """Whether any task runs that does not wait, whether one of these works, and whether one must be alone."""

    runs: bool = False
    works: bool = False
    is_alone: bool = False

    def joined(self, other: Beside) -> Beside:
        """Of these, or of those."""
        return Beside(*(one or another for one, another in zip(self, other)))


@dataclass(frozen=True)
class Elsewhere:
    """What other builds under the same limit do meanwhile: their tasks that wait, and what runs beside those."""

    waiting: tuple[Waiting, ...] = ()
    beside: Beside = field(default_factory=Beside)


def next_turn(
    waiting: Sequence[Waiting],
    free_bytes: int,
    beside: Beside,
    since_turn_s: float,
    is_empty: bool = False,
    elsewhere: Elsewhere | None = None,
) -> str | None:
    """The tid of the task whose turn it is, None for nobody: the oldest that fits; where no other works, any.

    Then it is the smallest if none fits or all must be alone: each that waits holds some memory itself, and those that
    need most go on when the others have ended.

    free_bytes: what is left until the limit, less the reserve.
    is_empty:   nothing holds memory but what always does, so that no more will ever fit.
    elsewhere:  other builds share the limit. Each comes to the same task, be it one of another build: if each gave
                turns by itself, the same memory would be given away twice, and two tasks would run "alone".
    """
    if elsewhere is not None:
        if all(task.waits_s < PATIENCE_S for task in waiting):
            beside = beside.joined(elsewhere.beside)
        beside = beside._replace(is_alone=beside.is_alone or elsewhere.beside.is_alone)
        waiting = [task for task in (*waiting, *elsewhere.waiting) if task.waits_s >= SEEN_S]
    if not waiting or beside.is_alone or (beside.works and since_turn_s < PAUSE_S):
        return None
    fitting = [task for task in waiting if task.need_bytes <= free_bytes and not task.alone]
    if fitting:
        return min(fitting, key=lambda task: task.place).tid
    if beside.works:
        return None
    smallest = min(waiting, key=lambda task: (task.need_bytes, task.place))
    has_room = smallest.need_bytes <= free_bytes or is_empty
    is_ready = has_room and not (smallest.alone and beside.runs)
    return smallest.tid if is_ready or smallest.waits_s >= PATIENCE_S else None
