# SPDX-License-Identifier: MIT
"""What the sentinel knows of a build's running tasks, and what is to be done as things happen.

Runs in: the sentinel; pure: stimuli in, instructions out, no clock, no file, no process.
Covers: tasks that begin, are granted more, lose a job, wait for their turn and end; counts, records, lines and states.
Does not cover: looking and performing (process), what is done to running tasks at once (reflex, regulate), which task
starts (the server).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from memguard.channels.notes import (
    NO_PROGRESS,
    BuildProgress,
    Note,
    TaskEnd,
    TaskGrant,
    TaskHold,
    TaskNote,
    TaskWait,
    TaskWant,
)
from memguard.channels.state import KILLED_SHARE, Counts, HeldTask, TaskState
from memguard.decide.moment import Act
from memguard.model import Kill, Mode, Outcome, Policy, Reading, Record
from memguard.record.events import (
    Deed,
    Held,
    JobEvent,
    JobRow,
    Killed,
    Retried,
    Stopped,
    TaskMeasured,
    Withdrawn,
    Woken,
    as_object,
)
from memguard.sense.proc_files import ProcessId
from memguard.sentinel.instructions import (
    Announce,
    BeginWard,
    ChangeWard,
    Closed,
    EndWard,
    Found,
    GiveKillNote,
    Heard,
    Instruction,
    Killing,
    Looked,
    OfferToKernel,
    Publish,
    Remember,
    RenewWard,
    RunCommand,
    Stimulus,
    WriteLine,
)
from memguard.sentinel.publish import Publisher, Whole, task_state
from memguard.sentinel.remember import lost_record, record_of
from memguard.sentinel.turn_queue import TurnQueue
from memguard.sentinel.ward import Acted, Sight, WardUse
from memguard.sentinel.watched import Grants, Instant, KernelCounts, Outside, Report, Watched

# The events that a state lists, and the tasks that a report does.
# evidence: chosen; what people read on one screen
EVENTS_MOST = 20
HEAVIEST_MOST = 5
# Tasks that have gone this long before their server's end was seen went with it; and the most of them.
# evidence: chosen; BitBake's workers end within it when their server is killed
GONE_S = 5.0
GONE_MOST = 30

_JOB_EVENTS: dict[Act, type[JobEvent]] = {Act.STOP: Stopped, Act.WAKE: Woken, Act.KILL: Killed}


class Sentinel:
    """The tasks of one build. handle() takes in what has happened and says what is to be done."""

    def __init__(self, build: str, policy: Policy, acts: bool, pid: int, counts: KernelCounts) -> None:
        """acts: whether running tasks may be touched; pid: the sentinel's process; counts: the kernel's until now."""
        self._build, self._policy, self._acts = build, policy, acts
        self._publisher = Publisher(build, pid, acts, policy)
        self._at, self._kernel, self._kernel_before = Instant(0.0, 0.0), counts, counts
        self._reading: Reading | None = None
        self._sight = Sight(0.0)
        self._uses: Mapping[str, WardUse] = {}
        self._watched: dict[ProcessId, Watched] = {}
        self._leaders: dict[str, ProcessId] = {}
        self._grants = Grants()
        self._held: dict[str, HeldTask] = {}
        self._counts: Counter[str] = Counter()
        self._heaviest: list[tuple[str, int]] = []
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MOST)
        self._gone: deque[tuple[float, str, TaskState]] = deque(maxlen=GONE_MOST)
        self._places, self._turns, self._progress = 0, TurnQueue(), NO_PROGRESS
        self._outside = Outside()

    def handle(self, stimulus: Stimulus) -> list[Instruction]:
        """Take in what has happened; what is to be done, in this order."""
        if isinstance(stimulus, Killing):
            return list(self._give_kill_note(stimulus))
        self._at, self._kernel = stimulus.at, stimulus.counts
        if isinstance(stimulus, Looked):
            return list(self._take_look(stimulus))
        if isinstance(stimulus, Heard):
            self._reading = stimulus.reading
            return list(self._take_notes(stimulus.notes))
        if isinstance(stimulus, Found):
            return list(self._take_over(stimulus))
        if isinstance(stimulus, Closed):
            self._uses = {}  # the reflex has let go of all
            return list(self._end(list(self._watched.values())))
        return [*self._take_notes(stimulus.notes), *self._publish(is_last=True)]

    @property
    def tasks(self) -> dict[ProcessId, str]:
        """The tasks that are watched: their leaders, and their tids."""
        return {leader: run.note.tid for leader, run in self._watched.items()}

    @property
    def counts(self) -> Counts:
        """What was done in this build so far."""
        names = ("granted", "held", "shrunk", "lost", "stopped", "killed", "retried")
        oom_kills = max(0, self._kernel.kills - self._kernel_before.kills)
        return Counts(**{name: self._counts[name] for name in names}, oom_kills=oom_kills)

    def report(self, warnings: Iterable[str] = ()) -> Report:
        """What is said at the end; `warnings` are what else went wrong."""
        counts = {name: self._counts[name] for name in ("recorded", "stopped", "killed", "retried")}
        return Report(heaviest=tuple(self._heaviest), warnings=tuple(warnings), **counts)

    # -- what others say ---------------------------------------------------------------------------------------------

    def _take_notes(self, notes: Sequence[Note]) -> Iterator[Instruction]:
        for note in notes:
            if isinstance(note, TaskGrant):
                self._grant(note)
            elif isinstance(note, TaskHold):
                self._hold(note)
            elif isinstance(note, BuildProgress):
                self._progress = note
            elif isinstance(note, TaskNote):
                yield from self._begin(note)
            elif isinstance(note, TaskWant):
                yield _command(note, self._reading, self._used_bytes)
            elif (run := self._watched.get(ProcessId(note.pid, note.start_ticks))) is None:
                continue
            elif isinstance(note, TaskEnd):
                run.end = note
            else:
                yield from self._wait(run, note)

    def _grant(self, grant: TaskGrant) -> None:
        is_new = self._grants.take(grant, self._at.now_s)
        self._counts["granted"] += is_new
        self._counts["shrunk"] += is_new and grant.jobs < grant.wanted_jobs
        if grant.tid in self._leaders:
            self._run(grant.tid).granted_bytes = grant.bytes

    def _hold(self, hold: TaskHold) -> None:
        if not hold.reason:
            self._held.pop(hold.tid, None)
            return
        known = self._held.get(hold.tid)
        self._held[hold.tid] = HeldTask(hold.recipe, hold.task, hold.reason, known.since if known else self._at.time)
        if known is None:
            self._counts["held"] += 1
            told = hold.recipe, hold.task, "", hold.reason, self._used_bytes, self._policy.mode is Mode.OBSERVE
            self._events.append(as_object(Held(self._at.time, *told)))  # the server's own log has it, too

    def _begin(self, note: TaskNote) -> Iterator[Instruction]:
        """Take charge of a task that begins."""
        grant = self._grants.of(note.tid)
        self._places += 1
        place = grant.place if grant else self._places
        yield from self._watch(Watched(note, self._at.now_s, self._at.time, place, self._kernel), grant)

    def _watch(self, run: Watched, grant: TaskGrant | None, tokens: int | None = None) -> Iterator[Instruction]:
        self._watched[run.leader] = run
        self._leaders[run.note.tid] = run.leader
        run.granted_bytes, run.need_bytes = (grant.bytes, grant.need_bytes) if grant else (0, 0)
        if self._acts and self._reading is not None:
            yield OfferToKernel(run.note.pid, run.granted_bytes / max(1, self._reading.bound_bytes))
        yield BeginWard(run.note, run.ward(grant), tokens)

    def _wait(self, run: Watched, wait: TaskWait) -> Iterator[Instruction]:
        """A task lost a job: remember what it took until then, and let it wait for its turn."""
        if run.wait is not None and run.wait.attempt == wait.attempt:
            return  # it asks again, in case that it was not heard
        run.end = wait.end
        yield from self._remember([self._record(run, Outcome.MEMORY_KILL)])
        self._counts["retried"] += 1
        words = (self._at.time, run.note.recipe, run.note.task, self._used_bytes)
        yield self._log(Retried(*words, wait.program, wait.jobs, wait.attempt, wait.reason))
        yield RenewWard(run.note.tid)
        yield ChangeWard(run.note.tid, wait.jobs)
        run.wait_for_turn(wait, self._at.now_s, self._kernel, self._outside.most_bytes(self._reading, self._policy))

    # -- one look ----------------------------------------------------------------------------------------------------

    def _take_look(self, looked: Looked) -> Iterator[Instruction]:
        """Measure those that run, say what was done, record those that have ended, give a turn, let others know."""
        self._sight, self._uses, self._reading = looked.sight, looked.uses, looked.sight.reading
        jobs = _jobs_now(looked.sight)
        for leader, usage in looked.sight.usages.items():
            run = self._watched[leader]
            run.take(usage, jobs.get(run.note.tid), self._at.now_s)
        for acted in looked.sight.acted:
            yield from self._note_deed(acted)
        ended = [run for leader, run in self._watched.items() if run.end or leader in looked.gone]
        yield from self._take_notes(looked.notes)
        # Who did not end well may have been ended along with its server, which is known a moment later.
        lost = [run for run in ended if not run.ended_well]
        self._gone.extend((self._at.now_s, run.note.tid, task_state(run, self._uses)) for run in lost)
        yield from self._end(ended)
        if self._reading is not None:
            self._outside.take(self._sight.used_bytes, self._watched.values(), self._sight.others.current_bytes)
        self._turns.give(self._watched.values(), looked.sight, self._outside, self._at.now_s)
        yield from self._publish()
        pending_bytes = self._grants.pending_bytes(self._at.now_s, self._leaders)
        yield Announce(self._publisher.entry(self._whole(), pending_bytes, self._turns.given))
        reading = self._publisher.reading(self._whole())
        if reading is not None:
            yield WriteLine(reading)

    def _note_deed(self, acted: Acted) -> Iterator[Instruction]:
        self._counts["stopped"] += acted.action.act is Act.STOP
        self._counts["killed"] += acted.action.act is Act.KILL
        event = _deed(acted, self._run(acted.action.tid), self._at.time, self._used_bytes)
        if event is not None:
            yield self._log(event)

    def _give_kill_note(self, killing: Killing) -> Iterator[Instruction]:
        """Before a job is killed its task gets a note of it, and the user's command runs."""
        run = self._run(killing.tid)
        yield GiveKillNote(run.leader.mark, _kill(killing))
        yield RunCommand(killing.reading.limit_bytes, killing.used_bytes, run.note.recipe, run.note.task)

    # -- ends --------------------------------------------------------------------------------------------------------

    def _end(self, ended: Sequence[Watched]) -> Iterator[Instruction]:
        """Let go of tasks that have ended, and remember them."""
        records = []
        for run in ended:
            note = run.note
            record = self._record(run, run.end.outcome if run.end else Outcome.FAILED)
            records.append(record)
            self._counts["lost"] += record.outcome is Outcome.MEMORY_KILL
            del self._watched[run.leader]
            if self._leaders.get(note.tid) == run.leader:
                del self._leaders[note.tid]
            self._grants.end(note.tid)
            yield WriteLine(_measured(run, record, self._at, self._uses.get(note.tid, WardUse()).heaviest()))
            yield EndWard(note, has_lives=record.outcome in (Outcome.OK, Outcome.THROTTLED))
        yield from self._remember(records)

    def _record(self, run: Watched, outcome: Outcome) -> Record:
        """What is remembered of a task, or of its attempt that was killed."""
        if run.tally.peak_bytes:
            self._heaviest = _heaviest([*self._heaviest, (str(run), run.tally.peak_bytes)])
        use = self._uses.get(run.note.tid, WardUse())
        return record_of(run, self._build, outcome, self._kernel, use, self._at.now_s)

    def _remember(self, records: Sequence[Record]) -> Iterator[Instruction]:
        if records:
            self._counts["recorded"] += len(records)
            yield Remember(tuple(records))

    # -- what is left by others --------------------------------------------------------------------------------------

    def _take_over(self, found: Found) -> Iterator[Instruction]:
        """Go on where a sentinel of this build was killed; learn from a build that was killed as a whole."""
        left = found.left
        if left.build == self._build:
            for task in left.tasks.values():
                if ProcessId(task.pid, task.start_ticks) in found.living:
                    yield from self._adopt(task)
        elif left.used_bytes >= KILLED_SHARE * left.limit_bytes and left.heaviest is not None:
            yield from self._remember([lost_record(left.heaviest, left.build)])

    def _adopt(self, task: TaskState) -> Iterator[Instruction]:
        """Watch on a task that another sentinel has watched."""
        note = task.note
        run = Watched(note, self._at.now_s, task.since, task.place, self._kernel)
        run.tally.peak_bytes = task.peak_bytes
        self._places = max(self._places, run.place)
        grant = TaskGrant(note.tid, run.place, note.jobs, task.granted_bytes, task.job_bytes)
        yield from self._watch(run, grant, task.tokens or 0)

    # -- what others see ---------------------------------------------------------------------------------------------

    @property
    def _used_bytes(self) -> int | None:
        return self._reading.used_bytes if self._reading is not None else None

    def _run(self, tid: str) -> Watched:
        return self._watched[self._leaders[tid]]

    def _log(self, event: Deed) -> WriteLine:
        self._events.append(as_object(event))
        return WriteLine(event)

    def _whole(self, gone: Mapping[str, TaskState] | None = None) -> Whole:
        runs, held, events = list(self._watched.values()), self._held.values(), tuple(self._events)
        return Whole(self._at, self._sight, runs, self._uses, held, self.counts, events, gone, self._progress)

    def _publish(self, is_last: bool = False) -> Iterator[Instruction]:
        """Let others know when something has changed, and now and then that nothing has; at last in any case."""
        gone = {tid: state for gone_s, tid, state in self._gone if self._at.now_s - gone_s < GONE_S} if is_last else {}
        state = self._publisher.state(self._whole(gone))
        if self._publisher.is_due(state) or is_last:
            yield Publish(state)


