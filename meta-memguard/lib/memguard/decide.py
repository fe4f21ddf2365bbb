# SPDX-License-Identifier: MIT
"""Which task may start now, and with how many jobs.

Runs in: the BitBake server and every simulation; pure, no clock, no file.
Covers: admission, with a reservation for the oldest held task.
Does not cover: running tasks; what the memory is (sense) or will be (predict).
See also: docs/design.md, "Admit".
"""

from __future__ import annotations

from dataclasses import dataclass

from memguard.model import Grant, Policy, Reading, Task, Verdict
from memguard.units import format_bytes


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
    """

    reading: Reading
    policy: Policy
    idle_bytes: int
    granted_bytes: int = 0
    head: Task | None = None
    passed_bytes: int = 0
    growth_bytes: int = 0
    emergency: str = ""

    @property
    def budget_bytes(self) -> int:
        """What tasks may use together: the ceiling less the reserve and what is used when none runs."""
        return self._usable_bytes - self._resting_bytes

    @property
    def free_bytes(self) -> int:
        """What one more task may use: the budget less what runs, as predicted or as seen, whichever is more.

        Tasks that outgrew their grants are only seen in use; to that is added what others will still grow by. Shmem is
        nobody's growth and counts on top of the grants.
        """
        return self._usable_bytes - max(self._expected_bytes, self.reading.used_bytes + self.growth_bytes)

    @property
    def spare_bytes(self) -> int | None:
        """What may pass the head without pushing back its start; None when nothing is kept for it.

        How long a task will run is not known here, so whatever passes is taken to run for ever: all of it must
        fit beside the head, and so must what is in use beyond all grants: lighter tasks would otherwise pass for
        ever on memory that a server or a daemon has grown into.
        """
        if self.head is None or not self.fits_empty(self.head):
            return None
        head_bytes = self.head.footprint.peak_bytes(self.fewest_jobs(self.head))
        outgrown_bytes = max(0, self.reading.used_bytes - self._expected_bytes)
        return self.budget_bytes - head_bytes - self.passed_bytes - outgrown_bytes

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
    room = situation.free_bytes
    spare = situation.spare_bytes
    head = situation.head
    is_passing = spare is not None and head is not None and head.tid != task.tid
    if is_passing and spare is not None:
        room = min(room, spare)
    jobs = task.footprint.jobs_within(room, task.wanted_jobs)
    if jobs >= task.wanted_jobs:
        return Verdict("it fits", _grant(task, jobs))
    if jobs >= situation.fewest_jobs(task):
        return Verdict(f"{jobs} of {task.wanted_jobs} jobs fit into {format_bytes(room)}", _grant(task, jobs))
    need = format_bytes(task.footprint.peak_bytes(situation.fewest_jobs(task)))
    if is_passing and room < situation.free_bytes:
        return Verdict(f"needs {need}, which would delay {head}")
    return Verdict(f"needs {need}, {format_bytes(max(0, room))} fit")


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


def _grant(task: Task, jobs: int) -> Grant:
    return Grant(jobs=jobs, bytes=task.footprint.peak_bytes(jobs))
