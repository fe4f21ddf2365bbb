# SPDX-License-Identifier: MIT
"""One loop for all that watch memory: sense the container, scan the tasks, let the reflex act, wait for the next look.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: the order of a look, when the next one is due, the kernel's word that memory is short, and the end of it all.
Does not cover: which tasks there are, and what follows from what was seen (sentinel, supervisor).
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Callable

from memguard.model import Policy, Reading
from memguard.sense.container import Sensor
from memguard.sense.pressure_trigger import PressureTrigger
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Usage
from memguard.sentinel.others import NOBODY, Others
from memguard.sentinel.pace import DOUBTED_S
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Sight

# Looks come at least this often, although memory is far from its limit: jobs are measured meanwhile.
# evidence: a compiler takes two to three seconds to half of its peak; with 500 processes, three looks a second cost 1 %
# of a core (scripts/bench sentinel).
MEASURE_S = 1 / 3
# Pressure that the kernel has reported counts for this long.
# evidence: chosen; the kernel reports pressure once in a window of a second
PRESSED_S = 1.0


class Lookout:
    """Looks at a container and the tasks in it, again and again. It closes `table`, not the others.

    end:         a file that can be read, or has ended, when there is no need to look any more.
    has_trigger: whether to wait for the kernel's word of pressure, too.
    bound:       the reading that counts, where the limit is not the container's.
    now_s:       when the last look was, by the monotonic clock.
    """

    def __init__(
        self,
        sensor: Sensor,
        table: ProcessTable,
        reflex: Reflex,
        policy: Policy,
        end: int | None = None,
        has_trigger: bool = True,
        bound: Callable[[Reading, Mapping[ProcessId, Usage]], Reading] = lambda reading, usages: reading,
    ) -> None:
        self.reading: Reading | None = None
        self._sensor, self._table, self._reflex, self._policy, self._bound = sensor, table, reflex, policy, bound
        self.now_s, self._pressed_s = time.monotonic(), float("-inf")
        self._trigger = PressureTrigger(sensor.pressure_source() if has_trigger else None)
        self._poller = select.poll()
        self._end = end
        if end is not None:
            self._poller.register(end, select.POLLIN)
        if self._trigger.file is not None:
            self._poller.register(self._trigger.file, select.POLLPRI)

    def sense(self) -> float:
        """Begin a look with the container; where that cannot be read, what was read last counts. The time it is now."""
        self.now_s = time.monotonic()
        with contextlib.suppress(OSError):
            self.reading = self._sensor.read()
        return self.now_s

    def look(self, tasks: Mapping[ProcessId, str], others: Others = NOBODY) -> Sight:
        """Look at these tasks, by their leaders, and let the reflex act; `others` are builds beside this one."""
        before = self._reflex.moment
        seems_still = before is not None and before.stalled_s >= DOUBTED_S
        usages = self._table.scan({leader: leader for leader in tasks}, is_thorough=seems_still)
        if self.reading is None:
            return Sight(self.now_s, usages=usages, others=others)
        reading = self._bound(self.reading, usages)
        if reading.swap_left_bytes and not self._policy.parks:
            reading = replace(reading, swap_left_bytes=0)
        acted = self._reflex.look(
            self.now_s,
            reading,
            self._policy.reserve_of(reading.bound_bytes),
            {tid: usages[leader] for leader, tid in tasks.items()},
            is_pressed=self.now_s - self._pressed_s < PRESSED_S,
            others=others,
        )
        seen = self._reflex
        return Sight(
            self.now_s, reading, usages, seen.used_bytes, seen.moment, acted, seen.rise_bytes, others, seen.caution
        )

    def wait(self) -> bool:
        """Wait until the next look is due, or memory is short; True where `end` says that there is none."""
        due_s = self.now_s + min(MEASURE_S, self._reflex.next_look_s)
        is_over = False
        for file, events in self._poller.poll(1000 * max(0.0, due_s - time.monotonic())):
            if file == self._end:
                is_over = True
                continue
            if self._trigger.took_place(events):
                self._pressed_s = time.monotonic()
            if self._trigger.file is None:
                self._poller.unregister(file)
        return is_over

    def close(self) -> None:
        """Give the trigger back, and close the table."""
        self._trigger.close()
        self._table.close()
