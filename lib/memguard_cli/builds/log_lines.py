# SPDX-License-Identifier: MIT
"""The lines of one log of a build: a file -> events, and what is wrong with the other lines.

Runs in: outside BitBake.
Covers: half-written lines, lines that are no events, and those of a version that knows more, each counted and said.
Does not cover: what the events mean together (assemble), their fields (memguard.record.events).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from memguard.record.events import Event, UnknownEvent, parse
from memguard.units import MIB

_LONGEST_LINE_BYTES = MIB
_LAST_BYTES = 4096  # the last event of a log takes less
_LONGEST_KIND = 40


class Lines:
    """One log; `count` is the number of lines read so far."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._bad: list[int] = []
        self._is_torn = False
        self._unknown: Counter[str] = Counter()

    def read(self) -> Iterator[Event]:
        """The events, in the order of the log. Raises OSError."""
        with open(self._path, "rb") as file:
            while line := file.readline(_LONGEST_LINE_BYTES):
                self.count += 1
                try:
                    yield parse(line)
                except UnknownEvent as kind:
                    self._unknown[str(kind)[:_LONGEST_KIND]] += 1
                except ValueError:
                    self._bad.append(self.count)
                    self._is_torn = not line.endswith(b"\n")

    def remarks(self) -> list[str]:
        """What was passed over, in sentences."""
        said = []
        if self._unknown:
            kinds = ", ".join(sorted(self._unknown)[:3])
            said.append(
                f"{self._path} has {sum(self._unknown.values()):,} events that this version does not know ({kinds}), "
                "which are not shown; update meta-memguard where you run this command"
            )
        torn = self._is_torn and self._bad[-1] == self.count
        bad = self._bad[:-1] if torn else self._bad
        if bad:
            places = ", ".join(map(str, bad[:3])) + (", ..." if len(bad) > 3 else "")
            lines = "1 line that is not an event" if len(bad) == 1 else f"{len(bad):,} lines that are not events"
            said.append(f"{self._path} has {lines} (line {places}), skipped")
        if torn:
            said.append(f"the last line of {self._path} is half-written: its writer was killed, or is writing now")
        return said


def first_event(path: Path) -> Event | None:
    """What the first line of a log says, None where it is no event. Raises OSError."""
    with open(path, "rb") as file:
        return _event(file.readline(_LONGEST_LINE_BYTES))


def last_event(path: Path) -> Event | None:
    """What the last line of a log says, None where it is no event. Raises OSError."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LAST_BYTES))
        return _event(file.read().rstrip(b"\n").rpartition(b"\n")[2])


def events_in_tail(path: Path, tail_bytes: int) -> Iterator[Event]:
    """The events in the last bytes of a log, none of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - tail_bytes))
            while line := file.readline(_LONGEST_LINE_BYTES):
                if event := _event(line):
                    yield event
    except OSError:
        return


def _event(line: bytes) -> Event | None:
    try:
        return parse(line)
    except ValueError:
        return None
