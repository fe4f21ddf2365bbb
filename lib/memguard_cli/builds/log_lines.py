# SPDX-License-Identifier: MIT
"""Lines of a build's logs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memguard.units import MIB

# The newest log that this version knows; a log of a newer one says so in its first line.
FORMAT = 1
_LONGEST_NAME = 500
LONGEST_LINE_BYTES = MIB
_MOST = 1 << 60  # bytes or seconds; more is a damaged log
ACTS = ("withdraw", "stop", "wake", "kill", "retry")
_EVENTS = ("build_start", "hold", "release", "grant", "extend", "start", "end", "build_end")


class Lines:
    """The JSON objects of one log, and what is wrong with its other lines."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._bad: list[int] = []
        self._is_torn = False
        self._unknown: Counter[str] = Counter()
        self._format = FORMAT

    def read(self) -> Iterator[dict[str, Any]]:
        """Objects with a known event and a time, in the order of the log. Raises OSError."""
        with open(self._path, "rb") as file:
            while line := file.readline(LONGEST_LINE_BYTES):
                self.count += 1
                event = parse_line(line)
                if event is None:
                    self._bad.append(self.count)
                    self._is_torn = not line.endswith(b"\n")
                    continue
                told = event.get("format", event.get("version"))
                if type(told) is int and told > self._format:
                    self._format = told
                name = event["event"]
                if name in _EVENTS or name in ACTS or name in ("reading", "task"):
                    yield event
                else:
                    self._unknown[text_in(name)[:40]] += 1

    def remarks(self) -> list[str]:
        """What was passed over, in sentences."""
        said = []
        if self._format > FORMAT:
            said.append(
                f"{self._path} is of a newer version (format {self._format}, this command knows {FORMAT}): what is new "
                "in it is not shown; update meta-memguard where you run this command"
            )
        elif self._unknown:
            kinds = ", ".join(sorted(self._unknown)[:3])
            said.append(
                f"{self._path} has {sum(self._unknown.values()):,} events that this version does not know ({kinds}), "
                "which are not shown; update meta-memguard where you run this command"
            )
        torn = self._is_torn and self._bad[-1] == self.count
        bad = self._bad[:-1] if torn else self._bad
        if bad:
            places = ", ".join(map(str, bad[:3])) + (", ..." if len(bad) > 3 else "")
            lines = "1 line that is no event" if len(bad) == 1 else f"{len(bad):,} lines that are no events"
            said.append(f"{self._path} has {lines} (line {places}), passed over")
        if torn:
            said.append(f"the last line of {self._path} is half-written: its writer was killed, or is writing now")
        return said


def parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or number_in(event.get("time")) is None:
        return None
    return event


def text_in(value: object) -> str:
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""


def number_in(value: object) -> float | None:
    """A finite number of a believable size, None for anything else; true is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -_MOST < value < _MOST and math.isfinite(value) else None


def whole_in(value: object) -> int | None:
    number = number_in(value)
    return None if number is None or number < 0 else int(number)
