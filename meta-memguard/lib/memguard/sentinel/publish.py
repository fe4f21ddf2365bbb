# SPDX-License-Identifier: MIT
"""What the sentinel lets others see: the state of the build, and a line of the readings now and then.

Runs in: the sentinel; pure.
Covers: what both say, and how often they are written.
Does not cover: the files (channels/state, record/readings_log, record/metrics).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memguard.channels.neighbours import Entry
from memguard.channels.notes import NO_PROGRESS, BuildProgress
from memguard.channels.state import FRESHEN_S, IDLE_FRESHEN_S, Counts, HeldTask, Marks, State, TaskState
from memguard.decide.admit import LIGHT_BYTES
from memguard.model import Policy
from memguard.record.events import JobNow, ReadingTaken, TaskRow
from memguard.record.readings_log import Rhythm
from memguard.sentinel.others import Told, entry_of
from memguard.sentinel.ward import Sight, WardUse
from memguard.sentinel.watched import Instant, Watched

# Tasks listed in a reading, the largest; and held ones in a state.
# evidence: chosen; what people read on one screen
ROWS_MOST = 30
HELD_MOST = 60


@dataclass(frozen=True)
class Whole:
    """All that a state is made of, beside the build's name.

    uses: what the reflex knows of its wards, by tid; gone: tasks to be listed although they have ended.
    """

    at: Instant
    sight: Sight
    runs: Collection[Watched]
    uses: Mapping[str, WardUse]
    held: Iterable[HeldTask]
    counts: Counts
    events: tuple[dict[str, Any], ...] = ()
    gone: Mapping[str, TaskState] | None = None
    progress: BuildProgress = NO_PROGRESS


class Publisher:
    """The state and the readings of one build: what they say, and whether it is time for them."""

    def __init__(self, build: str, pid: int, acts: bool, policy: Policy) -> None:
        """pid: the process of the sentinel."""
        self._build, self._pid, self._mode = build, pid, "enforce" if acts else "observe"
        self._policy = policy
        self._news: tuple[object, ...] = ()
        self._published_s = 0.0
        self._rhythm = Rhythm()

    def state(self, whole: Whole) -> State:
        """The state of the build."""
        reading, moment = whole.sight.reading, whole.sight.moment
        bound = reading.bound_bytes if reading else 0
        reserve = self._policy.reserve_of(bound)
        running = {run.note.tid: task_state(run, whole.uses) for run in whole.runs if not run.ended_well}
        tasks = {**(whole.gone or {}), **running}
        waiting = [run for run in whole.runs if run.wait is not None]
        return State(
            time_s=round(whole.at.now_s, 3),
            time=whole.at.time,
            build=self._build,
            pid=self._pid,
            limit_bytes=bound,
            limit_source=reading.limit_source if reading else "",
            used_bytes=whole.sight.used_bytes,
            reserve_bytes=reserve,
            cpus=reading.cpus if reading else 0,
            mode=self._mode,
            marks=Marks(
                withdraw_bytes=bound - reserve,
                stop_bytes=bound - (moment.stop_bytes if moment else 0),
                kill_bytes=bound - (moment.kill_bytes if moment else 0),
            ),
            tasks=tasks,
            held=tuple(whole.held)[:HELD_MOST],
            stopped=sum(task.stopped for task in tasks.values()),
            rise_bytes=whole.sight.rise_bytes,
            parked_bytes=moment.parked_bytes(moment.stopped_bytes) if moment else 0,
            neighbours=whole.sight.others.builds,
            neighbours_bytes=whole.sight.others.current_bytes,
            neighbours_pending_bytes=whole.sight.others.pending_bytes,
            neighbours_cpus=whole.sight.others.cpus,
            alone=_alone(whole) or whole.sight.others.alone,
            turns={run.leader.mark: run.wait.attempt for run in waiting if run.wait and run.has_turn},
            counts=whole.counts,
            events=whole.events,
            done=whole.progress.done,
            all_tasks=whole.progress.tasks,
            left_s=whole.progress.left_s,
        )

    def entry(self, whole: Whole, pending_bytes: int, turns: int) -> Entry:
        """What other builds under the same limit are to know.

        pending_bytes: of tasks that have not begun yet; turns: how many tasks were let run again.
        """
        runs, caution, acts = whole.runs, whole.sight.caution, self._mode == "enforce"
        entry = Entry(
            cpus=round(sum(run.cpus(_use_of(run, whole.uses).stopped) for run in runs), 2),
            cpu_s=round(sum(run.usage.cpu_s for run in runs), 2),
            kills=whole.counts.killed or 0,
            turns=turns,
            pending_bytes=pending_bytes,
            alone=_alone(whole),
            reserve_bytes=caution.reserve_bytes if acts else 0,
            late_s=round(caution.late_s, 3) if acts else 0.0,
            is_pressed=caution.is_pressed and acts,
        )
        told = {
            run.note.tid: Told(run.leader, run.pending_bytes, run.works, run.is_alone, run.waiting(whole.at.now_s))
            for run in runs
        }
        return entry_of(whole.sight.moment, told, acts, entry)

    def is_due(self, state: State) -> bool:
        """Whether to publish a state: it says something new, or the last one that was published has grown old."""
        news, freshen_s = (state.tasks, state.held, state.turns), FRESHEN_S if state.tasks else IDLE_FRESHEN_S
        if news == self._news and state.time_s - self._published_s < freshen_s:
            return False
        self._news, self._published_s = news, state.time_s
        return True

    def reading(self, whole: Whole) -> ReadingTaken | None:
        """A line of the readings, with the largest tasks; None while none runs, or it is too early."""
        reading = whole.sight.reading
        if reading is None or not whole.runs or not self._rhythm.is_due(whole.at.now_s):
            return None
        largest = sorted(whole.runs, key=lambda run: -run.usage.current_bytes)[:ROWS_MOST]
        return ReadingTaken(
            whole.at.time,
            used_bytes=whole.sight.used_bytes,
            limit_bytes=reading.limit_bytes,
            reserve_bytes=self._policy.reserve_of(reading.bound_bytes),
            tasks=tuple(_row(run, _use_of(run, whole.uses)) for run in largest),
            heaviest_job=_heaviest_job(whole.runs),
        )


def _alone(whole: Whole) -> str:
    """In words, the task of this build that wants to run, or runs, with no other beside it; "" for none."""
    waiting = [run for run in whole.runs if run.wait is not None]
    return next((str(run) for run in waiting if run.is_alone or (run.wait and run.wait.alone)), "")


def task_state(run: Watched, uses: Mapping[str, WardUse]) -> TaskState:
    """One task, with all that another sentinel would need to go on."""
    use = _use_of(run, uses)
    return TaskState(
        **vars(run.note),
        state="retrying" if run.waits else "stopped" if use.stopped else "running",
        place=run.place,
        since=round(run.began, 3),
        current_bytes=run.usage.current_bytes,
        peak_bytes=run.tally.peak_bytes,
        granted_bytes=run.granted_bytes,
        job_bytes=use.job_bytes,
        tokens=use.tokens,
        compilers=len(run.usage.compilers),
        most_compilers=run.tally.most_compilers,
        stopped=use.stopped,
        cpus=run.cpus(use.stopped),
        swapped_bytes=run.usage.swapped_bytes,
    )


def _row(run: Watched, use: WardUse) -> TaskRow:
    current_bytes, compilers = run.usage.current_bytes, len(run.usage.compilers)
    return TaskRow(run.note.recipe, run.note.task, current_bytes, compilers, use.stopped, use.tokens)


def _heaviest_job(runs: Iterable[Watched]) -> JobNow | None:
    """The largest compiler of all tasks; None where all are light."""
    jobs = [(job.bytes + job.swapped_bytes, run, job) for run in runs for job in run.usage.compilers]
    size, run, job = max(jobs, key=lambda found: found[0], default=(0, None, None))
    if run is None or job is None or size < LIGHT_BYTES:
        return None
    return JobNow(run.note.recipe, run.note.task, job.source, job.name, size, round(job.age_s, 1))


def _use_of(run: Watched, uses: Mapping[str, WardUse]) -> WardUse:
    """What the reflex knows of a task; one that has just begun has an empty pool."""
    return uses.get(run.note.tid) or WardUse(tokens=0 if run.note.pool else None)
