# SPDX-License-Identifier: MIT
"""The kernel's word that the container waits for memory: a PSI trigger, to be waited for with poll().

Runs in: the sentinel and `memguard run`; standard library only.
Covers: the container's own memory.pressure, where the kernel has one and lets us write to it.
Does not cover: the averages (container), which say what was; and the machine's pressure, which is not the container's.

Without swap pressure stays near zero until shortly before a kill, so it only confirms what use says.
Source of the format: Documentation/accounting/psi.rst, "Monitoring for pressure thresholds".
"""

from __future__ import annotations

import contextlib
import os
import select

# 150 ms of waiting within a second, by any task. An unprivileged process may only ask for windows of two seconds.
_TRIGGERS = (b"some 150000 1000000\0", b"some 300000 2000000\0")


class PressureTrigger:
    """A trigger on a memory.pressure file; `file` is None where there is none to be had.

    Poll `file` for POLLPRI; `took_place` then says whether it was pressure, and closes a trigger whose cgroup is gone.
    """

    def __init__(self, path: str | None) -> None:
        self.file: int | None = None
        if path is None:
            return
        for trigger in _TRIGGERS:
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(file, trigger)
                except OSError:
                    os.close(file)
                    continue
                self.file = file
                return

    def took_place(self, events: int) -> bool:
        """Whether poll()'s events for `file` say that the threshold was passed."""
        if events & select.POLLERR:
            self.close()
        return bool(events & select.POLLPRI) and not events & select.POLLERR

    def close(self) -> None:
        """Give the trigger back."""
        if self.file is not None:
            os.close(self.file)
            self.file = None
