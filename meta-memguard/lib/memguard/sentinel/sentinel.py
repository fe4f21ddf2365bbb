# SPDX-License-Identifier: MIT
"""The sentinel: a small process beside the BitBake server that watches what every running task takes, and acts on it.

Runs in: a process of its own, which the server starts and which ends with it; standard library only.
Covers: measuring tasks, the reflex on running ones, whose turn it is to run again, one record in the history for each
task that ends, with the lives of its jobs, the state that the server reads, the readings that stay.
Does not cover: which task starts (the server), what is done to running ones (regulate). Where it fails, the build goes
on without it, and nothing stays stopped.

It ends when its standard input ends, which is a pipe that only the server holds: so it outlives neither a server that
ends nor one that is killed. A server that ends says so first; what the state says is kept for the next build where it
did not. What the sentinel has to say at the end is one line of JSON on standard output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter, deque
from math import ceil
from pathlib import Path
from typing import Any, Callable

from memguard.act.half_written import written_by
from memguard.act.signals import offer_to_kernel, send
from memguard.act.user_command import PressureCommand
from memguard.channels.fifo import Listener
from memguard.channels.kills import Kills
from memguard.channels.notes import Note, Orders, TaskEnd, TaskGrant, TaskHold, TaskNote, TaskWait
from memguard.channels.state import FRESHEN_S, Counts, HeldTask, Marks, State, StateFile, TaskState
from memguard.decide.moment import Act, Job
from memguard.decide.turn import Waiting, next_turn
from memguard.model import Kill, Outcome, Reading, Record
from memguard.predict.remembered_lives import Lives
from memguard.record.metrics import MetricsFile
from memguard.record.readings_log import Readings
from memguard.sense.container import Sensor
from memguard.sense.proc_files import ProcessId, find_process, has_ended
from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Usage
from memguard.sense.tally import Tally
from memguard.sentinel.reflex import Acted, Reflex, Ward
from memguard.sentinel.remember import lost_record, open_history
from memguard.sentinel.watched import Report, Watched, ended_well

# Three times a second: a compiler takes two to three seconds to half of its peak, and with 500 processes so many looks
# take 1 % of a core. Where memory gets short the reflex asks for more.
INTERVAL_S = 1 / 3
# Tasks that run their jobs at once however short they are; others run one command after the other.
PARALLEL_TASKS = ("do_compile", "do_install")
# How old the state gets where nothing runs: those who watch from outside see by it that the build goes on.
IDLE_FRESHEN_S = 5.0
# Looks until the next one at each task's own process.
THOROUGH_EVERY = 3
# A fetch has a server that waits, so it is not stopped.
NEVER_STOPPED = ("do_fetch",)
# A build that was killed while it used this share of its limit was killed for memory.
KILLED_SHARE = 0.85
# Tasks that have gone so shortly before their server's end was seen went with it.
GONE_S = 5.0
# A task that holds less than this and compiles nothing does not count as working beside one that wants to be alone.
LIGHT_BYTES = 128 << 20


class Sentinel:
    """Watches the tasks of one build; `step()` is one look at all of them."""

    HEAVIEST = 5
    EVENTS = 20
    LISTED = 30

    def __init__(
        self,
        orders: Orders,
        listener: Listener,
        sensor: Sensor | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.report = Report()
        self._orders = orders
        self._policy = policy = orders.policy
        self._state = StateFile(Path(orders.directory))
        self._kills = Kills(Path(orders.directory))
        self._readings = Readings(orders.log)
        self._metrics = MetricsFile(policy.metrics, self.report.warnings.append)
        self._listener = listener
        self._sensor = sensor or Sensor(limit_bytes=policy.limit_bytes)
        self._processes = ProcessTable()
        self._history = open_history(orders, self.report.warnings)
        self._reading: Reading | None = None
        self._reflex = Reflex(
            orders.slots or ceil(self._sensor.cpus().count), self._processes.members, orders.acts, self._note_kill
        )
        self._command: PressureCommand | None = None
        if policy.pressure_command:
            self._command = PressureCommand(policy.pressure_command, before_exec=before_exec)
        self._watched: dict[ProcessId, Watched] = {}
        self._leaders: dict[str, ProcessId] = {}
        self._grants: dict[str, TaskGrant] = {}
        self._held: dict[str, tuple[TaskHold, float]] = {}
        self._counts: Counter[str] = Counter()
        self._events: deque[dict[str, Any]] = deque(maxlen=self.EVENTS)
        self._gone: deque[tuple[float, str, TaskState]] = deque(maxlen=self.LISTED)
        self._looks = self._places = 0
        self._turn_s = float("-inf")
        self._published: Any = None
        self._published_at_s = 0.0
        self._began_s = time.time()
        self._oom_kills_before = self._counters()[0]
        self._take_over()

    @property
    def next_look_s(self) -> float:
        """Seconds from one look to the next."""
        return min(INTERVAL_S, self._reflex.next_look_s)

    def pressure_source(self) -> str | None:
        """The file to wait at for pressure, None where there is none."""
        return self._sensor.pressure_source() if self._orders.acts else None

    def step(self, is_pressed: bool = False) -> None:
        """Look at every task once: measure those that run, act, record those that have ended, tell the server."""
        now_s = time.monotonic()
        with contextlib.suppress(OSError):
            self._reading = self._sensor.read()
        self._take_notes(now_s)
        usages = self._processes.scan({leader: leader for leader in self._watched})
        for leader, usage in usages.items():
            self._measure(self._watched[leader], usage)
        self._act(now_s, is_pressed)
        if self._command is not None:
            self._command.poll()
        self._looks += 1
        is_thorough = self._looks % THOROUGH_EVERY == 0
        ended = [leader for leader, run in self._watched.items() if run.end or has_ended(leader, is_thorough)]
        if ended:
            # A task tells how it ended, and is gone: perhaps between the look at the notes and the one at the process.
            self._take_notes(now_s)
            # Who did not end well may have been ended along with its server, which is known a moment later.
            lost = [run for leader in ended if not ended_well(run := self._watched[leader])]
            self._gone.extend((now_s, run.note.tid, self._state_of(run)) for run in lost)
            self._remember([self._end(self._watched[leader], now_s) for leader in ended])
        self._give_turn(now_s)
        self._publish(now_s)
        self._keep_reading(now_s)

    def _measure(self, run: Watched, usage: Usage) -> None:
        """Take in what a task uses now. At its peak it ran as many jobs as are remembered with that."""
        before = run.tally.peak_bytes
        run.usage = usage
        run.tally.add(usage)
        if run.tally.peak_bytes > before:
            run.jobs_at_peak = self._reflex.jobs_now(run.note.tid)

    def finish(self, is_farewell: bool = True) -> None:
        """Record what still runs as failed, unless it has said otherwise, wake all and leave nothing behind.

        Without a farewell of the server its state stays, for the next build to see.
        """
        now_s = time.monotonic()
        if is_farewell:
            self.step()
        else:
            # As it was then: what ran has lost its server, and ends meanwhile.
            self._take_notes(now_s)
            self._publish(now_s, is_last=True)
        for run in self._watched.values():
            self._reflex.settle(run.note.tid, now_s)
        self._reflex.close()
        self._remember([self._end(run, now_s) for run in list(self._watched.values())])
        if self._history is not None:
            self._history.close()
        self._readings.close()
        self._kills.clear()
        if is_farewell:
            self._state.clear()
            self._metrics.finish(time.time(), self._count())

    def close(self) -> None:
        """See that nothing stays stopped, after a fault, too, and that the user's command has ended."""
        self._reflex.close()
        if self._command is not None:
            self._command.end()
            if self._command.failure is not None:
                self.report.warnings.append(self._command.failure)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _take_notes(self, now_s: float) -> None:
        for note in self._listener.read():
            if isinstance(note, TaskGrant):
                self._grant(note)
            elif isinstance(note, TaskHold):
                self._hold(note)
            elif isinstance(note, TaskNote):
                self._begin(note, now_s)
            else:
                self._take_note_of(note, self._watched.get(ProcessId(note.pid, note.start_ticks)), now_s)

    def _take_note_of(self, note: Note, run: Watched | None, now_s: float) -> None:
        if run is None:
            return
        if isinstance(note, TaskEnd):
            run.end = note
        elif isinstance(note, TaskWait):
            self._wait(run, note, now_s)

    def _grant(self, grant: TaskGrant) -> None:
        is_new = grant.tid not in self._grants
        self._counts["granted"] += is_new
        self._counts["shrunk"] += is_new and grant.jobs < grant.wanted_jobs
        self._grants[grant.tid] = grant
        leader = self._leaders.get(grant.tid)
        if leader is not None:
            run = self._watched[leader]
            run.granted_bytes = grant.bytes
            if run.wait is None:
                self._reflex.change(grant.tid, min(grant.jobs, run.note.most_jobs), grant.bytes)

    def _hold(self, hold: TaskHold) -> None:
        if not hold.reason:
            self._held.pop(hold.tid, None)
            return
        is_new = hold.tid not in self._held
        since = time.time() if is_new else self._held[hold.tid][1]
        self._held[hold.tid] = hold, since
        if is_new:
            self._counts["held"] += 1
            self._log("hold", None, recipe=hold.recipe, task=hold.task, reason=hold.reason)

    def _begin(self, note: TaskNote, now_s: float) -> None:
        """Take charge of a task that begins."""
        kills, throttles = self._counters()
        grant = self._grants.get(note.tid)
        self._places += 1
        run = Watched(note, now_s, time.time(), grant.place if grant else self._places, kills, throttles)
        self._watch(run, grant)

    def _watch(self, run: Watched, grant: TaskGrant | None) -> None:
        note = run.note
        leader = ProcessId(note.pid, note.start_ticks)
        self._watched[leader] = run
        self._leaders[note.tid] = leader
        run.granted_bytes = grant.bytes if grant else 0
        ward = Ward(
            leader=leader,
            place=run.place,
            most_jobs=min(grant.jobs, note.most_jobs) if grant and note.pool else note.jobs,
            job_bytes=grant.job_bytes if grant and grant.job_bytes else None,
            granted_bytes=run.granted_bytes,
            pool=note.pool,
            may_stop=not note.task.startswith(NEVER_STOPPED),
            may_kill=note.may_kill,
        )
        if self._orders.acts and self._reading is not None:
            offer_to_kernel(note.pid, run.granted_bytes / max(1, self._reading.bound_bytes))
        run.lives = self._remembered_lives(note)
        if not self._reflex.begin(note.tid, ward, run.lives):
            self.report.warnings.append(f"{run} has no pool, so it runs one job at a time: {note.pool}")

    def _wait(self, run: Watched, note: TaskWait, now_s: float) -> None:
        """A task lost a job: remember what it took until then, and let it wait for its turn."""
        if run.wait is not None and run.wait.attempt == note.attempt:
            return  # it asks again, in case that it was not heard
        self._remember([self._record(run, now_s, Outcome.MEMORY_KILL)])
        self.report.retried += 1
        self._log("retry", run, program=note.program, jobs=note.jobs, attempt=note.attempt, reason=note.reason)
        self._reflex.renew(run.note.tid)
        self._reflex.change(run.note.tid, note.jobs, run.granted_bytes)
        kills, throttles = self._counters()
        run.tally, run.since_s = Tally(), now_s
        run.kills_before, run.throttles_before = kills, throttles
        run.wait, run.waits_since_s, run.has_turn = note, now_s, False

    # -- acting ------------------------------------------------------------------------------------------------------

    def _act(self, now_s: float, is_pressed: bool) -> None:
        if self._reading is None:
            return
        reserve = self._policy.reserve_of(self._reading.bound_bytes)
        usages = {run.note.tid: run.usage for run in self._watched.values()}
        for acted in self._reflex.look(now_s, self._reading, reserve, usages, is_pressed):
            self._tell(acted)

    def _tell(self, acted: Acted) -> None:
        action = acted.action
        if action.act is Act.TOKENS:
            if action.tokens >= acted.tokens_before or action.reason == "fits":
                return
            self._log("withdraw", self._run(action.tid), tokens=action.tokens, tokens_before=acted.tokens_before)
            return
        job = {} if action.job is None else {"program": action.job.program, "pid": action.job.pid}
        size = self._run(action.tid).usage.current_bytes if action.job is None else action.job.bytes
        self._log(action.act.value, self._run(action.tid), **job, bytes=size, reason=action.reason)
        self.report.stopped += action.act is Act.STOP
        self.report.killed += action.act is Act.KILL

    def _note_kill(self, tid: str, job: Job) -> None:
        """Before a job is killed: leave its task a note of it, and run the user's command."""
        run, reading = self._run(tid), self._reading
        if reading is not None:
            target = ProcessId(job.pid, job.start_ticks)
            send(target, signal.SIGSTOP)  # so that it opens no other file
            kill = Kill(
                time_s=time.monotonic(),
                program=job.program,
                bytes=job.bytes,
                used_bytes=self._used_bytes(),
                limit_bytes=reading.bound_bytes,
                outputs=written_by(job.pid),
            )
            self._kills.note(run.mark, kill)
            if self._command is not None:
                self._command.start(reading.limit_bytes, self._used_bytes(), run.note.recipe, run.note.task)

    def _run(self, tid: str) -> Watched:
        return self._watched[self._leaders[tid]]

    def _give_turn(self, now_s: float) -> None:
        """Let the next task that waits run again, if it is time."""
        waiting = []
        for run in self._watched.values():
            if run.wait is not None and run.waits:
                waits_s = now_s - run.waits_since_s
                waiting.append(Waiting(run.note.tid, run.place, run.wait.need_bytes, run.wait.alone, waits_s))
        if not waiting or self._reading is None:
            return
        free = self._reflex.left_bytes - self._policy.reserve_of(self._reading.bound_bytes)
        others = [run for run in self._watched.values() if not run.waits]
        others_work = any(run.usage.compilers or run.usage.current_bytes > LIGHT_BYTES for run in others)
        is_any_alone = any(run.is_alone for run in others)
        tid = next_turn(waiting, free, others_work, is_any_alone, now_s - self._turn_s)
        if tid is not None:
            self._turn_s = now_s
            self._run(tid).has_turn = True

    # -- ends --------------------------------------------------------------------------------------------------------

    def _end(self, run: Watched, now_s: float) -> Record:
        """Let go of a task that has ended; what is remembered of it."""
        record = self._record(run, now_s, run.end.outcome if run.end else Outcome.FAILED)
        self._counts["lost"] += record.outcome is Outcome.MEMORY_KILL
        note = run.note
        self._readings.write(
            event="task",
            time=round(time.time(), 3),
            recipe=note.recipe,
            task=note.task,
            began=round(run.began, 3),
            wall_s=record.wall_s,
            cpu_s=record.cpu_s,
            jobs=record.jobs,
            granted_bytes=run.granted_bytes,
            peak_bytes=record.peak_bytes,
            outcome=record.outcome.value,
        )
        self._reflex.settle(note.tid, now_s)
        if record.outcome in (Outcome.OK, Outcome.THROTTLED):
            self._remember_lives(run)
        leader = ProcessId(note.pid, note.start_ticks)
        del self._watched[leader]
        if self._leaders.get(note.tid) == leader:
            del self._leaders[note.tid]
        self._grants.pop(note.tid, None)
        self._kills.forget(run.mark)
        self._reflex.end(note.tid)
        return record

    def _record(self, run: Watched, now_s: float, outcome: Outcome) -> Record:
        """What is remembered of a task, or of its attempt that was killed."""
        tally, note = run.tally, run.note
        kills, throttles = self._counters()
        stops, own_kills = self._reflex.interventions(note.tid)
        if outcome is Outcome.FAILED and (kills > run.kills_before or own_kills):
            outcome = Outcome.MEMORY_KILL
        elif outcome is Outcome.OK and (throttles > run.throttles_before or stops):
            outcome = Outcome.THROTTLED
        largest_bytes, peak_bytes = tally.largest_process_bytes, tally.peak_bytes or None
        if peak_bytes is None and run.end:
            # Too short to be seen: no more than so many processes of the largest size can have been there.
            at_once = note.jobs if note.task.startswith(PARALLEL_TASKS) else 1
            largest_bytes, peak_bytes = run.end.largest_bytes, run.end.largest_bytes * at_once or None
        if tally.peak_bytes:
            heaviest = [*self.report.heaviest, (str(run), tally.peak_bytes)]
            self.report.heaviest = sorted(heaviest, key=lambda task: -task[1])[: self.HEAVIEST]
        return Record(
            build=self._orders.build,
            recipe=note.recipe,
            version=note.version,
            task=note.task,
            machine=note.machine,
            jobs=note.jobs if run.jobs_at_peak is None else min(run.jobs_at_peak, note.most_jobs),
            peak_bytes=peak_bytes,
            largest_process_bytes=largest_bytes,
            wall_s=round(run.end.wall_s if run.end else now_s - run.since_s, 3),
            cpu_s=round(max(run.end.cpu_s if run.end else 0.0, tally.cpu_s), 3),
            outcome=outcome,
            per_job_bytes=tally.per_job_bytes,
            serial_bytes=tally.serial_bytes if tally.most_compilers > 1 else None,
        )

    def _remember(self, records: list[Record]) -> None:
        self.report.recorded += len(records)
        if self._history is not None and records:
            self._history.add(records, self._began_s)

    def _remembered_lives(self, note: TaskNote) -> Lives:
        """Those of a task's jobs in earlier builds; of a task without a pool nothing depends on them."""
        if self._history is None or not note.pool:
            return Lives()
        return Lives.found(self._history.lives(note.recipe, note.task))

    def _remember_lives(self, run: Watched) -> None:
        """Add those of this build to what is remembered by now, perhaps by another build of the same."""
        note = run.note
        if self._history is not None and note.pool and run.lives.has_news:
            lives = self._remembered_lives(note)
            lives.take(run.lives)
            self._history.remember_lives(note.recipe, note.task, lives.packed())

    def _counters(self) -> tuple[int, int]:
        """How often the kernel has killed in this container, and slowed it down at memory.high."""
        events = self._sensor.events()
        return events.get("oom_kill", 0), events.get("high", 0)

    # -- what is left by others --------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Go on where a sentinel of this build was killed; learn from a build that was killed as a whole."""
        left = self._state.left()
        if left is None:
            return
        if left.build == self._orders.build:
            for task in left.tasks.values():
                self._adopt(task)
        elif left.used_bytes >= KILLED_SHARE * left.limit_bytes and left.heaviest is not None:
            self._remember([lost_record(left.heaviest, left.build)])
        self._state.clear()

    def _adopt(self, task: TaskState) -> None:
        """Watch on a task that another sentinel has watched."""
        note = task.note
        if find_process(note.pid) != ProcessId(note.pid, note.start_ticks):
            return
        kills, throttles = self._counters()
        run = Watched(note, time.monotonic(), task.since, task.place, kills, throttles)
        run.tally.peak_bytes = task.peak_bytes
        self._places = max(self._places, run.place)
        self._watch(run, TaskGrant(note.tid, run.place, note.jobs, task.granted_bytes, task.job_bytes))
        self._reflex.adopt(note.tid, task.tokens or 0)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _log(self, event: str, run: Watched | None, **fields: Any) -> None:
        line = {"event": event, "time": round(time.time(), 3)}
        if run is not None:
            line.update(recipe=run.note.recipe, task=run.note.task)
        if self._reading is not None:
            line["used_bytes"] = self._reading.used_bytes
        line.update(fields)
        self._events.append(line)
        if event != "hold":  # that is in the server's own log
            self._readings.write(**line)

    def _keep_reading(self, now_s: float) -> None:
        if self._reading is None or not self._watched or not self._readings.is_due(now_s):
            return
        largest = sorted(self._watched.values(), key=lambda run: -run.usage.current_bytes)[: self.LISTED]
        self._readings.keep(
            now_s,
            time=round(time.time(), 3),
            used_bytes=self._used_bytes(),
            limit_bytes=self._reading.limit_bytes,
            reserve_bytes=self._policy.reserve_of(self._reading.bound_bytes),
            tasks=[
                [
                    run.note.recipe,
                    run.note.task,
                    run.usage.current_bytes,
                    len(run.usage.compilers),
                    self._reflex.stopped(run.note.tid),
                    self._reflex.tokens(run.note.tid),
                ]
                for run in largest
            ],
        )

    def _used_bytes(self) -> int:
        """What is used, corrected by what processes tell sooner than the kernel's sums."""
        reading = self._reading
        return reading.used_bytes + reading.left_bytes - self._reflex.left_bytes if reading is not None else 0

    def _publish(self, now_s: float, is_last: bool = False) -> None:
        """Tell the server when something has changed, and once in a while that nothing has."""
        running = [run for run in self._watched.values() if not ended_well(run)]
        tasks = {run.note.tid: self._state_of(run) for run in running}
        if is_last:
            tasks = {**{tid: state for gone_s, tid, state in self._gone if now_s - gone_s < GONE_S}, **tasks}
        held = tuple(
            HeldTask(hold.recipe, hold.task, hold.reason, round(since, 3))
            for hold, since in list(self._held.values())[: 2 * self.LISTED]
        )
        turns = {run.mark: run.wait.attempt for run in self._watched.values() if run.wait is not None and run.has_turn}
        news = (tasks, held, turns)
        freshen_s = FRESHEN_S if tasks else IDLE_FRESHEN_S
        if not is_last and news == self._published and now_s - self._published_at_s < freshen_s:
            return
        reading, moment = self._reading, self._reflex.moment
        bound = reading.bound_bytes if reading else 0
        reserve = self._policy.reserve_of(bound)
        alone = next((run for run in self._watched.values() if run.wait is not None and run.wait.alone), None)
        state = State(
            time_s=round(now_s, 3),
            time=round(time.time(), 3),
            build=self._orders.build,
            pid=os.getpid(),
            limit_bytes=bound,
            limit_source=reading.limit_source if reading else "",
            used_bytes=self._used_bytes(),
            reserve_bytes=reserve,
            cpus=reading.cpus if reading else 0,
            mode=self._policy.mode.value,
            marks=Marks(
                withdraw_bytes=bound - reserve,
                stop_bytes=bound - (moment.stop_bytes if moment else 0),
                kill_bytes=bound - (moment.kill_bytes if moment else 0),
            ),
            tasks=tasks,
            held=held,
            stopped=sum(task.stopped for task in tasks.values()),
            alone=str(alone) if alone else "",
            turns=turns,
            counts=self._count(),
            events=tuple(self._events),
        )
        with contextlib.suppress(OSError):
            self._state.publish(state)
        self._metrics.tell(state, now_s)
        self._published, self._published_at_s = news, now_s

    def _count(self) -> Counts:
        """What was done in this build so far."""
        return Counts(
            **{name: self._counts[name] for name in ("granted", "held", "shrunk", "lost")},
            stopped=self.report.stopped,
            killed=self.report.killed,
            retried=self.report.retried,
            oom_kills=max(0, self._counters()[0] - self._oom_kills_before),
        )

    def _state_of(self, run: Watched) -> TaskState:
        """One task, with all that another sentinel would need to go on."""
        stopped = self._reflex.stopped(run.note.tid)
        return TaskState(
            **vars(run.note),
            state="retrying" if run.waits else "stopped" if stopped else "running",
            place=run.place,
            since=round(run.began, 3),
            current_bytes=run.usage.current_bytes,
            peak_bytes=run.tally.peak_bytes,
            granted_bytes=run.granted_bytes,
            job_bytes=self._reflex.job_bytes(run.note.tid),
            tokens=self._reflex.tokens(run.note.tid),
            compilers=len(run.usage.compilers),
            stopped=stopped,
        )
