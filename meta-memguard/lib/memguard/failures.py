# SPDX-License-Identifier: MIT
"""Tells a memory kill from every other failure by the words of a log.

Runs in: task children and the command; standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_KILLED = re.compile(
    r"Killed signal terminated program (\S+)|(\S+) terminated with signal 9|(\S+): out of memory", re.I
)
_UNCLEAR = re.compile(r"\bKilled\b|signal 9|SIGKILL|exit code 137|Error 137")


@dataclass(frozen=True)
class Finding:
    """What a log says: verdict "memory", "other" or "unclear", the program, the line that tells, and its number."""

    verdict: str
    program: str | None
    evidence: str
    line: int | None


def classify(lines: Iterable[str]) -> Finding:
    """What ended the build that wrote these lines."""
    unclear = None
    for number, line in enumerate(lines, 1):
        match = _KILLED.search(line)
        if match:
            return Finding("memory", next(filter(None, match.groups())), line, number)
        if unclear is None and _UNCLEAR.search(line):
            unclear = Finding("unclear", None, line, number)
    return unclear or Finding("other", None, "", None)
