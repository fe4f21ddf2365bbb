# SPDX-License-Identifier: MIT
"""The Guard's state over a build, with a sensor and a clock of the tests' own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from memguard.channels.grants import Handed, Handover
from memguard.channels.notes import BuildProgress, Note, TaskGrant, TaskHold, TaskWant
from memguard.channels.state import Marks, State, StateFile, TaskState
from memguard.decide.admit import LIGHT_BYTES, room_for
from memguard.decide.ledger import READING_AGE_S, STARVED_S, Ledger
from memguard.model import Footprint, Mode, Policy, Reading, Task
from memguard.record.event_log import EventLog
from memguard.record.events import BuildEnded, BuildStarted, Ended, Granted, Held, Released, Started, parse
from memguard.sense.container import Sensor
from memguard.server.guard import Guard
from memguard.server.lines import SAY_HOLD_S, SAY_LIGHT_HOLD_S
from memguard.units import GIB, MIB

NO_RESERVE = Policy(reserve_bytes=0)


@dataclass
class FakeSensor:
    """A container of 8 GiB whose use the test sets."""

    reading: Reading = field(
        default_factory=lambda: Reading(8 * GIB, "memory.max", 0, 0, 8 * GIB, 1 << 50, 1 << 50, 16)
    )
    kills: int | None = 5
    reads: int = 0

    def read(self) -> Reading:
        self.reads += 1
        return self.reading

    def oom_kills(self) -> int | None:
        return self.kills

    def use(self, used_bytes: int) -> None:
        self.reading = replace(self.reading, used_bytes=used_bytes, room_bytes=8 * GIB - used_bytes)


class Bench:
    """A Guard with everything around it."""

    def __init__(self, directory: Path, policy: Policy = NO_RESERVE) -> None:
        self.directory = directory
        self.sensor = FakeSensor()
        self.now_s = 100.0
        self.said: list[str] = []
        self.told: list[Note] = []
        self.warned: list[str] = []
        self.log = EventLog(directory / "events")
        self.guard = Guard(
            policy,
            cast(Sensor, self.sensor),
            self.log,
            Handover(directory),
            StateFile(directory),
            self.told.append,
            say=self.said.append,
            warn=self.warned.append,
            clock=lambda: self.now_s,
        )

    def offer(self, task: Task, is_idle: bool = False) -> bool:
        """Offer a task as the scheduler does; whether it started."""
        return self.guard.offer(task, is_idle)

    def publish(self, rise_bytes: int = 0, stopped: int = 0, alone: str = "", **sizes: int) -> None:
        """Tell what the sentinel sees: what tasks take, by tid."""
        tasks = {
            tid: TaskState(1, 1, tid, tid, "1", "do_compile", "", 1, current_bytes=size, most_compilers=1)
            for tid, size in sizes.items()
        }
        place = (8 * GIB, "memory.max", 0, 0, 16.0, "enforce", Marks(0, 0, 0))
        state = State(
            self.now_s + 1, 0.0, "b", 1, *place, tasks=tasks, stopped=stopped, alone=alone, rise_bytes=rise_bytes
        )
        StateFile(self.directory).publish(state)

    def tick(self, *ended: str, is_idle: bool = False, seconds: float = 1.0) -> None:
        """Let time pass and tasks end."""
        self.now_s += seconds
        self.guard.settle(ended, is_idle)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events so far, those of the names only."""
        self.log.flush()
        assert self.log.path is not None
        events = [json.loads(line) for line in self.log.path.read_text().splitlines()]
        return [event for event in events if not names or event["event"] in names]

    def left(self) -> int:
        """Grants that lie ready for tasks."""
        grants = self.directory / "grants"
        return len(list(grants.iterdir())) if grants.exists() else 0


