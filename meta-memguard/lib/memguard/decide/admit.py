# SPDX-License-Identifier: MIT
"""Which task may start now, and with how many jobs.

Runs in: the BitBake server and every simulation; pure, no clock, no file.
Covers: admission, with memory kept for the oldest held task.
Does not cover: what runs and what is held (ledger); what the memory is (sense) or will be (predict).
See also: docs/internals.md, "Admit".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from memguard.model import Grant, Policy, Reading, Task, Verdict
from memguard.units import format_bytes

# A task waits for more jobs where that pays even if the wait takes this many times as long as predicted.
WAITING_MARGIN = 1.5
# A task passes a held one where it is expected to end in time even if it takes this many times as long as predicted.
PASSING_MARGIN = 1.5


@dataclass(frozen=True)
class Situation:
    """Everything an admission depends on besides the task itself.

    idle_bytes:    what the container uses when no task runs (server, workers), shmem left out.
    granted_bytes: the grants of all tasks that run, together.
    head:          the oldest held task that fits an empty container, for which memory is kept, or None.
    passed_bytes:  the grants of tasks that started while `head` was waiting.
    growth_bytes:  what running tasks are expected to take beyond what they take now: of each the grant less what was
                   measured; of one too young to be measured, all of its grant.
    emergency:     in words, why nothing may start now whatever fits; "" for no reason.
    head_bytes:    what the head waits for; 0 for the least it starts with.
    ends:          when running tasks are expected to end, in seconds from now, and the grant each then gives back, the
                   first first; empty while any of them is of unknown duration.
    """

    reading: Reading
    policy: Policy
    idle_bytes: int
    granted_bytes: int = 0
    head: Task | None = None
    passed_bytes: int = 0
    growth_bytes: int = 0
    emergency: str = ""
    head_bytes: int = 0
    ends: Sequence[tuple[float, int]] = ()

    @cached_property
    def budget_bytes(self) -> int:
        """What tasks may use together: the ceiling less the reserve and what is used when none runs."""
        return self._usable_bytes - self._resting_bytes

    @cached_property
    def free_bytes(self) -> int:
        """What one more task may use: the budget less what runs, as predicted or as seen, whichever is more.

        Tasks that outgrew their grants are only seen in use; to that is added what others will still grow by. Shmem is
        nobody's growth and counts on top of the grants.
        """
        return self._usable_bytes - max(self._expected_bytes, self.reading.used_bytes + self.growth_bytes)

    @cached_property
    def spare_bytes(self) -> int | None:
        """What may pass the head without pushing back its start; None when nothing is kept for it.

        How long a task will run is not known here, so whatever passes is taken to run for ever: all of it must
        fit beside the head, and so must what is in use beyond all grants: lighter tasks would otherwise pass for
        ever on memory that a server or a daemon has grown into.
        """
        if self.head is None or not self.fits_empty(self.head):
            return None
        outgrown_bytes = max(0, self.reading.used_bytes - self._expected_bytes)
        return self.budget_bytes - self._kept_bytes - self.passed_bytes - outgrown_bytes

    @cached_property
    def passing_bytes(self) -> int:
        """What any task but the head may use that could still run when the head can start."""
        return self.free_bytes if self.spare_bytes is None else min(self.free_bytes, self.spare_bytes)

    @cached_property
    def head_starts_s(self) -> float:
        """In how many seconds enough will have ended for the head to start, 0 where that is not known."""
        return 0.0 if self.head is None else self.frees_in_s(self._kept_bytes) or 0.0

    def frees_in_s(self, need_bytes: int) -> float | None:
        """In how many seconds `need_bytes` will be free if nothing more starts; None where that is not known."""
        missing = need_bytes - self.free_bytes
        if missing <= 0:
            return 0.0
        for ends_s, grant_bytes in self.ends:
            missing -= grant_bytes
            if missing <= 0:
                return ends_s
        return None

    @cached_property
    def _kept_bytes(self) -> int:
        """What is kept for the head."""
        if self.head is None:
            return 0
        return max(self.head_bytes, self.head.footprint.peak_bytes(self.fewest_jobs(self.head)))

    @property
    def _expected_bytes(self) -> int:
        return self._resting_bytes + self.granted_bytes

    @property
    def _usable_bytes(self) -> int:
        return self.reading.ceiling_bytes - self.policy.reserve_of(self.reading.bound_bytes)

    @property
    def _resting_bytes(self) -> int:
        return self.idle_bytes + self.reading.shmem_bytes

    def fits_empty(self, task: Task) -> bool:
        """Whether `task` fits when nothing else runs. One that does not runs when all else is done, and reserves
        nothing: nothing could run beside it at any time."""
        return task.footprint.peak_bytes(self.fewest_jobs(task)) <= self.budget_bytes

    def fewest_jobs(self, task: Task) -> int:
        """The fewest jobs `task` starts with: the policy's, or fewer where an empty container fits no more."""
        fewest = self.policy.fewest_jobs(task.wanted_jobs, self.reading.cpus)
        alone = task.footprint.jobs_within(self.budget_bytes, fewest)
        return max(1, min(fewest, alone))


