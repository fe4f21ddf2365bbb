# SPDX-License-Identifier: MIT
"""What one build did, read from its logs, and what to change after it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.channels.state import Marks
from memguard.record.events import Event, JobRow, Stopped, Woken, from_object
from memguard.settings import parse_override
from memguard.units import GIB, MIB
from memguard_cli.advice.build import advise
from memguard_cli.advice.limits import find_limits
from memguard_cli.advice.waiting import limits_needed, waiting_s
from memguard_cli.builds.assemble import NoRecord, end_of, first_s, logs_of, read_build
from memguard_cli.builds.record import NOT_RUN, RUNNING, BuildRecord
from memguard_cli.report.words import heaviest_jobs
from testbed.build_logs import BEGAN_S, STAMP, Logs, make, write_lines

REAL = Path(__file__).resolve().parents[1] / "fixtures" / "builds" / "stopped"
START = {
    "event": "build_start",
    "mode": "enforce",
    "limit_bytes": 4 * GIB,
    "limit_source": "/sys/fs/cgroup/memory.max",
    "used_bytes": 200 * MIB,
    "reserve_bytes": 400 * MIB,
    "cpus": 4,
}
END = {"event": "build_end", "peak_bytes": 3 * GIB, "limit_bytes": 4 * GIB, "oom_kills": 0, "wall_s": 100, "forced": 0}


def task(event: str, name: str = "zlib", **fields: Any) -> dict[str, Any]:
    """An event of one task."""
    return {"event": event, "recipe": name, "task": "do_compile", **fields}


def reading(*tasks: list[Any], used: int = GIB, **fields: Any) -> dict[str, Any]:
    """A reading with these tasks."""
    about = {"used_bytes": used, "limit_bytes": 4 * GIB, "reserve_bytes": 400 * MIB}
    return {"event": "reading", **about, "tasks": list(tasks), **fields}


def logs(events: list[dict[str, Any]], readings: list[dict[str, Any]] | None = None) -> Logs:
    """Logs of these lines; without a time of its own a line comes a second after the one before."""
    return Logs(timed(events), timed(readings or []))


def timed(lines: list[dict[str, Any]]) -> list[Event]:
    """The events in these JSON objects."""
    return [from_object({"time": BEGAN_S + place, **line}) for place, line in enumerate(lines)]


def record(events: list[dict[str, Any]], readings: list[dict[str, Any]], place: Path) -> BuildRecord:
    """The record of a build with these lines."""
    return read_build(logs(events, readings).write(place))


def test_a_task_that_was_held_stopped_killed_and_retried(tmp_path: Path) -> None:
    """Events and readings of one task come together in one run, with all that happened to it."""
    found = record(
        [
            START,
            task("hold", reason="needs 2.0 GiB, 1.0 GiB fit"),
            task("release", held_s=1, reason="it fits"),
            task("grant", jobs=2, wanted_jobs=4, bytes=2 * GIB, origin="kind", reason="2 of 4 jobs fit"),
            task("start", tid="t"),
            task("end", tid="t", outcome="ok", time=BEGAN_S + 60),
            {**END, "time": BEGAN_S + 61},
        ],
        [
            reading(["zlib", "do_compile", GIB, 2, 0, 2], time=BEGAN_S + 5),
            task("stop", program="cc1plus", pid=7, bytes=GIB, reason="short", time=BEGAN_S + 10),
            task("wake", program="cc1plus", pid=7, time=BEGAN_S + 14),
            task("stop", program="cc1plus", pid=8, reason="short", time=BEGAN_S + 20),
            task("kill", program="cc1plus", pid=8, reason="shorter", time=BEGAN_S + 21),
            task("retry", jobs=1, attempt=2, time=BEGAN_S + 22),
            task("task", began=BEGAN_S + 4, wall_s=56, cpu_s=90, jobs=2, peak_bytes=3 * GIB, outcome="memory-kill"),
        ],
        tmp_path,
    )
    (run,) = found.runs
    assert (run.name, run.began_s, run.ended_s, run.outcome) == ("zlib do_compile", BEGAN_S + 4, BEGAN_S + 60, "ok")
    assert [(hold.seconds, hold.reason) for hold in run.holds] == [(1, "needs 2.0 GiB, 1.0 GiB fit")]
    assert [stop.seconds for stop in run.stops] == [4, 1]
    assert [deed.event for deed in run.deeds] == ["stop", "wake", "stop", "kill", "retry"]
    assert (run.jobs, run.wanted_jobs, run.is_shrunk) == (2, 4, True)
    assert (run.peak_bytes, run.granted_bytes, run.origin, run.wall_s) == (3 * GIB, 2 * GIB, "kind", 56)
    assert (found.limit_bytes, found.peak_bytes, found.wall_s) == (4 * GIB, 3 * GIB, 100)
    assert found.marks == Marks(4 * GIB - 400 * MIB, 4 * GIB - 200 * MIB, 4 * GIB - 100 * MIB)
    assert found.remarks == ()


def test_the_kernels_kill_is_the_sentinels_word(tmp_path: Path) -> None:
    """Where the server only saw a task fail, the sentinel tells that it was killed for memory."""
    found = record(
        [START, task("start"), task("end", outcome="failed")], [task("task", outcome="memory-kill")], tmp_path
    )
    assert found.runs[0].outcome == "memory-kill"


def test_a_build_without_an_end(tmp_path: Path) -> None:
    """Tasks that ran or were held when the log ends are told as such, until its last line."""
    found = record(
        [START, task("start", "a"), task("hold", "b", reason="short")], [reading(time=BEGAN_S + 30)], tmp_path
    )
    assert found.end is None
    assert [run.outcome for run in found.runs] == [RUNNING, NOT_RUN]
    assert found.runs[1].holds[0].seconds == 28
    assert found.wall_s == 30


def test_a_task_that_runs_twice_is_two_runs(tmp_path: Path) -> None:
    """One task in two run queues has two runs; readings go to the one that was running."""
    twice = [task("start"), task("end", outcome="ok"), task("start"), task("end", outcome="ok")]
    seen = [reading(["zlib", "do_compile", GIB, 1, 0, 1], time=BEGAN_S + 3.5)]
    found = record([START, *twice, END], seen, tmp_path)
    assert [run.peak_bytes for run in found.runs] == [None, GIB]


def test_multiconfigs_are_kept_apart(tmp_path: Path) -> None:
    """The same task of two configurations is two runs with names of their own."""
    found = record([START, task("start", mc="arm"), task("start", mc="x86")], [], tmp_path)
    assert [run.name for run in found.runs] == ["mc:arm:zlib do_compile", "mc:x86:zlib do_compile"]


def test_observed_holds_are_no_waiting(tmp_path: Path) -> None:
    """In observe mode a hold says what would have been; nothing waited."""
    found = record(
        [{**START, "mode": "observe"}, task("hold", reason="short", observed=True), task("start"), END], [], tmp_path
    )
    assert found.runs[0].would_hold == "short"
    assert found.held_s == 0
    assert "observe" in {advice.code for advice in advise(found, find_limits(found))}


def test_readings_alone_make_runs(tmp_path: Path) -> None:
    """A task that the server does not tell of, as one of sstate, is known by what the sentinel saw."""
    found = record([START], [reading(["tar", "do_setscene", 10 * MIB, 1, 0, None])], tmp_path)
    assert [(run.name, run.peak_bytes) for run in found.runs] == [("tar do_setscene", 10 * MIB)]


@pytest.mark.parametrize(
    ("spoil", "remark"),
    [
        (lambda text: text + '{"event": "en', "the last line of {path} is half-written"),
        (lambda text: "garbage\n" + text, "1 line that is not an event (line 1)"),
        (lambda text: text + '{"event": "moon", "time": 1}\n', "1 events that this version does not know (moon)"),
        (lambda text: text + '{"event": "hold", "time": 1}\n', "1 line that is not an event (line 4)"),
    ],
)
def test_what_cannot_be_read_of_a_log_is_said(tmp_path: Path, spoil: Any, remark: str) -> None:
    """Half-written, damaged and newer logs are told, and what can be read of them is read."""
    path = logs([START, task("start"), END]).write(tmp_path)
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    found = read_build(path)
    assert len(found.runs) == 1
    assert found.start is not None
    (said,) = found.remarks
    assert remark.format(path=path) in said


def test_missing_readings_are_said(tmp_path: Path) -> None:
    """Without a sentinel there are no readings; what the server knows is there all the same."""
    path = logs([START, task("start"), END]).write(tmp_path)
    (tmp_path / "readings" / path.name).unlink()
    found = read_build(path)
    assert len(found.runs) == 1
    (said,) = found.remarks
    assert "there are no readings of this build" in said


@pytest.mark.parametrize(("content", "why"), [("", "is empty"), ("hello\n", "holds no events of a build")])
def test_a_log_of_nothing_is_no_record(tmp_path: Path, content: str, why: str) -> None:
    """An empty log and a file of something else are told apart."""
    path = logs([]).write(tmp_path)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(NoRecord, match=why):
        read_build(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = "recipe task mc jobs wanted_jobs bytes reason tasks used_bytes limit_bytes began peak_bytes pid observed marks"
NAMES = "build_start hold release grant extend start end build_end reading task stop wake kill retry withdraw moon"
LINE = st.fixed_dictionaries(
    {"event": st.sampled_from(NAMES.split()) | JSON, "time": st.floats(0, 1e10) | JSON},
    optional={name: JSON | st.sampled_from(["a", "b"]) for name in FIELDS.split()},
)


@given(st.lists(LINE, max_size=12))
def test_no_line_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]) -> None:
    """Whatever stands in the fields of both logs, it is a record, or none, and advice can be had of it."""
    place = tmp_path_factory.mktemp("logs")
    told = [json.dumps(line) + "\n" for line in lines]
    path = write_lines(place, told, told)
    try:
        found = read_build(path)
    except NoRecord:
        return
    advise(found, find_limits(found))


def test_logs_are_listed_in_the_order_of_their_builds(tmp_path: Path) -> None:
    """Of several builds of one second the tenth comes after the second."""
    for stamp in (f"{STAMP}-10", f"{STAMP}-2", STAMP, "20250131120000"):
        logs([START]).write(tmp_path, stamp)
    assert [path.stem for path in logs_of(tmp_path)] == ["20250131120000", STAMP, f"{STAMP}-2", f"{STAMP}-10"]


def test_begin_and_end_are_read_alone(tmp_path: Path) -> None:
    """When a build began and what it said at its end are had without reading the whole log."""
    path = logs([START, task("start"), END]).write(tmp_path)
    assert first_s(path) == BEGAN_S
    end = end_of(path)
    assert end is not None
    assert end.peak_bytes == 3 * GIB
    assert end_of(logs([START, task("start")]).write(tmp_path, "20270131120000")) is None


# -- advice ------------------------------------------------------------------------------------------------------------


def ran(name: str, peak: int, granted: int, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events and the measure of a task that ended well."""
    grant = task("grant", name, **{"jobs": 4, "wanted_jobs": 4, "bytes": granted, "origin": "kind", **fields})
    measure = task("task", name, began=BEGAN_S, wall_s=5, peak_bytes=peak, outcome="ok")
    return [grant, task("start", name), task("end", name, outcome="ok")], measure