def task(tid: str, base: int, per_job: int = 0, wanted: int = 8) -> Task:
    """A task of that footprint."""
    return Task(tid, "", f"r-{tid}", "do_compile", Footprint(base, per_job, 0, "known"), wanted)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A Guard of an empty container."""
    return Bench(tmp_path)


def test_hold_release_and_grant_are_recorded_in_order(bench: Bench) -> None:
    """A task that has to wait leaves its whole story, with the seconds it waited."""
    assert bench.offer(task("a", 5 * GIB))
    assert not bench.offer(task("b", 5 * GIB))
    bench.tick("a", seconds=7.5)
    released = next(bench.guard.releasable(is_idle=False), None)
    assert released == task("b", 5 * GIB)
    assert bench.offer(released)
    story = [(event["event"], event.get("recipe")) for event in bench.events()]
    assert story == [
        ("build_start", None),
        ("grant", "r-a"),
        ("hold", "r-b"),
        ("release", "r-b"),
        ("grant", "r-b"),
    ]
    assert bench.events("release")[0]["held_s"] == 7.5
    assert bench.guard.ledger.totals.held_s == 7.5
    assert bench.said[-1] == "start r-b do_compile after 7.5 s: it fits"


@pytest.mark.parametrize("command", ["grow", ""])
def test_a_wish_is_said_and_told_where_a_command_takes_it(tmp_path: Path, command: str) -> None:
    """CPUs idle while a task is held: the sentinel learns what it lacks, and people read it; not without a command."""
    bench = Bench(tmp_path, replace(NO_RESERVE, pressure_command=command))
    bench.offer(task("a", 5 * GIB))
    bench.publish(a=5 * GIB)
    bench.sensor.use(5 * GIB)
    bench.tick()
    assert not bench.offer(task("b", 6 * GIB))
    for _ in range(5):
        bench.publish(a=5 * GIB)
        bench.tick()
    wants = [note for note in bench.told if isinstance(note, TaskWant)]
    assert wants == ([TaskWant("r-b", "do_compile", 3 * GIB)] if command else [])
    line = "asks for 3.0 GiB more: r-b do_compile waits while CPUs idle"
    assert (line in bench.said) == bool(command)


def test_a_second_hold_of_one_task_is_no_news(bench: Bench) -> None:
    """A task that is refused again is neither counted nor recorded again, and keeps its place."""
    bench.offer(task("a", 5 * GIB))
    for _ in range(3):
        assert not bench.offer(task("b", 5 * GIB))
    assert bench.guard.ledger.totals.held == 1
    assert len(bench.events("hold")) == 1


def test_the_reason_of_a_hold_is_the_present_one(bench: Bench) -> None:
    """What is told of a held task follows what runs beside it, for as long as it is held, with no event of its own."""
    bench.offer(task("a", 6 * GIB))
    bench.offer(task("b", 5 * GIB))
    bench.offer(task("c", 7 * GIB))
    bench.publish(a=6 * GIB)
    bench.sensor.reading = replace(bench.sensor.reading, used_bytes=6 * GIB)
    bench.tick(seconds=3)
    reasons = [note.reason for note in bench.told if isinstance(note, TaskHold) and note.tid == "c"]
    assert reasons[0] != reasons[-1]
    assert reasons[-1] == bench.guard.held["c"].reason
    bench.tick(seconds=0.5)
    assert reasons == [note.reason for note in bench.told if isinstance(note, TaskHold) and note.tid == "c"]
    bench.sensor.reading = replace(bench.sensor.reading, used_bytes=0)
    bench.tick("a", seconds=3)
    assert bench.guard.held["b"].reason == "fits now, and waits for a thread of BitBake"
    assert len(bench.events("hold")) == 2


def test_who_is_held_for_busy_cpus_is_told_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that would fit may be held since running ones keep all CPUs busy, whatever threads are free."""
    bench.offer(task("a", 6 * GIB))
    bench.offer(task("b", 5 * GIB))
    bench.sensor.reading = replace(bench.sensor.reading, used_bytes=0)
    monkeypatch.setattr(Ledger, "is_crowded", True)
    bench.tick("a", seconds=3)
    assert bench.guard.held["b"].reason == "fits now, but running tasks keep all CPUs busy"


def test_progress_is_told_now_and_then(bench: Bench) -> None:
    """Not more often than people can read; what is left is worked out only then."""
    asked = []
    for second in (0.0, 0.5, 1.0, 2.0):
        bench.guard.news.tell_progress(bench.now_s, int(second), 9, lambda: asked.append(1) or 4.5)  # type: ignore[func-returns-value]
        bench.now_s += 0.5 if second < 1 else 1.0
    assert [note for note in bench.told if isinstance(note, BuildProgress)] == [
        BuildProgress(0, 9, 4.5),
        BuildProgress(2, 9, 4.5),
    ]
    assert len(asked) == 2


def test_the_ledger_sees_what_no_reading_sees(bench: Bench) -> None:
    """Of ten heavy tasks of one tick, only those start that fit together."""
    started = [bench.offer(task(str(number), 3 * GIB)) for number in range(10)]
    assert started == [True, True, *[False] * 8]


