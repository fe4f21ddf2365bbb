# SPDX-License-Identifier: MIT
"""The words of the reflex: one task that it regulates, what it knows of it, what it did, and what one look saw.

Runs in: the sentinel and `memguard run`; pure.
Covers: what passes between the reflex, the loop, and those that use them.
Does not cover: moments and actions (decide/moment).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable

from memguard.decide.moment import Action, Caution, Moment
from memguard.model import Reading
from memguard.record.events import JobRow
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Usage
from memguard.sentinel.others import NOBODY, Others


@dataclass(frozen=True)
class Ward:
    """One task to regulate.

    leader:        its process.
    place:         counts up; the oldest task has the smallest.
    most_jobs:     what it may run at once, its implicit job included.
    job_bytes:     what one job is thought to take, None where nothing is known.
    largest_bytes: what the largest took in earlier builds, 0 where that is not known.
    pool:          the path of its pool, "" where it has none.
    """

    leader: ProcessId
    place: int
    most_jobs: int
    job_bytes: int | None = None
    largest_bytes: int = 0
    pool: str = ""
    may_stop: bool = True
    may_kill: bool = True


@dataclass(frozen=True)
class WardUse:
    """What the reflex knows of a ward.

    tokens:       those of its pool, None where it has none.
    job_bytes:    what one more job of it is expected to take.
    stopped:      how many of its processes are stopped now.
    stopped_s:    how long any of its processes was stopped so far.
    lost_s:       the same, of which counts the share of its jobs that was stopped: by so much it ends later.
    kills:        how often jobs of it were killed.
    heaviest:     gives the jobs of it that took most so far; asked once, at its end.
    """

    tokens: int | None = None
    job_bytes: int = 0
    stopped: int = 0
    stopped_s: float = 0.0
    lost_s: float = 0.0
    kills: int = 0
    heaviest: Callable[[], tuple[JobRow, ...]] = tuple


@dataclass(frozen=True)
class Acted:
    """What was done: the action, and of a change of tokens how many there were before."""

    action: Action
    tokens_before: int = 0


@dataclass(frozen=True)
class Sight:
    """What one look saw, and what was done at once.

    now_s:      the monotonic clock.
    reading:    the container, None as long as it could not be read.
    usages:     what each task takes, by its leader.
    used_bytes: what is used, corrected by processes, which say sooner than the kernel's sums what they take.
    moment:     what the reflex has judged, None where it could not.
    rise_bytes: what all tasks are expected to take together beyond what they take now, when that is most.
    others:     the builds beside this one.
    caution:    how carefully this one judges memory by itself.
    """

    now_s: float
    reading: Reading | None = None
    usages: Mapping[ProcessId, Usage] = field(default_factory=dict)
    used_bytes: int = 0
    moment: Moment | None = None
    acted: Sequence[Acted] = ()
    rise_bytes: int = 0
    others: Others = NOBODY
    caution: Caution = field(default_factory=Caution)
