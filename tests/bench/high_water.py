# SPDX-License-Identifier: MIT
"""The most memory that this process has had, without what it took to make the inputs of the fuzzer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class HighWater:
    """What was taken since begin(), in bytes, but not within `paused()` (proc_pid_clear_refs(5))."""

    def __init__(self) -> None:
        self._before = self._most = 0
        self._is_paused = False

    def begin(self) -> None:
        """Count from here on."""
        self._most, self._before = 0, _read(resets=True)

    @property
    def most_bytes(self) -> int:
        """The most that was taken."""
        return max(self._most, _read() - self._before)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is taken meanwhile, and what stays of it."""
        if self._is_paused:
            yield
            return
        self._is_paused = True
        self._most = self.most_bytes
        began = _read(resets=True)
        try:
            yield
        finally:
            self._is_paused = False
            self._before += max(0, _read(resets=True) - began)


def _read(resets: bool = False) -> int:
    """The most memory this process had since that was last reset, or has now."""
    with contextlib.suppress(OSError):
        if resets:
            Path("/proc/self/clear_refs").write_text("5")
    words = Path("/proc/self/status").read_text().partition("\nVmHWM:")[2].split(maxsplit=1)
    return int(words[0]) * 1024


HIGH_WATER = HighWater()