def test_an_ended_task_frees_its_grant_once(bench: Bench) -> None:
    """Whoever ended, failed or not, uses nothing any more, and is not freed twice."""
    bench.offer(task("a", 5 * GIB))
    bench.offer(task("b", 3 * GIB))
    bench.tick("a", "a", "never-ran")
    bench.tick("a")
    assert bench.offer(task("c", 5 * GIB))
    assert not bench.offer(task("d", 1))


def test_outgrown_memory_holds_the_next(bench: Bench) -> None:
    """A task that takes more than predicted makes the next one wait."""
    bench.offer(task("a", GIB))
    bench.sensor.use(6 * GIB)
    bench.tick()
    assert not bench.offer(task("b", 3 * GIB))


def test_the_peak_is_the_highest_reading(bench: Bench) -> None:
    """The peak rises with the readings and does not fall."""
    for used in (1, 6, 2):
        bench.sensor.use(used * GIB)
        bench.guard.sample()
    assert bench.guard.peak_bytes == 6 * GIB


def test_the_container_is_read_no_more_often_than_needed(bench: Bench) -> None:
    """A thousand questions in one moment cost one reading."""
    for _ in range(1000):
        bench.tick(seconds=READING_AGE_S / 1001)
    assert bench.sensor.reads == 1
    bench.tick()
    assert bench.sensor.reads == 2


def test_idle_use_is_learned_when_nothing_runs(bench: Bench) -> None:
    """What is used between tasks belongs to nobody, and shmem is not part of it."""
    bench.sensor.use(3 * GIB)
    bench.sensor.reading = replace(bench.sensor.reading, shmem_bytes=GIB)
    bench.tick(is_idle=True)
    assert not bench.offer(task("a", 5 * GIB + 1))
    assert bench.offer(task("b", 5 * GIB))


def test_only_shrunk_grants_leave_a_file(bench: Bench) -> None:
    """A task that gets all its jobs runs as it always did; one that gets fewer finds how many."""
    assert bench.offer(task("a", GIB))
    assert bench.left() == 0
    assert bench.offer(task("b", 0, per_job=GIB, wanted=16))
    assert bench.left() == 1
    assert Handover(bench.directory).take("b") == Handed(7)
    assert bench.guard.ledger.totals.shrunk == 1


def test_finish_removes_what_was_not_taken(bench: Bench) -> None:
    """After the build no grant is left for another build to find."""
    bench.offer(task("b", 0, per_job=GIB, wanted=16))
    bench.guard.finish()
    assert not (bench.directory / "grants").exists()


def test_summary_tells_what_was_done(bench: Bench) -> None:
    """The last event and the summary agree on peak, holds and kills."""
    bench.offer(task("a", 5 * GIB))
    bench.offer(task("b", 5 * GIB))
    bench.sensor.use(4 * GIB)
    bench.guard.sample()
    bench.sensor.use(0)
    bench.sensor.kills = 7
    bench.tick("a", seconds=90)
    bench.offer(task("b", 5 * GIB))
    lines = bench.guard.finish()
    (end,) = bench.events("build_end")
    assert (end["peak_bytes"], end["held"], end["held_s"], end["oom_kills"]) == (4 * GIB, 1, 90.0, 2)
    assert (end["granted"], end["shrunk"], end["forced"], end["wall_s"]) == (2, 0, 0, 90.0)
    assert lines[0] == "peak 4.0 GiB of 8.0 GiB (50 %), 2 killed by the kernel for memory"
    assert lines[1] == "held 1 task (90 s in total, 0 s of CPU idle meanwhile), shrunk 0, started 2"
    assert lines[2].endswith(".jsonl")
    assert lines[3] == f"more of this build: memguard report {bench.directory}"
    assert len(lines) == 4


def test_kills_that_cannot_be_counted_are_not_told(bench: Bench) -> None:
    """A group that vanished, or that counts anew, makes no false number."""
    bench.sensor.kills = 1
    assert bench.guard.finish()[0].endswith("0 killed by the kernel for memory")
    bench.sensor.kills = None
    assert "killed" not in bench.guard.finish()[0]


