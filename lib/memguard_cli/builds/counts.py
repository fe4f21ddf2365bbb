# SPDX-License-Identifier: MIT
"""What a build's logs count: tasks let start, held, shrunk and retried, compilers stopped and killed.

Runs in: outside BitBake.
Covers: the newest log of events and the newest of readings below MEMGUARD_DIR, read on from where the last look ended.
Does not cover: what single events say.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.state import Counts
from memguard.model import Outcome
from memguard.record.events import BuildEnded, Event, Granted, Held, Killed, Retried, Stopped, TaskMeasured, parse
from memguard_cli.builds import plain_file

_CHUNK_BYTES = 1 << 20
# A longer line is none that memguard wrote.
_LONGEST_LINE_BYTES = 1 << 16


class BuildCounts:
    """The counts of the newest build of one MEMGUARD_DIR; a log that cannot be read counts nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = BuildDirectory(directory)
        self._events, self._readings = _Log(), _Log()

    def look(self) -> Counts:
        """The counts as of now."""
        # Both logs of a build have the same name.
        name = _newest(self._directory.events)
        self._events.read_on(self._directory.events / name)
        self._readings.read_on(self._directory.readings / name)
        # A counter that is there from the beginning shows its first step, too.
        counts = self._events.counts + self._readings.counts
        end = self._events.end or BuildEnded(0.0, oom_kills=0)
        return Counts(
            granted=_total(end.granted, counts["granted"]),
            held=_total(end.held, counts["held"]),
            shrunk=_total(end.shrunk, counts["shrunk"]),
            lost=counts["lost"],
            stopped=counts["stopped"],
            killed=counts["killed"],
            retried=counts["retried"],
            oom_kills=end.oom_kills,
        )


def _total(at_end: int | None, so_far: int) -> int:
    """What the last event of a build says of the whole of it, else what was counted until now."""
    return so_far if at_end is None else at_end


def _newest(directory: Path) -> str:
    """The name of the newest log in a directory; one that no file has where there is none."""
    logs: list[tuple[int, str]] = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.endswith(".jsonl") and entry.is_file():
                    logs.append((entry.stat().st_mtime_ns, entry.name))
    return max(logs, default=(0, ".none"))[1]


class _Log:
    """One log, which grows while it is read. end: the build's last event, None as long as it is not there."""

    def __init__(self) -> None:
        self._start(None)

    def _start(self, identity: tuple[int, int] | None) -> None:
        self._identity = identity
        self._offset = 0
        self._rest = b""
        self.counts: Counter[str] = Counter()
        self.end: BuildEnded | None = None

    def read_on(self, path: Path) -> None:
        """Count what has been written since the last call, or all of a log that is another one."""
        try:
            with plain_file.opened(path) as file:
                found = os.fstat(file)
                identity = (found.st_dev, found.st_ino)
                if self._identity != identity or found.st_size < self._offset:
                    self._start(identity)
                os.lseek(file, self._offset, os.SEEK_SET)
                while chunk := os.read(file, _CHUNK_BYTES):
                    self._offset += len(chunk)
                    *lines, self._rest = (self._rest + chunk).split(b"\n")
                    self._rest = self._rest[-_LONGEST_LINE_BYTES:]
                    for line in lines:
                        with contextlib.suppress(ValueError):
                            self._count(parse(line))
        except OSError:
            self._start(None)

    def _count(self, event: Event) -> None:
        if isinstance(event, BuildEnded):
            self.end = event
        for name in _names(event):
            self.counts[name] += 1


def _names(event: Event) -> Sequence[str]:
    """The counts that an event adds one to."""
    if isinstance(event, Granted):
        return ("granted", "shrunk") if event.is_shrunk else ("granted",)
    if isinstance(event, TaskMeasured):
        return ("lost",) if event.outcome == Outcome.MEMORY_KILL.value else ()
    return _COUNTED.get(type(event), ())


_COUNTED: dict[type[Event], tuple[str]] = {
    Held: ("held",),
    Stopped: ("stopped",),
    Killed: ("killed",),
    Retried: ("retried",),
}
