# SPDX-License-Identifier: MIT
"""What was seen and done over a build: one line for each reading, task and action, beside the event log.

Runs in: the sentinel; standard library only.
Covers: writing, how often a reading is kept, and the number of files kept.
Does not cover: what the lines say (events).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO

from memguard.channels.plain_file import open_plain
from memguard.record.event_log import forget_oldest
from memguard.record.events import ReadingsEvent, as_line

# A reading a second; after an hour one in two, after three hours one in four, so that the file of a build of any length
# stays readable.
EVERY_S = 1.0
THIN_AFTER = 3600


class Rhythm:
    """When to keep a reading, over a build of any length; pure."""

    def __init__(self) -> None:
        self._every_s = EVERY_S
        self._kept = 0
        self._next_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for another reading, by the monotonic clock; where it is, the next one is due later."""
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        self._kept += 1
        if self._kept >= THIN_AFTER:
            self._kept, self._every_s = 0, 2 * self._every_s
        return True


class Readings:
    """The file of one build; "" for the path takes all and writes nothing, and so does a disk that is full."""

    def __init__(self, path: str) -> None:
        self._file: TextIO | None = None
        if not path:
            return
        with contextlib.suppress(OSError):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            file = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._file = open(file, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            forget_oldest(Path(path).parent, Path(path))

    def write(self, event: ReadingsEvent) -> None:
        """Write one line."""
        if self._file is None:
            return
        try:
            self._file.write(as_line(event))
            self._file.flush()
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
