# SPDX-License-Identifier: MIT
"""memguard in a simulated build of single compilers whose sentinel looks only when it may do something.

Runs in: outside BitBake; pure.
Covers: when a look may be left out, and what the server then knows of running tasks.
Does not cover: the look itself (by_compiler).

A real sentinel looks three to ten times a second, and most of the time lets things go on as they are. In a build of
hours that is what would take a simulation most of its time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from memguard.decide.chain import Chain
from memguard.decide.regulate import AMPLE_SHARE
from memguard.model import Policy as Settings
from memguard.model import Task
from memguard.sentinel.look import MEASURE_S
from memguard.sentinel.pace import LOOK_LEAST_S
from memguard.sentinel.reflex import Reflex
from memguard_cli.simulation.beliefs import Beliefs
from memguard_cli.simulation.by_compiler import MemguardByCompiler
from memguard_cli.simulation.engine import Engine
from memguard_cli.simulation.lanes import AT_ONCE_S

# Where nothing happens that calls for one, a look comes after this share of the time that all work takes on all CPUs.
PAUSE_SHARE = 1 / 400
# Of that pause where compilers that run may fill what is left, by what they will truly take.
NEAR_SHARE = 1 / 4


class _Patient(Reflex):
    """A reflex for which no look comes late."""

    @property
    def next_look_s(self) -> float:
        return math.inf


class FewerLooks(MemguardByCompiler):
    """memguard that looks when memory may fill, when a compiler ends that others wait for, and now and then."""

    reflex_type = _Patient

    def __init__(
        self,
        engine: Engine,
        order: Sequence[int],
        tasks: Sequence[Task] | Beliefs,
        settings: Settings,
        chain: Chain[int] | None,
        known: Collection[int] = (),
    ) -> None:
        super().__init__(engine, order, tasks, settings, chain, known)
        work_s = sum(profile.work_s for profile in engine.profiles)
        self._pause_s = PAUSE_SHARE * work_s / engine.container.cpus
        self._is_calm = False
        # At the last look: its time, compilers that had ended, and what was to be used; and tasks that began since.
        self._looked_s, self._ended_before, self._expected_bytes = -math.inf, 0, 0
        self._unheard: list[int] = []

    def wakes_in_s(self) -> float | None:
        if self._is_calm:
            return None
        engine, now_s, moment = self.engine, self.engine.now_s, self.reflex.moment
        soonest_s = self._looked_s + LOOK_LEAST_S - now_s
        if moment is None or self._is_waited_for:
            return max(0.0, soonest_s)
        room_bytes, compilers = engine.container.limit_bytes - engine.used_bytes - moment.stop_bytes, engine.compilers
        due_s = self._look_at_s
        if compilers.rest_bytes > room_bytes:
            # Those that run may pass the mark.
            due_s = min(due_s, self._looked_s + NEAR_SHARE * self._pause_s)
        return max(0.0, soonest_s, min(due_s - now_s, compilers.fill_in_s(room_bytes)))

    def before_time_passes(self) -> None:
        self._relax()
        soon_s = self.wakes_in_s()
        if soon_s is not None and soon_s <= AT_ONCE_S:
            self.look()

    def look(self) -> None:
        for number in self._unheard:
            if number in self._watched:
                super()._take_charge(number)
        self._unheard.clear()
        super().look()
        engine = self.engine
        self._looked_s, self._ended_before = engine.now_s, engine.compilers.ended
        self._look_at_s = max(self._look_at_s, self._looked_s + self._pause_s)
        self._expected_bytes = engine.used_bytes + self.reflex.rise_bytes

    @property
    def _is_waited_for(self) -> bool:
        """Whether a compiler has ended while others stand still, or a CPU does."""
        engine = self.engine
        has_ended = engine.compilers.ended != self._ended_before
        return has_ended and (bool(self._signals.stopped) or engine.demand < engine.container.cpus)

    def _take_charge(self, number: int) -> None:
        """The sentinel has to hear of it before the next look."""
        self._unheard.append(number)
        if self.has_pool(number):
            self._look_at_s = min(self._look_at_s, self.engine.now_s + MEASURE_S)

    def _relax(self) -> None:
        """Where all compilers that may run fit whatever they take, nothing is to be done to them: they need no look."""
        engine, compilers, reading = self.engine, self.engine.compilers, self._read()
        room_bytes = reading.left_bytes - self._settings.reserve_of(reading.bound_bytes)
        is_calm = not self._signals.stopped and not any(run.is_halted for run in compilers.tasks.values())
        asked = engine.container.jobs
        compilers.most = None
        if is_calm and compilers.may_take(asked) <= AMPLE_SHARE * room_bytes:
            compilers.most = asked
        elif is_calm and compilers.may_take(self.slots) <= room_bytes:
            compilers.most = self.slots
        if compilers.most is not None:
            for number in compilers.tasks:
                engine.set_jobs(number, self._watched[number].entry.task.wanted_jobs)
        elif self._is_calm:
            self._look_at_s = engine.now_s
        self._is_calm = compilers.most is not None

    def _look(self, is_idle: bool) -> None:
        """The server looks at what the sentinel would have seen by now: all tasks but those that have just begun."""
        engine, seen = self.engine, self._use.tasks
        rise_bytes = self._expected_bytes - engine.used_bytes
        if self._is_calm:
            rise_bytes = engine.compilers.may_take(self.slots)
        tasks = {
            str(number): self._use_of(number, run)
            for number, run in engine.runs.items()
            if self._is_calm or not run.is_compiling or str(number) in seen
        }
        self._use = replace(self._use, tasks=tasks, rise_bytes=max(0, rise_bytes))
        super()._look(is_idle)
