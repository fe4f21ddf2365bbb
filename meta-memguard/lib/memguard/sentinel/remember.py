# SPDX-License-Identifier: MIT
"""What the sentinel remembers of a build, for builds to come: a record of each task, and the lives of its jobs.

Runs in: the sentinel; standard library only.
Covers: what a record says of a task that was watched; the history as the sentinel uses it.
Does not cover: the database (record/history).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from memguard.channels.notes import TaskNote
from memguard.channels.state import TaskState
from memguard.model import Outcome, Record
from memguard.predict.remembered_lives import Lives
from memguard.sentinel.ward import WardUse
from memguard.sentinel.watched import KernelCounts, Watched

if TYPE_CHECKING:
    from memguard.record.history.store import History

# The tasks whose compilers are known again in the next build, with or without a pool.
COMPILES = ("do_compile", "do_install")


def record_of(run: Watched, build: str, outcome: Outcome, counts: KernelCounts, use: WardUse, now_s: float) -> Record:
    """What is remembered of a task that ends now, or of its attempt that was killed.

    counts: the kernel's as they are now; use: what the reflex has done to it.
    """
    tally, note = run.tally, run.note
    # What it has made before a kill is not made again, and its CPU time is that of all attempts.
    wall_s = run.earlier_s + run.wall_s(now_s)
    # By the kernel, at memory.high. What was stopped took what it takes in a build that is short of memory.
    was_slowed = counts.throttles > run.before.throttles
    cpu_s = max(run.end.cpu_s if run.end else 0.0, tally.cpu_s)
    if outcome is Outcome.FAILED and (counts.kills > run.before.kills or use.kills):
        outcome = Outcome.MEMORY_KILL
    elif outcome is Outcome.OK and was_slowed:
        outcome = Outcome.THROTTLED
    largest_bytes, peak_bytes = tally.largest_process_bytes, tally.peak_bytes or None
    if peak_bytes is None and run.end:
        largest_bytes = run.end.largest_bytes  # too short to be seen: all that is known of it
    return Record(
        build=build,
        recipe=note.recipe,
        version=note.version,
        task=note.task,
        machine=note.machine,
        jobs=note.jobs if run.jobs_at_peak is None else min(run.jobs_at_peak, note.most_jobs),
        peak_bytes=peak_bytes,
        largest_process_bytes=largest_bytes,
        # How long it takes by itself: the next one may not be stopped.
        wall_s=round(max(wall_s - use.lost_s, min(wall_s, cpu_s / run.most_jobs)), 3),
        cpu_s=round(cpu_s, 3),
        outcome=outcome,
        per_job_bytes=tally.per_job_bytes,
        serial_bytes=tally.serial_bytes if tally.most_compilers > 1 else None,
        kind=note.kind,
    )


def lost_record(task: TaskState, build: str) -> Record:
    """What is remembered of the heaviest task of a build that was killed as a whole."""
    return Record(
        build=build,
        recipe=task.recipe,
        version=task.version,
        task=task.task,
        machine=task.machine,
        jobs=task.jobs,
        peak_bytes=task.peak_bytes,
        largest_process_bytes=0,
        wall_s=0.0,
        cpu_s=0.0,
        outcome=Outcome.MEMORY_KILL,
        kind=task.kind,
    )


def _has_lives(note: TaskNote) -> bool:
    """Whether the lives of a task's jobs are remembered; those that only try the compiler have the same few names."""
    return bool(note.pool) or note.task.startswith(COMPILES)


class Memory:
    """The history of tasks; without one, or under a Python without SQLite, it takes all and gives nothing."""

    def __init__(self, path: str, most_bytes: int, warn: Callable[[str], None]) -> None:
        """path: the database, "" for none; most_bytes: what it may grow to. Says by `warn` what is wrong with it."""
        self._began_s = time.time()
        self._history: History | None = None
        if not path:
            return
        try:
            from memguard.record.history.store import History
        except ImportError as error:
            warn(f"nothing is remembered of this build: {error}")
            return
        self._history = History(Path(path), most_bytes, warn=warn)

    def add(self, records: Sequence[Record]) -> None:
        """Remember tasks that have ended."""
        if self._history is not None:
            self._history.add(records, self._began_s)

    def lives(self, note: TaskNote) -> Lives:
        """Those of a task's jobs in earlier builds."""
        if self._history is None or not _has_lives(note):
            return Lives()
        return Lives.found(self._history.lives(note.recipe, note.task))

    def add_lives(self, note: TaskNote, lives: Lives) -> None:
        """Add those of this build to what is remembered by now, perhaps by another build of the same."""
        if self._history is not None and _has_lives(note) and lives.has_news:
            known = self.lives(note)
            known.take(lives)
            self._history.remember_lives(note.recipe, note.task, known.packed())

    def close(self) -> None:
        """Close the database."""
        if self._history is not None:
            self._history.close()
