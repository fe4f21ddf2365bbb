# SPDX-License-Identifier: MIT
"""What the sentinel's reflex takes for signals and pools where nothing is real.

Runs in: outside BitBake; pure.
Covers: signals and pools without processes and FIFOs.
Does not cover: what becomes of those that are meant (whoever simulates them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from memguard.act.signals import Signals
from memguard.act.token_pool import Pool
from memguard.decide.moment import Act
from memguard.sense.proc_files import ProcessId


class SimulatedSignals(Signals):
    """Signals that no process gets; `tell` hears of each."""

    def __init__(self, tell: Callable[[Act, ProcessId], None]) -> None:
        super().__init__()
        self._tell = tell

    def stop(self, target: ProcessId) -> bool:
        self.stopped.add(target)
        self._tell(Act.STOP, target)
        return True

    def wake(self, target: ProcessId) -> bool:
        self.stopped.discard(target)
        self._tell(Act.WAKE, target)
        return True

    def kill(self, target: ProcessId) -> bool:
        self.stopped.discard(target)
        self._tell(Act.KILL, target)
        return True

    def beat(self) -> None:
        """Nobody watches."""

    def keep_only(self, living: Iterable[ProcessId]) -> None:
        self.stopped &= set(living)


class SimulatedPool(Pool):
    """The pool of a task that has as many jobs as it may: all but one of those that run hold a token.

    running: how many jobs run; allow: takes how many may.
    """

    def __init__(self, running: Callable[[], int], allow: Callable[[int], None]) -> None:
        self._running, self._allow = running, allow
        self._target = 0

    @property
    def idle(self) -> int:
        return max(0, self._target - self.held)

    @property
    def held(self) -> int:
        return max(0, self._running() - 1)

    def set_tokens(self, tokens: int) -> None:
        self._target = tokens
        self._allow(1 + tokens)

    def reissue(self, lost: int) -> None:
        """Whoever is gone held none."""

    def close(self, unlink: bool = True) -> None:
        """Nothing to let go of."""
