# SPDX-License-Identifier: MIT
"""Lets a task that is about to run again wait until memory allows.

Runs in: task children; standard library only.
Covers: asking the sentinel for a turn; looking at the container itself where there is no sentinel, or it has died.
Does not cover: whose turn it is (decide/turn.py, in the sentinel).
"""

from __future__ import annotations

import contextlib
import time
from typing import Callable, Protocol

from memguard.channels.fifo import Notes
from memguard.channels.notes import TaskWait
from memguard.channels.state import StateFile
from memguard.model import Reading

# How often the state is looked at; the sentinel writes it several times a second.
LOOK_EVERY_S = 0.2
# A note may be lost with the sentinel that took it, so it is sent again.
ASK_EVERY_S = 5.0
# Without a sentinel: what was killed is gone from memory.stat after two seconds at the latest, and whoever holds the
# memory for longer than a minute may do so for hours.
UNWATCHED_LEAST_S = 2.0
UNWATCHED_MOST_S = 60.0


class Container(Protocol):
    """What says how much memory is left (sense.container.Sensor)."""

    def read(self) -> Reading: ...


class Turns:
    """The turns of one task, which leads its session and is known by `mark`."""

    def __init__(
        self,
        mark: str,
        notes: Notes,
        state: StateFile,
        container: Container,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._mark = mark
        self._notes = notes
        self._state = state
        self._container = container
        self._clock = clock
        self._sleep = sleep

    def wait_for_turn(self, wait: TaskWait) -> None:
        """Return when the sentinel gives the turn.

        Where nobody answers: when `need_bytes` are left of the container, but after UNWATCHED_MOST_S at the latest,
        since a task that is not tried again fails for certain.
        """
        asked_s = unwatched_since_s = None
        while True:
            now_s = self._clock()
            has_turn = self._state.has_turn(self._mark, wait.attempt, now_s)
            if has_turn:
                return
            if has_turn is not None:
                unwatched_since_s = None
            elif unwatched_since_s is None:
                unwatched_since_s = now_s
            elif self._may_go(wait, now_s - unwatched_since_s):
                return
            if asked_s is None or now_s - asked_s >= ASK_EVERY_S:
                self._ask(wait)
                asked_s = now_s
            self._sleep(LOOK_EVERY_S)

    def _ask(self, wait: TaskWait) -> None:
        # Where nobody can be asked, nobody answers either.
        with contextlib.suppress(OSError):
            self._notes.send(wait)

    def _may_go(self, wait: TaskWait, unwatched_s: float) -> bool:
        """Whether a task goes on after `unwatched_s` in which no sentinel has written a state."""
        if not UNWATCHED_LEAST_S <= unwatched_s < UNWATCHED_MOST_S:
            return unwatched_s >= UNWATCHED_MOST_S
        try:
            return self._container.read().left_bytes >= wait.need_bytes
        except OSError:
            return False