def codes(events: list[dict[str, Any]], readings: list[dict[str, Any]], place: Path) -> dict[str, Any]:
    """The advice to a build, by its code."""
    built = record(events, readings, place)
    return {advice.code: advice for advice in advise(built, find_limits(built))}


def test_a_prediction_that_was_too_low_is_told_with_a_line(tmp_path: Path) -> None:
    """A task without history that took far more than predicted gets a line that settings.py takes."""
    events, measure = ran("webkitgtk", 4 * GIB, GIB)
    said = codes([START, *events, END], [measure], tmp_path)["predicted-too-low"]
    assert "webkitgtk do_compile 4.0 GiB of 1.0 GiB" in said.finding
    name, _, value = said.lines.partition(" = ")
    assert name == "MEMGUARD_FOOTPRINT:pn-webkitgtk"
    footprint = parse_override(value.strip('"'))["do_compile"]
    assert 4 * GIB < footprint.peak_bytes(4) < 5 * GIB


def test_history_and_own_lines_are_no_matter_of_the_prior(tmp_path: Path) -> None:
    """What the history predicted is left to the history; a user's own line that is far off is named."""
    events, measure = ran("webkitgtk", 4 * GIB, GIB, origin="history")
    assert "predicted-too-low" not in codes([START, *events, END], [measure], tmp_path)
    events, measure = ran("webkitgtk", 4 * GIB, GIB, origin="MEMGUARD_FOOTPRINT")
    assert "own-footprint-off" in codes([START, *events, END], [measure], tmp_path)