def test_the_oldest_is_released_when_nothing_runs(bench: Bench) -> None:
    """The liveness law: when all is idle the oldest held task starts, fit or not."""
    bench.offer(task("a", GIB))
    bench.offer(task("huge", 20 * GIB, per_job=GIB))
    bench.offer(task("b", 7 * GIB + 1))
    assert next(bench.guard.releasable(is_idle=False), None) is None
    bench.tick("a", is_idle=True)
    released = next(bench.guard.releasable(is_idle=True), None)
    assert released is not None
    assert released.tid == "huge"
    assert bench.offer(released, is_idle=True)
    assert bench.events("grant")[-1]["jobs"] == 1
    assert bench.guard.ledger.totals.forced == 1
    assert "is expected to need 21.0 GiB with one job (known), and 8.0 GiB are free" in bench.warned[0]


def test_nobody_is_releasable_when_nobody_waits(bench: Bench) -> None:
    """Without held tasks there is nothing to release, idle or not."""
    assert next(bench.guard.releasable(is_idle=True), None) is None
    assert next(bench.guard.releasable(is_idle=False), None) is None


def test_a_forgotten_hold_has_no_memory_kept(bench: Bench) -> None:
    """A task that BitBake took back keeps no memory from others, however long it had waited."""
    bench.offer(task("before", 4 * GIB))
    bench.offer(task("starved", 8 * GIB))
    bench.tick(seconds=STARVED_S)
    assert not bench.offer(task("light", GIB))
    bench.guard.release("starved")
    bench.guard.release("starved")
    assert bench.offer(task("light", GIB))


def test_observing_records_and_does_nothing(tmp_path: Path) -> None:
    """In observe mode each task starts with all its jobs, and the log says what would have been."""
    bench = Bench(tmp_path, Policy(mode=Mode.OBSERVE, reserve_bytes=0))
    for one in (task("a", 5 * GIB), task("b", 5 * GIB), task("c", 0, per_job=GIB, wanted=16)):
        bench.guard.note_only(one, bench.guard.ledger.judge(one, is_idle=False))
    bench.tick("a", "b", "c")
    shrunk = task("d", 0, per_job=GIB, wanted=16)
    bench.guard.note_only(shrunk, bench.guard.ledger.judge(shrunk, is_idle=False))
    assert bench.left() == 0
    assert not bench.guard.held
    assert all(event["observed"] for event in bench.events("hold", "grant"))
    assert [event["recipe"] for event in bench.events("hold")] == ["r-b", "r-c"]
    assert bench.events("grant")[-1]["jobs"] == 16
    assert bench.said[-1] == "would start r-d do_compile with fewer jobs: 8 of 16 jobs fit into the container"
    assert "would have held 2 tasks, would have shrunk 1" in bench.guard.finish()[1]


def test_starts_and_ends_are_paired(bench: Bench) -> None:
    """An end without a start, as of a task that was covered, is not recorded."""
    bench.guard.task_started("a", task("a", GIB))
    bench.guard.task_ended("a", task("a", GIB), "failed")
    bench.guard.task_ended("a", None, "ok")
    bench.guard.task_ended("b", None, "ok")
    assert [(event["event"], event.get("outcome")) for event in bench.events("start", "end")] == [
        ("start", None),
        ("end", "failed"),
    ]


def test_start_line_says_what_is_seen(bench: Bench) -> None:
    """One line tells limit, source, reserve, CPUs and mode."""
    assert bench.guard.start_line() == (
        "limit 8.0 GiB (memory.max), 0 KiB used, 0 KiB in reserve, 16 CPUs, mode enforce"
    )


def test_a_limit_that_falls_during_the_build_counts(bench: Bench) -> None:
    """A pod that is made smaller in place gets less from the next reading on."""
    bench.sensor.reading = replace(bench.sensor.reading, limit_bytes=2 * GIB, room_bytes=2 * GIB)
    bench.tick()
    assert not bench.offer(task("a", 3 * GIB))


def test_ten_thousand_tasks_keep_to_the_limit(bench: Bench) -> None:
    """Ten thousand tasks, held in their thousands, never get more than the container has."""
    running: list[str] = []
    for number in range(10_000):
        one = task(str(number), 200 * MIB, wanted=1)
        if bench.offer(one):
            running.append(one.tid)
        if number % 10 == 0 and running:
            bench.tick(running.pop(0), seconds=0.01)
            released = next(bench.guard.releasable(is_idle=False), None)
            if released is not None:
                assert bench.offer(released)
                running.append(released.tid)
    assert len(bench.guard.held) > 5000
    assert sum(entry.grant.bytes for entry in bench.guard.ledger.running.values()) <= 8 * GIB


