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
_HINT = re.compile(r"\bKilled\b|signal 9|SIGKILL|exit code 137|Error 137")


@dataclass(frozen=True)
class Finding:
    """What a log says. `line` counts from 1; program, evidence and line are None where the log does not tell.

    is_certain: memory is named in words, or a named program was killed by signal 9.
    """

    verdict: str
    reason: str
    program: str | None = None
    evidence: str | None = None
    line: int | None = None
    is_certain: bool = False


def classify(lines: Iterable[str], task: str = "") -> Finding:
    """Judge a log given as lines; `task` is what they are the log of."""
    hint = None
    for number, line in enumerate(lines, 1):
        match = _KILLED.search(line)
        if match:
            program = next(filter(None, match.groups()))
            return Finding("memory", "killed by signal 9", program, line, number, is_certain=True)
        if hint is None and _HINT.search(line):
            hint = Finding("memory", "something was killed by signal 9", None, line, number)
    return hint or Finding("other", "no line tells of memory")