def _heaviest(tasks: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(tasks, key=lambda task: -task[1])[:HEAVIEST_MOST]


def _jobs_now(sight: Sight) -> dict[str, int]:
    """The jobs that its pool lets each task run, by tid; those that have one."""
    tasks = sight.moment.tasks if sight.moment is not None else ()
    return {task.tid: task.held_tokens + 1 for task in tasks if task.held_tokens is not None}


def _deed(acted: Acted, run: Watched, time: float, used_bytes: int | None) -> Deed | None:
    """What was done to a task, as a line of the readings; None of tokens that are not taken back for memory."""
    action, job = acted.action, acted.action.job
    words = (time, run.note.recipe, run.note.task, used_bytes)
    if action.act is Act.TOKENS:
        is_news = action.is_short and action.tokens < acted.tokens_before
        return Withdrawn(*words, action.tokens, acted.tokens_before) if is_news else None
    kind = _JOB_EVENTS[action.act]
    if job is None:
        return kind(*words, bytes=run.usage.current_bytes, reason=action.reason)
    return kind(*words, job.program, job.pid, job.bytes, action.reason)


def _command(want: TaskWant, reading: Reading | None, used_bytes: int | None) -> RunCommand:
    """The user's command, for a task that is held."""
    limit_bytes = reading.limit_bytes if reading is not None else None
    return RunCommand(limit_bytes, used_bytes or 0, want.recipe, want.task, want.wanted_bytes)


def _kill(killing: Killing) -> Kill:
    """What its task is to know of a kill."""
    return Kill(
        time_s=killing.at.now_s,
        program=killing.job.program,
        bytes=killing.job.bytes,
        used_bytes=killing.used_bytes,
        limit_bytes=killing.reading.bound_bytes,
        outputs=killing.outputs,
        beside_bytes=killing.beside_bytes,
    )


def _measured(run: Watched, record: Record, at: Instant, jobs: tuple[JobRow, ...]) -> TaskMeasured:
    """What a task took, and its heaviest jobs, as a line of the readings."""
    return TaskMeasured(
        at.time,
        record.recipe,
        record.task,
        began=round(run.began, 3),
        wall_s=round(run.wall_s(at.now_s), 3),
        cpu_s=record.cpu_s,
        jobs=record.jobs,
        granted_bytes=run.granted_bytes,
        peak_bytes=record.peak_bytes,
        outcome=record.outcome.value,
        swapped_bytes=run.most_swapped_bytes or None,
        heaviest_jobs=jobs,
    )
