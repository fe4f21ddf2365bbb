# SPDX-License-Identifier: MIT
"""What the sentinel knows of one task.

Runs in: the sentinel; pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memguard.channels.notes import TaskEnd, TaskNote, TaskWait
from memguard.model import Outcome
from memguard.predict.remembered_lives import Lives
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Usage
from memguard.sense.tally import Tally


@dataclass
class Watched:
    """A task that runs: what it told, what it took so far, and the container's counters when it began."""

    note: TaskNote
    since_s: float
    began: float
    place: int
    kills_before: int
    throttles_before: int
    granted_bytes: int = 0
    lives: Lives = field(default_factory=Lives)
    tally: Tally = field(default_factory=Tally)
    usage: Usage = field(default_factory=Usage)
    jobs_at_peak: int | None = None
    end: TaskEnd | None = None
    wait: TaskWait | None = None
    waits_since_s: float = 0.0
    has_turn: bool = False

    @property
    def waits(self) -> bool:
        return self.wait is not None and not self.has_turn

    @property
    def is_alone(self) -> bool:
        """It runs again and wants no other beside it."""
        return self.wait is not None and self.wait.alone and self.has_turn

    @property
    def mark(self) -> str:
        return ProcessId(self.note.pid, self.note.start_ticks).mark

    def __str__(self) -> str:
        return f"{self.note.recipe} {self.note.task}"


@dataclass
class Report:
    """What the sentinel says when it ends: tasks recorded, the heaviest of them, what was done, and what went wrong."""

    recorded: int = 0
    heaviest: list[tuple[str, int]] = field(default_factory=list)
    stopped: int = 0
    killed: int = 0
    retried: int = 0
    warnings: list[str] = field(default_factory=list)


def ended_well(run: Watched) -> bool:
    return run.end is not None and run.end.outcome is Outcome.OK
