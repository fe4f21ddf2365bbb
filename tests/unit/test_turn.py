# SPDX-License-Identifier: MIT
"""How a task that is about to run again waits for its turn, with a sentinel and without."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from memguard.channels.fifo import Listener, Notes
from memguard.channels.notes import TaskWait
from memguard.channels.state import StateFile, as_object
from memguard.decide.turn import PATIENCE_S, Beside, Waiting, next_turn
from memguard.model import Reading
from memguard.task.turn import Turns
from memguard.units import GIB, MIB
from testbed.states import STATE

WAIT = TaskWait(42, 17, 4, False, 1, "cc1plus", "was killed", 3000, 1.5, 3.25, 1000)
MARK = "42-17"


class World:
    """A clock that moves when somebody sleeps, and a container; `each` happens at every look."""

    def __init__(self, directory: Path, left_bytes: int | None = 0) -> None:
        self.now_s = 1000.0
        self.notes = Notes(directory)
        self.state = StateFile(directory)
        self.left_bytes = left_bytes
        self.each: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.each()

    def read(self) -> Reading:
        if self.left_bytes is None:
            raise OSError("no container")
        return Reading(10_000, "memory.max", 0, 0, self.left_bytes, None, None, 4)

    def publish(self, turns: dict[str, int]) -> None:
        self.state.publish(replace(STATE, time_s=self.now_s, turns=turns))

    def wait(self) -> float:
        """The seconds that a wait takes."""
        began_s = self.now_s
        Turns(MARK, self.notes, self.state, self, lambda: self.now_s, self.sleep).wait_for_turn(WAIT)
        return round(self.now_s - began_s, 3)


def test_the_sentinel_gives_the_turn(tmp_path: Path) -> None:
    """A task waits as long as its mark is not named, far beyond any time limit, and goes on when it is."""
    world = World(tmp_path, left_bytes=10_000)
    listener = Listener(file := world.notes.listen())
    world.publish({MARK: 7})  # of an earlier wait
    world.each = lambda: world.publish({MARK: 1} if world.now_s > 1500 else {MARK: 7, "1-1": 1})
    assert 500 <= world.wait() <= 501
    asked = listener.read()
    assert set(asked) == {WAIT}
    assert 90 <= len(asked) <= 101
    os.close(file)


def test_without_a_sentinel_the_container_decides(tmp_path: Path) -> None:
    """Nobody tells: what is left of the container is looked at, once what was killed is gone from the counters."""
    world = World(tmp_path, left_bytes=3000)
    assert 2 <= world.wait() <= 2.5
    full = World(tmp_path, left_bytes=2999)
    full.each = lambda: setattr(full, "left_bytes", 3000 if full.now_s > 1020 else 2999)
    assert 20 <= full.wait() <= 21


def test_without_a_sentinel_no_task_waits_for_ever(tmp_path: Path) -> None:
    """A container that stays full, or that cannot be read, holds a task for a minute."""
    assert 60 <= World(tmp_path, left_bytes=0).wait() <= 61
    assert 60 <= World(tmp_path, left_bytes=None).wait() <= 61


def test_a_sentinel_that_dies_while_a_task_waits(tmp_path: Path) -> None:
    """When its state grows old the task looks for itself."""
    world = World(tmp_path, left_bytes=3000)

    def live_until_1010() -> None:
        if world.now_s < 1010:
            world.publish({})

    world.each = live_until_1010
    assert 14 <= world.wait() <= 16.5


def test_a_state_that_tells_no_turns_is_none(tmp_path: Path) -> None:
    """A sentinel of another version, or a broken file, is the same as none."""
    told = as_object(replace(STATE, turns={MARK: 1}))
    for odd in ({"turns": None}, {"turns": 3}, {"turns": {MARK: "x"}}, {"version": 3}, {"time_s": "now"}, None):
        world = World(tmp_path, left_bytes=3000)

        def write(world: World = world, odd: dict[str, Any] | None = odd) -> None:
            content = "{" if odd is None else json.dumps({**told, "time_s": world.now_s, **odd})
            (tmp_path / "state.json").write_text(content)

        world.each = write
        assert 2 <= world.wait() <= 2.5


def test_who_does_not_fit_keeps_nobody_waiting() -> None:
    """The oldest that fits has its turn, but not one that must be alone; where none works, the smallest of these."""
    large, alone = Waiting("large", 1, 900 * MIB, False, 5.0), Waiting("alone", 2, 10 * MIB, True, 5.0)
    small = Waiting("small", 3, 10 * MIB, False, 5.0)
    waiting, none, works = [small, alone, large], Beside(), Beside(runs=True, works=True)
    assert next_turn(waiting, 100 * MIB, works, since_turn_s=9.0) == "small"
    assert next_turn(waiting, 100 * MIB, works, since_turn_s=0.0) is None
    assert next_turn([alone, large], 100 * MIB, works, since_turn_s=9.0) is None
    assert next_turn(waiting, GIB, works, since_turn_s=9.0) == "large"
    assert next_turn(waiting, GIB, Beside(True, True, is_alone=True), since_turn_s=9.0) is None
    assert next_turn(waiting, 100 * MIB, none, since_turn_s=0.0) == "small"
    assert next_turn([alone, large], 100 * MIB, none, 0.0) == "alone"
    assert next_turn([alone, large], 100 * MIB, Beside(runs=True), 0.0) is None
    patient = replace(alone, waits_s=PATIENCE_S)
    assert next_turn([patient, large], 100 * MIB, Beside(runs=True), 0.0) == "alone"
    assert next_turn([large], 100 * MIB, none, 0.0) is None
    assert next_turn([large], 100 * MIB, none, 0.0, is_empty=True) == "large"
