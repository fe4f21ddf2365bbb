# SPDX-License-Identifier: MIT
"""What a build's logs count: tasks let start, held, shrunk and retried, compilers stopped and killed.

Runs in: outside BitBake.
Covers: the newest log of events and the newest of readings below MEMGUARD_DIR, read on from where the last look ended.
Does not cover: what single events say.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memguard_cli.builds import plain_file

_CHUNK_BYTES = 1 << 20
# A longer line is none that memguard wrote.
_LONGEST_LINE_BYTES = 1 << 16

# The events of the readings' log that each add one to a count.
_COUNTED = {"stop": "stopped", "kill": "killed", "retry": "retried"}
# What the last event of a build says of the whole of it.
_TOTALS = ("granted", "held", "shrunk", "oom_kills")


class BuildCounts:
    """The counts of the newest build of one MEMGUARD_DIR; a log that cannot be read counts nothing."""

    def __init__(self, directory: Path) -> None:
        self._events = directory / "events"
        self._readings = directory / "readings"
        self._logs = (_Log(), _Log())

    def look(self) -> dict[str, int]:
        """The counts as of now, by the names they have in the sentinel's state."""
        # A counter that is there from the beginning shows its first step, too.
        total: Counter[str] = Counter(dict.fromkeys((*_COUNTED.values(), *_TOTALS, "lost"), 0))
        # Both logs of a build have the same name.
        name = _newest(self._events)
        for log, directory in zip(self._logs, (self._events, self._readings)):
            log.read_on(directory / name)
            total.update(log.counts)
        for name in {name for log in self._logs for name in log.unknown}:
            del total[name]
        return dict(total)


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
    """One log, which grows while it is read."""

    def __init__(self) -> None:
        self._start(None)

    def _start(self, identity: tuple[int, int] | None) -> None:
        self._identity = identity
        self._offset = 0
        self._rest = b""
        self.counts: dict[str, int] = {}
        self.unknown: set[str] = set()

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
                        self._count(line)
        except OSError:
            self._start(None)

    def _count(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        kind = event.get("event")
        if kind == "build_end":
            self.counts.update({name: event[name] for name in _TOTALS if _is_count(event.get(name))})
            self.unknown = {name for name in _TOTALS if name in event and event[name] is None}
        for name in _names(kind, event):
            self.counts[name] = self.counts.get(name, 0) + 1


def _names(kind: Any, event: Mapping[str, Any]) -> list[str]:
    """The counts that an event adds one to."""
    if kind == "grant":
        jobs, wanted = event.get("jobs"), event.get("wanted_jobs")
        is_shrunk = isinstance(jobs, int) and isinstance(wanted, int) and jobs < wanted
        return ["granted", "shrunk"] if is_shrunk else ["granted"]
    if kind == "task":
        return ["lost"] if event.get("outcome") == "memory-kill" else []
    if kind == "hold":
        return ["held"]
    return [_COUNTED[kind]] if isinstance(kind, str) and kind in _COUNTED else []


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