def test_a_head_too_large_for_the_container_does_not_starve_the_next(bench: Bench) -> None:
    """Memory is kept for the oldest held task that can ever fit: lighter tasks do not pass it for ever."""
    ends = {"a": 1}
    assert bench.offer(task("a", 4 * GIB))
    assert not bench.offer(task("huge", 20 * GIB))
    assert not bench.offer(task("heavy", 7 * GIB))
    for tick in range(50):
        ended = [tid for tid, end in ends.items() if end <= tick]
        for tid in ended:
            del ends[tid]
        bench.tick(*ended, seconds=STARVED_S / 20)
        for released in bench.guard.releasable(is_idle=False):
            if released.tid == "heavy":
                return
            assert bench.offer(released)
            ends[released.tid] = tick + 5
        for number in range(6):
            one = task(f"light-{tick}-{number}", GIB)
            if bench.offer(one):
                ends[one.tid] = tick + 5
    pytest.fail("heavy was passed for ever")


def test_a_second_grant_replaces_the_first(bench: Bench) -> None:
    """A task that BitBake runs again counts once, and gives back all it had."""
    assert bench.offer(task("a", 3 * GIB))
    assert bench.offer(task("a", 3 * GIB))
    bench.tick("a")
    assert bench.offer(task("b", 8 * GIB))


def test_a_hold_that_ends_without_a_start_is_told(bench: Bench) -> None:
    """A held task that BitBake takes back, or that the build's end finds, has its release and its seconds."""
    assert bench.offer(task("a", 5 * GIB))
    assert not bench.offer(task("b", 5 * GIB))
    assert not bench.offer(task("c", 5 * GIB))
    bench.now_s += 60
    bench.guard.release("b")
    bench.now_s += 60
    bench.guard.finish()
    assert [(event["recipe"], event["held_s"]) for event in bench.events("release")] == [("r-b", 60), ("r-c", 120)]
    assert bench.events("build_end")[0]["held_s"] == 180


def test_what_running_tasks_will_take_is_what_the_sentinel_says(bench: Bench) -> None:
    """Not the rest of their grants: where nobody watches, use and grants are all that is known, the larger counts."""
    assert bench.offer(task("a", 4 * GIB))
    bench.sensor.use(3 * GIB)
    bench.tick(seconds=60.0)
    assert not bench.guard.ledger.judge(task("b", 5 * GIB), False).starts
    bench.publish(rise_bytes=1 * GIB, a=1 * GIB)
    bench.tick()
    assert bench.guard.ledger.judge(task("b", 4 * GIB), False).starts
    assert not bench.guard.ledger.judge(task("b", 5 * GIB), False).starts
    bench.publish(a=3 * GIB)
    bench.tick()
    assert bench.guard.ledger.judge(task("b", 5 * GIB), False).starts
    bench.tick(seconds=60.0)
    assert not bench.guard.ledger.judge(task("b", 5 * GIB), False).starts


def test_the_sentinel_is_told_of_grants_and_holds(bench: Bench) -> None:
    """It learns what each task was given before the task starts, and who is held and no longer."""
    assert bench.offer(task("a", 1 * GIB, per_job=512 * MIB))
    assert not bench.offer(task("b", 7 * GIB))
    bench.guard.release("b")
    grant, hold, release = bench.told
    assert grant == TaskGrant("a", 1, 8, 5 * GIB, 512 * MIB, 8, need_bytes=2 * GIB)
    assert isinstance(hold, TaskHold)
    assert (hold.tid, hold.recipe, bool(hold.reason)) == ("b", "r-b", True)
    assert release == replace(hold, reason="")


def test_nothing_starts_while_a_task_must_be_alone(bench: Bench) -> None:
    """All is held that would fit, light tasks as well; afterwards it starts."""
    assert bench.offer(task("a", 1 * GIB))
    bench.publish(alone="heavy do_compile", a=1 * GIB)
    bench.tick()
    assert room_for(task("setscene", 1), bench.guard.ledger.situation) == 0
    assert not bench.offer(task("light", 16 * MIB))
    assert not bench.offer(task("b", 1 * GIB))
    assert list(bench.guard.releasable(is_idle=False)) == []
    assert [found.tid for found in bench.guard.releasable(is_idle=True)] == ["light", "b"]
    bench.publish(a=1 * GIB)
    bench.tick()
    assert room_for(task("setscene", 1), bench.guard.ledger.situation) > 0
    assert [found.tid for found in bench.guard.releasable(is_idle=False)] == ["light", "b"]


