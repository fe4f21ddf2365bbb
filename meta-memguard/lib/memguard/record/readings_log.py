# SPDX-License-Identifier: MIT
"""What was seen and done over a build: one line of JSON for each reading, task and action, beside the event log.

Runs in: the sentinel; standard library only.
Covers: writing, how often a reading is kept, and the number of files kept. The lines are described in docs/events.md.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, TextIO

from memguard.record.event_log import forget_oldest

# A reading a second; after an hour one in two, after three hours one in four, so that the file of a build of any length
# stays readable.
EVERY_S = 1.0
THIN_AFTER = 3600


class Readings:
    """The file of one build; "" for the path takes all and writes nothing, and so does a disk that is full."""

    def __init__(self, path: str) -> None:
        self._file: TextIO | None = None
        self._every_s = EVERY_S
        self._kept = 0
        self._next_s = 0.0
        if not path:
            return
        with contextlib.suppress(OSError):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = Path(path).open("a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            forget_oldest(Path(path).parent, Path(path))

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for another reading, by the monotonic clock."""
        return self._file is not None and now_s >= self._next_s

    def keep(self, now_s: float, **reading: Any) -> None:
        """Write one reading; `reading` are JSON values."""
        self._next_s = now_s + self._every_s
        self._kept += 1
        if self._kept >= THIN_AFTER:
            self._kept, self._every_s = 0, 2 * self._every_s
        self.write(event="reading", **reading)

    def write(self, **line: Any) -> None:
        """Write one line of JSON."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