def admit(task: Task, situation: Situation) -> Verdict:
    """May `task` start now? With all its jobs, else with fewer, else it is held, with the reason in words."""
    if situation.emergency:
        return Verdict(situation.emergency)
    room, head = situation.free_bytes, situation.head
    spare = None if head is None or head.tid == task.tid else situation.spare_bytes
    if spare is not None and not _ends_before_head(task, situation):
        room = min(room, spare)
    jobs = task.footprint.jobs_within(room, task.wanted_jobs)
    if jobs >= task.wanted_jobs:
        return Verdict("it fits", _grant(task, jobs))
    fewest = situation.fewest_jobs(task)
    if jobs >= fewest:
        better = _jobs_worth_waiting(task, jobs, situation)
        if better:
            need_bytes = task.footprint.peak_bytes(better)
            return Verdict(
                f"with {better} jobs instead of {jobs} it ends sooner, although it waits", None, False, need_bytes
            )
        return Verdict(f"{jobs} of {task.wanted_jobs} jobs fit into {format_bytes(room)}", _grant(task, jobs))
    need_bytes = task.footprint.peak_bytes(fewest)
    need = format_bytes(need_bytes)
    if spare is not None and room < situation.free_bytes:
        return Verdict(f"needs {need}, which would delay {head}", need_bytes=need_bytes)
    return Verdict(f"needs {need}, {format_bytes(max(0, room))} fit", need_bytes=need_bytes)


def admit_alone(task: Task, situation: Situation) -> Verdict:
    """Start `task` although it may not fit: nothing else runs, and a build that starts nothing has failed.

    The liveness law. It gets the jobs that fit, at least one, and all that stay below a serial peak that comes anyway.
    """
    room = max(situation.free_bytes, task.footprint.serial_bytes)
    jobs = max(1, task.footprint.jobs_within(room, task.wanted_jobs))
    reason = f"nothing else runs, so with {jobs} of {task.wanted_jobs} jobs"
    return Verdict(reason, _grant(task, jobs), is_forced=True)


def extend(task: Task, grant: Grant, situation: Situation) -> Grant | None:
    """More jobs for a task that runs with fewer than it wants and can take more while it runs; None for no more.

    Nobody waits for memory: what is held has the first claim on it.
    """
    if grant.jobs >= task.wanted_jobs or situation.emergency or situation.head is not None:
        return None
    jobs = task.footprint.jobs_within(grant.bytes + max(0, situation.free_bytes), task.wanted_jobs)
    return _grant(task, jobs) if jobs > grant.jobs else None


def _jobs_worth_waiting(task: Task, jobs: int, situation: Situation) -> int:
    """With how many jobs a task ends sooner if it waits for their memory; 0 where it does not, or nobody knows.

    A grant holds for the whole run, so a long build that starts with few jobs is late by far more than the wait.
    """
    if task.duration is None:
        return 0
    better = task.footprint.jobs_within(situation.budget_bytes, task.wanted_jobs)
    if better <= jobs:
        return 0
    wait_s = situation.frees_in_s(task.footprint.peak_bytes(better))
    if wait_s is None or wait_s * WAITING_MARGIN + task.duration.seconds(better) >= task.duration.seconds(jobs):
        return 0
    return better


def is_worth_asking(situation: Situation) -> Callable[[Task, int, float], bool]:
    """Whether admit() may let a task start, by the least it needs and the least time it takes.

    Thousands of tasks may be held, and all of them are asked about whenever something changes: what is looked at here
    rules out most of them.
    """
    passing_bytes, free_bytes = situation.passing_bytes, situation.free_bytes
    passing_s = situation.head_starts_s / PASSING_MARGIN
    head = None if situation.head is None else situation.head.tid

    def is_worth(task: Task, least_bytes: int, shortest_s: float) -> bool:
        return least_bytes <= passing_bytes or (
            least_bytes <= free_bytes and (shortest_s <= passing_s or task.tid == head)
        )

    return is_worth


def shortest_s(task: Task) -> float:
    """How long a task takes at least, for ever where that is not known."""
    return task.duration.seconds(task.wanted_jobs) if task.duration is not None else inf


def _ends_before_head(task: Task, situation: Situation) -> bool:
    """Whether a task that passes the head is expected to have ended when the head can start (EASY backfilling)."""
    if task.duration is None or not situation.head_starts_s:
        return False
    jobs = task.footprint.jobs_within(situation.free_bytes, task.wanted_jobs)
    return jobs > 0 and task.duration.seconds(jobs) * PASSING_MARGIN <= situation.head_starts_s


def _grant(task: Task, jobs: int) -> Grant:
    return Grant(jobs=jobs, bytes=task.footprint.peak_bytes(jobs))