def test_while_jobs_are_stopped_what_fits_beside_them_starts(bench: Bench) -> None:
    """What they still need counts; setscene tasks must wait."""
    assert bench.offer(task("a", 1 * GIB))
    bench.publish(stopped=2, rise_bytes=5 * GIB, a=1 * GIB)
    bench.sensor.use(1 * GIB)
    bench.tick()
    assert room_for(task("setscene", 1), bench.guard.ledger.situation) == 0
    assert not bench.offer(task("b", 3 * GIB))
    assert bench.offer(task("c", 2 * GIB))


def test_people_are_told_of_a_hold_that_lasts(bench: Bench) -> None:
    """One that is over before anybody could read of it is in the events only."""
    assert bench.offer(task("a", 5 * GIB))
    assert not bench.offer(task("b", 5 * GIB))
    assert not bench.offer(task("c", 5 * GIB))
    bench.guard.release("c")
    assert bench.said == []
    bench.tick(seconds=SAY_HOLD_S)
    assert bench.said == ["hold r-b do_compile: needs 5.0 GiB, 3.0 GiB will be free"]
    bench.tick("a", seconds=3.0)
    assert bench.offer(task("b", 5 * GIB))
    assert bench.said[1:] == ["start r-b do_compile after 5.0 s: it fits"]


def test_a_light_task_is_not_told_of_so_soon(bench: Bench) -> None:
    """That it waits is worth a line only where nobody would expect it."""
    assert bench.offer(task("a", 8 * GIB))
    bench.sensor.use(8 * GIB)
    bench.publish(a=8 * GIB)
    bench.tick()
    assert not bench.offer(task("b", LIGHT_BYTES))
    bench.tick(seconds=SAY_HOLD_S)
    assert bench.said == []
    bench.tick(seconds=SAY_LIGHT_HOLD_S)
    assert bench.said == ["hold r-b do_compile: needs 64 MiB, nothing will be free"]


def test_a_grant_that_cannot_be_written_is_for_all_jobs(bench: Bench) -> None:
    """On a full disk a task starts with the jobs it wants and counts as such; one warning, and the build goes on."""
    (bench.directory / "grants").write_text("in the way")
    for tid in ("a", "b"):
        assert bench.offer(task(tid, 0, 2 * GIB))
        assert bench.guard.ledger.running[tid].grant.bytes == 16 * GIB
        bench.tick(tid)
    assert [event["jobs"] for event in bench.events("grant")] == [8, 8]
    assert len(bench.warned) == 1
    assert "r-a do_compile starts with all its jobs, not " in bench.warned[0]
    assert bench.guard.ledger.totals.shrunk == 0


@pytest.mark.parametrize(
    ("tid", "mc", "recipe"),
    [
        ("/layers/meta/recipes/m4_1.4.bb:do_compile", "", "m4"),
        ("virtual:native:/layers/meta/gcc-runtime_14.bb:do_compile", "", "gcc-runtime"),
        ("mc:arm:/layers/meta/image.bb:do_compile", "arm", "image"),
    ],
)
def test_a_task_that_no_scheduler_of_ours_knows_is_named_by_its_id(
    bench: Bench, tid: str, mc: str, recipe: str
) -> None:
    """Where BB_SCHEDULER is another, starts and ends tell recipe and task as far as BitBake's id does."""
    bench.guard.task_started(tid, None)
    bench.guard.task_ended(tid, None, "ok")
    for event in bench.events("start", "end"):
        assert (event["recipe"], event["task"], event.get("mc", ""), event["tid"]) == (recipe, "do_compile", mc, tid)


def test_every_line_is_one_that_is_read(bench: Bench) -> None:
    """The story of a build comes out of its log as the events that went in."""
    assert bench.offer(task("a", 5 * GIB))
    assert not bench.offer(task("b", 5 * GIB))
    bench.guard.task_started("a", task("a", GIB))
    bench.guard.task_ended("a", task("a", GIB), "ok")
    bench.guard.finish()
    assert bench.log.path is not None
    kinds = [type(parse(line)) for line in bench.log.path.read_bytes().splitlines()]
    assert kinds == [BuildStarted, Granted, Held, Started, Ended, Released, BuildEnded]