def test_a_killed_tasks_line_is_for_its_largest_job(tmp_path: Path) -> None:
    """Of a task that was killed and ran again with fewer jobs, the size of the job that was killed counts."""
    events, measure = ran("llvm", 600 * MIB, 800 * MIB, origin="history")
    kill = task("kill", "llvm", program="cc1plus", pid=7, bytes=500 * MIB)
    seen = reading(["llvm", "do_compile", 700 * MIB, 2, 0, 1])
    retry = task("retry", "llvm", jobs=1, attempt=1)
    found = codes([START, *events, END], [seen, kill, retry, measure], tmp_path)["killed-tasks"]
    assert "it ended well after a retry" in found.finding
    assert found.lines == 'MEMGUARD_FOOTPRINT:pn-llvm = "do_compile:per_job=580M"'


def test_hostile_names_make_no_configuration(tmp_path: Path) -> None:
    """A recipe's name that could end a line of configuration is told in words only."""
    events, measure = ran('x"\nINHERIT += "evil', 4 * GIB, GIB)
    assert codes([START, *events, END], [measure], tmp_path)["predicted-too-low"].lines == ""


def test_waiting_asks_for_a_larger_limit(tmp_path: Path) -> None:
    """A build in which tasks waited for much of the time is told which limit would have spared that."""
    events = [
        START,
        task("grant", "a", jobs=4, wanted_jobs=4, bytes=3 * GIB, origin="history"),
        task("start", "a"),
        task("grant", "c", jobs=1, wanted_jobs=1, bytes=100 * MIB, origin="history"),
        task("start", "c"),
        task("hold", "b", reason="short"),
        task("end", "a", outcome="ok", time=BEGAN_S + 50),
        task("release", "b", held_s=45, time=BEGAN_S + 50),
        task("grant", "b", jobs=2, wanted_jobs=4, bytes=2 * GIB, origin="history", time=BEGAN_S + 50),
        task("start", "b", time=BEGAN_S + 50),
        task("end", "c", outcome="ok", time=BEGAN_S + 99),
        task("end", "b", outcome="ok", time=BEGAN_S + 99),
        {**END, "time": BEGAN_S + 100},
    ]
    found = record(events, [reading()], tmp_path)
    assert waiting_s(found) == 45
    # Two threads were seen: b would have run beside c when a had ended, with all its four jobs: 4 GiB.
    assert [size // MIB for size, _ in limits_needed(found)] == [200 + 4096 + 100 + 400]
    (said,) = [advice for advice in advise(found, find_limits(found)) if advice.code == "larger-limit"]
    assert "5.0 GiB" in said.remedy


def test_a_limit_that_is_hardly_used_could_be_smaller(tmp_path: Path) -> None:
    """Where nothing waited and most of the limit was free, a smaller one is named."""
    many = [task("start", f"r{number}") for number in range(30)]
    quiet = {**END, "peak_bytes": GIB}
    assert "smaller-limit" not in codes([START, *many, END], [], tmp_path)
    assert "2.0 GiB" in codes([START, *many, quiet], [reading()], tmp_path)["smaller-limit"].remedy


@pytest.mark.parametrize(
    ("events", "readings", "code"),
    [
        ([{**START, "limit_bytes": None}, END], [], "no-limit"),
        ([START, {**END, "oom_kills": 2}], [], "kernel-kills"),
        ([START, *ran("a", GIB, GIB)[0], {**END, "forced": 1}], [], "runs-alone"),
        (
            [START, task("start"), task("end", outcome="failed"), END],
            [task("task", outcome="memory-kill")],
            "killed-tasks",
        ),
        ([START, task("start"), task("end", outcome="ok"), END], [task("task", outcome="throttled")], "throttled"),
        ([START, task("start")], [reading(used=GIB)], "killed-from-outside"),
        ([START, task("start")], [reading(used=4 * GIB - MIB)], "killed-at-limit"),
        ([START, *[line for n in range(30) for line in ran(f"r{n}", MIB, MIB)[0]], END], [], "no-history"),
    ],
)
def test_what_there_is_to_say(
    tmp_path: Path, events: list[dict[str, Any]], readings: list[dict[str, Any]], code: str
) -> None:
    """Each thing that can be found is found."""
    assert code in codes(events, readings, tmp_path)


def test_a_calm_build_gets_no_advice(tmp_path: Path) -> None:
    """A build whose predictions were good and that never waited has nothing to change."""
    events, measure = ran("a", GIB, GIB + 100 * MIB, origin="history")
    assert codes([START, *events, END], [measure], tmp_path) == {}


def test_a_running_build_was_not_killed(tmp_path: Path) -> None:
    """A log without an end is no killed build while its sentinel lives."""
    found = record([START, task("start")], [reading()], tmp_path)
    assert "killed-from-outside" not in {advice.code for advice in advise(found, find_limits(found), is_running=True)}


def test_simulated_builds_are_whole(tmp_path: Path) -> None:
    """The logs that tests and benches are made of read as a build with all its tasks, and the same ones each time."""
    first, again = make(300), make(300)
    assert first == again
    found = read_build(first.write(tmp_path))
    assert len(found.runs) == 300
    assert {run.outcome for run in found.runs} <= {"ok", "failed"}
    assert found.held_s > 0
    assert found.count(Stopped) > 0
    assert found.remarks == ()
    assert replace(found, events_path=Path()) == replace(read_build(again.write(tmp_path)), events_path=Path())


def test_lines_without_end_are_passed_over(tmp_path: Path) -> None:
    """A line of megabytes is no event, and what follows it is read."""
    path = logs([START]).write(tmp_path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "' + "x" * (3 * MIB) + '"}\n' + json.dumps({"time": BEGAN_S, **task("start")}) + "\n")
    assert [run.recipe for run in read_build(path).runs] == ["zlib"]


def test_a_real_builds_logs() -> None:
    """The logs of a real build under a real limit are read whole, and say what happened and what to do."""
    (log,) = logs_of(REAL)
    found = read_build(log)
    assert found.remarks == ()
    assert found.end is not None
    assert (found.limit_bytes, found.mode) == (2362228736, "enforce")
    assert {run.outcome for run in found.runs if run.granted_bytes} == {"ok"}
    heaviest = [run.name for run in found.heaviest(3)]
    assert sorted(heaviest) == ["heavy-cmake do_compile", "heavy-make do_compile", "heavy-serial do_compile"]
    assert found.count(Stopped) == found.count(Woken) > 10
    stopped = [run for run in found.runs if run.stops]
    assert {run.recipe for run in stopped} == {"heavy-make", "heavy-cmake"}
    assert all(run.began_s and stop.begin_s >= run.began_s for run in stopped for stop in run.stops)
    assert found.peak_bytes is not None
    assert 2 * GIB < found.peak_bytes < 2362228736
    advice = {said.code: said for said in advise(found, find_limits(found))}
    lines = advice["own-footprint-off"].lines.splitlines()
    assert [line.partition(" = ")[0] for line in lines] == [
        "MEMGUARD_FOOTPRINT:pn-heavy-make",
        "MEMGUARD_FOOTPRINT:pn-heavy-cmake",
    ]


def test_of_a_killed_build_the_largest_compilers_are_known(tmp_path: Path) -> None:
    """A task that never ended was not measured: the readings name what was the largest, each at its largest."""
    at = ["heavy", "do_compile"]
    jobs = [[*at, "a.cpp", "cc1plus", GIB, 2.0], [*at, "a.cpp", "cc1plus", 2 * GIB, 3.0], [*at, "lib.so", "ld", GIB, 1]]
    told = [{**reading(), "heaviest_job": job} for job in [*jobs, [*at, 7], None, "ld", [*at, "b", "ld", -1, 0]]]
    found = record([START, task("start", "heavy")], told, tmp_path)
    (run,) = found.runs
    assert [(job.source, job.peak_bytes, job.was_killed) for job in run.heaviest_jobs] == [
        ("a.cpp", 2 * GIB, 1),
        ("lib.so", GIB, 1),
    ]
    (first, _) = heaviest_jobs(found, 5)
    assert (first.name, first.peak, first.run.name) == ("a.cpp", "> 2.0 GiB", "heavy do_compile")
    measured = task(
        "task", "heavy", wall_s=5, outcome="ok", heaviest_jobs=[["b.cpp", "cc1", GIB, 4.5], ["", "ld", 9], 3]
    )
    (run,) = record([START, task("start", "heavy")], [*told, measured], tmp_path / "ended").runs
    assert run.heaviest_jobs == (JobRow("b.cpp", "cc1", GIB, 4.5),)
