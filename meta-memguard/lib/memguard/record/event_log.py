# SPDX-License-Identifier: MIT
"""One JSON line per event of a build: start, hold, release, grant, end, and the build's own start and end.

Runs in: the BitBake server; standard library only.
Covers: writing and the number of logs kept.
Does not cover: what the lines say (events).
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TextIO

from memguard.record.events import Event, as_line

KEPT_LOGS = 20


class EventLog:
    """The event log of one build; without a directory it takes all and writes nothing.

    A log that cannot be written falls silent; `failure` then says why.

    Events are kept in memory until flush(), so that a decision waits for no disk; the server's heartbeat flushes once a
    second, and no more than that is lost when the server is killed.
    """

    def __init__(self, directory: Path | None) -> None:
        self.path: Path | None = None
        self.failure: str | None = None
        self._file: TextIO | None = None
        self._pending: list[Event] = []
        if directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = _create(directory)
            self.path = Path(self._file.name)
        except OSError as error:
            self.failure = f"{directory}: {error.strerror}"
            return
        forget_oldest(directory, self.path)

    def write(self, event: Event) -> None:
        """Take one event."""
        if self._file is not None:
            self._pending.append(event)

    def flush(self) -> None:
        """Write what was taken. Never raises for a full or broken disk."""
        pending, self._pending = self._pending, []
        if self._file is None or not pending:
            return
        try:
            for event in pending:
                self._file.write(as_line(event))
            self._file.flush()
        except OSError as error:
            self.failure = f"{self.path}: {error.strerror}"
            self.close()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _create(directory: Path) -> TextIO:
    stamp = time.strftime("%Y%m%d%H%M%S")
    for number in range(1000):
        name = f"{stamp}-{number}.jsonl" if number else f"{stamp}.jsonl"
        try:
            return open(directory / name, "x", encoding="utf-8")
        except FileExistsError:
            continue
    raise FileExistsError(17, f"no free name for {stamp}", str(directory))


def forget_oldest(directory: Path, own: Path) -> None:
    """Remove all but the youngest logs; `own` stays although a clock that was set back may make it the oldest."""
    by_age = []
    with contextlib.suppress(OSError):
        for path in directory.glob("*.jsonl"):
            with contextlib.suppress(OSError):
                by_age.append((os.path.getmtime(path), path))
    others = [path for _, path in sorted(by_age) if path != own]
    for old in others[: max(0, len(others) - (KEPT_LOGS - 1))]:
        with contextlib.suppress(OSError):
            old.unlink()
