# SPDX-License-Identifier: MIT
"""The loop that the sentinel and `memguard run` share: what a look is made of, and how long it waits for the next."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from memguard.model import Policy, Reading
from memguard.sense.container import Sensor
from memguard.sense.proc_files import ProcessId, find_process
from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Usage
from memguard.sentinel.look import MEASURE_S, Lookout
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Ward
from memguard.units import GIB


class Box(Sensor):
    """A container of 8 GiB that may be broken."""

    is_broken = False

    def read(self) -> Reading:
        if self.is_broken:
            raise OSError("no container")
        return Reading(8 * GIB, "memory.max", 1 * GIB, 0, 7 * GIB, None, None, 4.0)


def lookout(box: Box, end: int | None = None, **more: object) -> Lookout:
    """One that looks at this very process."""
    table = ProcessTable()
    reflex = Reflex(4, table.members)
    reflex.begin("self", Ward(own(), 1, 4))
    return Lookout(box, table, reflex, Policy(), end, has_trigger=False, **more)  # type: ignore[arg-type]


def own() -> ProcessId:
    """This process."""
    found = find_process(os.getpid())
    assert found
    return found


def test_a_look_senses_scans_and_acts() -> None:
    """The container, what the task takes, and what the reflex makes of both."""
    watching = lookout(Box())
    now_s = watching.sense()
    sight = watching.look({own(): "self"})
    assert (sight.now_s, sight.reading) == (now_s, Box().read())
    assert sight.usages[own()].current_bytes > 0
    assert sight.used_bytes >= 1 * GIB
    assert sight.moment is not None
    assert [task.tid for task in sight.moment.tasks] == ["self"]
    watching.close()


def test_a_container_that_cannot_be_read_is_as_it_was() -> None:
    """Tasks are measured although it was never read; what was read last counts later."""
    box = Box()
    box.is_broken = True
    watching = lookout(box)
    watching.sense()
    sight = watching.look({own(): "self"})
    assert (sight.reading, sight.moment, sight.acted) == (None, None, ())
    assert sight.usages[own()].current_bytes > 0
    for box.is_broken in (False, True):
        watching.sense()
        assert watching.look({own(): "self"}).reading == Box().read()
    watching.close()


def test_a_limit_of_the_users_own_bounds_the_reading() -> None:
    """It is known together with what the tasks take, and made anew at each look."""

    def bound(reading: Reading, usages: Mapping[ProcessId, Usage]) -> Reading:
        return replace(reading, room_bytes=reading.room_bytes - GIB, used_bytes=usages[own()].current_bytes)

    watching = lookout(Box(), bound=bound)
    for _ in range(2):
        watching.sense()
        sight = watching.look({own(): "self"})
        assert sight.reading is not None
        assert sight.reading.room_bytes == 6 * GIB
        assert sight.reading.used_bytes == sight.usages[own()].current_bytes
    watching.close()


def test_the_next_look_is_due_soon() -> None:
    """Far from the limit it comes MEASURE_S after the last one began, whatever that took."""
    watching = lookout(Box())
    for _ in range(3):
        began_s = watching.sense()
        watching.look({own(): "self"})
        time.sleep(0.1)
        assert not watching.wait()
    # A busy machine is late by a second or more, but never early.
    assert MEASURE_S - 0.01 <= time.monotonic() - began_s < MEASURE_S + 20
    watching.close()


@pytest.mark.parametrize("is_closed", [False, True])
def test_the_wait_ends_with_the_word_of_who_started_it(is_closed: bool) -> None:
    """Something is said, or there is nobody any more who could say it."""
    reader, writer = os.pipe()
    watching = lookout(Box(), reader)
    watching.sense()
    watching.look({own(): "self"})
    if not is_closed:
        os.write(writer, b"x")
    os.close(writer)
    assert watching.wait()
    watching.close()
    os.close(reader)
