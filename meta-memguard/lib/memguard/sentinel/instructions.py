# SPDX-License-Identifier: MIT
"""What happens to the sentinel, and what it answers: stimuli in, instructions out.

Runs in: the sentinel; pure.
Covers: each as a small dataclass.
Does not cover: making stimuli and performing instructions (process), answering the ones with the others (sentinel).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from memguard.channels.neighbours import Entry
from memguard.channels.notes import Note, TaskNote
from memguard.channels.state import State
from memguard.decide.moment import Job
from memguard.model import Kill, Reading, Record
from memguard.record.events import ReadingsEvent
from memguard.sense.proc_files import ProcessId
from memguard.sentinel.ward import Sight, Ward, WardUse
from memguard.sentinel.watched import Instant, KernelCounts

# -- stimuli -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """At the start a state lies there. living: leaders of its tasks that are there still."""

    at: Instant
    counts: KernelCounts
    left: State
    living: Collection[ProcessId] = ()


@dataclass(frozen=True)
class Heard:
    """Notes have come. counts: the kernel's, read after them; reading: of the container as it is now."""

    at: Instant
    counts: KernelCounts
    notes: Sequence[Note]
    reading: Reading | None = None


@dataclass(frozen=True)
class Looked:
    """All tasks were looked at, and the reflex has acted.

    gone:   the tasks whose process has ended.
    notes:  those that have come since: a task says how it ended, and is gone.
    counts: the kernel's, read after them.
    uses:   what the reflex knows of its wards, by tid.
    """

    at: Instant
    counts: KernelCounts
    sight: Sight
    gone: Collection[ProcessId] = ()
    notes: Sequence[Note] = ()
    uses: Mapping[str, WardUse] = field(default_factory=dict)


@dataclass(frozen=True)
class Killing:
    """A job is about to be killed.

    outputs: the files it was writing; used_bytes: what is used now; beside_bytes: what the largest job beside it has.
    """

    at: Instant
    tid: str
    job: Job
    outputs: tuple[str, ...]
    used_bytes: int
    reading: Reading
    beside_bytes: int = 0


@dataclass(frozen=True)
class ServerLost:
    """The server is gone and has said nothing; notes that have come until then."""

    at: Instant
    counts: KernelCounts
    notes: Sequence[Note] = ()


@dataclass(frozen=True)
class Closed:
    """All is over: the reflex has let go of all tasks, and nothing is stopped any more."""

    at: Instant
    counts: KernelCounts


Stimulus = Union[Found, Heard, Looked, Killing, ServerLost, Closed]

# -- instructions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BeginWard:
    """Let the reflex take charge of a task. tokens: those that a sentinel before this one left in its pool."""

    note: TaskNote
    ward: Ward
    tokens: int | None = None


@dataclass(frozen=True)
class ChangeWard:
    """A task may run another number of jobs."""

    tid: str
    most_jobs: int


@dataclass(frozen=True)
class RenewWard:
    """A task runs anew after a kill: no process of it holds a token."""

    tid: str


@dataclass(frozen=True)
class EndWard:
    """A task has ended, and needs no notes of kills any more. has_lives: what its jobs took is remembered."""

    note: TaskNote
    has_lives: bool


@dataclass(frozen=True)
class OfferToKernel:
    """Let the kernel, should it kill, choose this process first. share: of the limit, what the task is granted."""

    pid: int
    share: float


@dataclass(frozen=True)
class GiveKillNote:
    """Leave a note of a kill for the task of this mark."""

    mark: str
    kill: Kill


@dataclass(frozen=True)
class RunCommand:
    """Run the user's command for when memory runs out. wanted_bytes: what a held task lacks; None before a kill."""

    limit_bytes: int | None
    used_bytes: int
    recipe: str
    task: str
    wanted_bytes: int | None = None


@dataclass(frozen=True)
class Remember:
    """Add records to the history."""

    records: tuple[Record, ...]


@dataclass(frozen=True)
class WriteLine:
    """Write a line to the readings."""

    event: ReadingsEvent


@dataclass(frozen=True)
class Publish:
    """Write the state, for the server and whoever looks."""

    state: State


@dataclass(frozen=True)
class Announce:
    """Let other builds under the same limit know what this one does."""

    entry: Entry


Instruction = Union[
    Announce,
    BeginWard,
    ChangeWard,
    RenewWard,
    EndWard,
    OfferToKernel,
    GiveKillNote,
    RunCommand,
    Remember,
    WriteLine,
    Publish,
]
