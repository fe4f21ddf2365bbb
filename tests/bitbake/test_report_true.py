# SPDX-License-Identifier: MIT
"""What `memguard report` says of a real build beside what others measured of it: cgroup files and a poller of /proc."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed import builddir, memory
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST
from testbed.command import memguard
from testbed.container import Container, NoContainer, container

META_MEMGUARD = Path(__file__).resolve().parents[2] / "meta-memguard"
MIB = 1024**2
LIMIT = 2048 * MIB
# The third is thought to be light, and grows to more than is left beside the first; the second does not fit beside it.
SIZES = {"tiny-01": 700, "tiny-02": 1300, "tiny-07": 1200}
THOUGHT = {"tiny-01": 700, "tiny-02": 1300, "tiny-07": 60}
# It compiles a real source file.
REAL = "tiny-07"
RECIPES = tuple(SIZES)


def grow(mib: int, steps: int, step_ms: int, last_ms: int) -> str:
    """Words for memory_program: so much in equal steps, and then the whole for a while."""
    return " ".join([f"anon {mib // steps} sleep {step_ms}"] * steps + [f"sleep {last_ms}"])


@dataclass
class Seen:
    """One compiler: what it took, and for how long it was there."""

    began_s: float
    ended_s: float = 0.0
    peak_bytes: int = 0


@dataclass
class Run:
    """One task as /proc has it, by the session that its process leads.

    peak_bytes: of all processes of the session. stopped_s, stops: of its compiler. unsure_s: the time between two looks
    of which one saw it stopped. compilers: those of it, by pid.
    """

    recipe: str
    peak_bytes: int = 0
    stopped_s: float = 0.0
    unsure_s: float = 0.0
    stops: int = 0
    is_stopped: bool = field(default=False, repr=False)
    compilers: dict[str, Seen] = field(default_factory=dict)


class Poller(threading.Thread):
    """Looks at /proc some twenty times a second for the sessions in which a cc1plus runs, and at the container.

    gap_s: the longest time between two looks.
    """

    def __init__(self, box: Container) -> None:
        super().__init__(daemon=True)
        self.runs: dict[str, Run] = {}
        self.peak_bytes = 0
        self.gap_s = 0.0
        self._box, self._is_over = box, threading.Event()

    def run(self) -> None:
        """Look until the build is over."""
        before_s = time.time()
        while not self._is_over.wait(0.05):
            now_s = time.time()
            self.gap_s = max(self.gap_s, now_s - before_s)
            self.peak_bytes = max(self.peak_bytes, _used_bytes(self._box.directory))
            sessions = _sessions()
            for session, processes in sessions.items():
                self._look(session, processes, now_s, now_s - before_s)
            before_s = now_s

    def _look(self, session: str, processes: dict[str, list[str]], now_s: float, passed_s: float) -> None:
        for pid, stat in processes.items():
            if stat[0] == "cc1plus":
                recipe = _recipe_of(_text(f"/proc/{pid}/cmdline"))
                if recipe:
                    self.runs.setdefault(session, Run(recipe))
                is_stopped = stat[1] == "T"
                if run := self.runs.get(session):
                    seen = run.compilers.setdefault(pid, Seen(_start_s(stat[2])))
                    seen.ended_s, seen.peak_bytes = now_s, max(seen.peak_bytes, _held_bytes(pid))
                    run.stops += is_stopped and not run.is_stopped
                    run.stopped_s += passed_s * (is_stopped and run.is_stopped)
                    run.unsure_s += passed_s * (is_stopped != run.is_stopped)
                    run.is_stopped = is_stopped
        if run := self.runs.get(session):
            run.peak_bytes = max(run.peak_bytes, sum(map(_held_bytes, processes)))

    def __enter__(self) -> Poller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()

    def of(self, recipe: str) -> Run:
        """The one compile of a recipe."""
        (found,) = (run for run in self.runs.values() if run.recipe == recipe)
        return found


def _text(path: str) -> str:
    """A file of /proc, empty where its process has gone."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


def _recipe_of(command_line: str) -> str:
    """The recipe that a compiler is of, by where it or what it compiles lies; "" for none that is known."""
    names = {Path(word).parent.name for word in command_line.split("\0")}
    return next((recipe for recipe in RECIPES if recipe in names), "")


def _sessions() -> dict[str, dict[str, list[str]]]:
    """The processes of each session, with name, state and when they began, in ticks."""
    found: dict[str, dict[str, list[str]]] = {}
    for pid in (path.name for path in Path("/proc").glob("[0-9]*")):
        head, _, rest = _text(f"/proc/{pid}/stat").rpartition(")")
        if rest:
            fields = rest.split()
            found.setdefault(fields[3], {})[pid] = [head.partition("(")[2], fields[0], fields[19]]
    return found


def _start_s(ticks: str) -> float:
    """When a process began, in seconds since 1970; btime of /proc/stat has whole seconds only."""
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_s + int(ticks) / os.sysconf("SC_CLK_TCK")


def _held_bytes(pid: str) -> int:
    """What a process holds, what it shares counted by its part."""
    lines = _text(f"/proc/{pid}/smaps_rollup").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


def _used_bytes(directory: Path) -> int:
    """Anonymous and shared memory of a cgroup, v1 or v2, by its own file."""
    lines = (directory / "memory.stat").read_text(encoding="ascii").splitlines()
    told = {line.split()[0]: int(line.split()[1]) for line in lines}
    if "anon" in told:
        return told["anon"] + told["shmem"]
    return told["total_rss"] + told.get("total_shmem", 0)


def _times(directory: Path) -> dict[tuple[str, str, str], float]:
    """When BitBake has started tasks, and when they had ended, by event, recipe and task, as a class has written it."""
    lines = (directory / "task-times").read_text(encoding="ascii").splitlines()
    return {(event, recipe, task): float(time_s) for time_s, event, recipe, task in map(str.split, lines)}


def _lasted_s(directory: Path, recipe: str) -> float:
    """How long a compile took by BitBake's server: from before it asks for it until after it has heard of its end."""
    times = _times(directory)
    began_s = times["runQueueTaskStarted", recipe, "do_compile"]
    return times["runQueueTaskCompleted", recipe, "do_compile"] - began_s


def _waited_s(directory: Path, recipe: str) -> float:
    """From when a compile had all it needs until BitBake started it."""
    times = _times(directory)
    ready_s = times["runQueueTaskCompleted", recipe, "do_configure"]
    return times["runQueueTaskStarted", recipe, "do_compile"] - ready_s


def _report(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report says for machines, and of it the compiles by recipe."""
    done = memguard("report", "--json", cwd=directory)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return told, {task["recipe"]: task for task in told["tasks"] if task["task"] == "do_compile"}


def _heavy_source() -> str:
    """A C++ file that a real compiler holds some 150 MiB for, for some seconds."""
    body = " ".join(f"x = x * {n} + y; if (x > {n}) y += f(x, {n});" for n in range(12))
    functions = "\n".join(
        f"template <> long g<{n}>(long x, long y) {{ {body} return x ^ y ^ {n}; }}" for n in range(1000)
    )
    return f"long f(long, long);\ntemplate <int N> long g(long x, long y);\n{functions}\n"


@pytest.mark.memcg
def test_a_report_says_what_others_measured(bitbake: BitBake, tmp_path: Path) -> None:
    """Peak and peaks of tasks are within 5 % of what /proc and the cgroup showed, times within what is certain.

    On a busy machine seconds may pass between two looks of the poller, or between an event and who is told of it.
    """
    try:
        program = memory.build(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    conf = 'INHERIT += "memguard task_times"\nBB_NUMBER_THREADS = "6"\nMEMGUARD_RETRY_TASKS = ""\n'
    for recipe, mib in SIZES.items():
        place = tmp_path / recipe
        place.mkdir()
        shutil.copy(program, place / "cc1plus")
        words = grow(mib, 10, 400 if recipe == "tiny-07" else 40, 6000)
        conf += f'TINY_COMMAND:pn-{recipe} = "{place}/cc1plus {words}"\n'
        conf += f'MEMGUARD_FOOTPRINT:pn-{recipe} = "do_compile:base={THOUGHT[recipe]}M"\n'
    directory = builddir.make(tmp_path / "build", [META_TEST, META_MEMGUARD], conf)
    try:
        with container(LIMIT, "memguard-test") as box, Poller(box) as poller:
            result = builddir.run(bitbake, directory, *SIZES, prefix=box.prefix)
            kills = box.oom_kills
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert result.returncode == 0, result.output
    told, tasks = _report(directory)
    assert told["standing"] == "ended"
    assert told["oom_kills"] == kills
    if told["counts"]["killed"] or kills:
        pytest.skip("a compiler was killed this time, so that tasks ran twice")
    assert told["peak_bytes"] == pytest.approx(poller.peak_bytes, rel=0.05)
    # One that goes on for a moment between two looks of the poller was stopped twice.
    assert sum(run.stops for run in poller.runs.values()) <= told["counts"]["stopped"]
    # Which of the two happens depends on how fast BitBake is.
    assert told["counts"]["stopped"] or any(task["held_s"] for task in tasks.values())
    for recipe, task in tasks.items():
        run = poller.of(recipe)
        assert task["peak_bytes"] == pytest.approx(run.peak_bytes, rel=0.05), recipe
        (seen,) = run.compilers.values()
        assert seen.ended_s - seen.began_s - 0.1 <= task["wall_s"] <= _lasted_s(directory, recipe) + 0.1, recipe
        # What went on for a moment between two looks of the poller was stopped once more than it saw.
        missed = max(0, [act[0] for act in task["acts"]].count("stop") - run.stops)
        least_s = 0.95 * run.stopped_s - missed * poller.gap_s
        assert least_s - 0.5 <= task["stopped_s"] <= 1.05 * (run.stopped_s + run.unsure_s) + 0.5, run
        # BitBake asks for a task in its next round, and while the CPUs are busy memguard says of none that it is held.
        assert task["held_s"] <= 1.05 * _waited_s(directory, recipe) + 0.5, recipe
        for begin_s, end_s, _ in task["holds"][-1:]:
            started_s = _times(directory)["runQueueTaskStarted", recipe, "do_compile"]
            assert end_s == pytest.approx(started_s, abs=2.0), recipe
            assert begin_s >= started_s - _waited_s(directory, recipe) - 0.5, recipe


@pytest.mark.memcg
def test_kills_are_counted_and_what_was_built_is_named(bitbake: BitBake, tmp_path: Path) -> None:
    """As many kills and retries as programs ended with status 137; the file that a real g++ took most for, and what.

    The first task is thought to need less than it takes, and is the oldest, so the other one is killed for it.
    """
    try:
        program = memory.build(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    conf = f'INHERIT += "memguard task_times"\nBB_NUMBER_THREADS = "6"\nDEPENDS:pn-tiny-02 = "{REAL}"\n'
    begun, exits_file = tmp_path / "begun", tmp_path / "exits"
    # The first task begins before the other one, and takes memory only when that has what it wants.
    wait = f"until [ -e {begun} ]; do sleep 0.1; done; sleep 1.5"
    last = f"$(if [ -e {exits_file} ]; then echo 500; else echo 60000; fi)"
    for recipe, thought, before, words in (
        ("tiny-01", 700, wait, grow(1500, 20, 300, 1000)),
        ("tiny-02", 60, f"touch {begun}", f"{grow(700, 10, 40, 0)} sleep {last}"),
    ):
        (tmp_path / recipe).mkdir()
        shutil.copy(program, tmp_path / recipe / "cc1plus")
        conf += f'MEMGUARD_FOOTPRINT:pn-{recipe} = "do_compile:base={thought}M"\n'
        conf += (
            f'TINY_COMMAND:pn-{recipe} = "{before}; {tmp_path}/{recipe}/cc1plus {words} || '
            f'{{ echo $? >> {exits_file}; exit 137; }}"\n'
        )
    (tmp_path / REAL).mkdir()
    source = tmp_path / REAL / "heavy.cpp"
    source.write_text(_heavy_source(), encoding="ascii")
    conf += f'TINY_COMMAND:pn-{REAL} = "g++ -O1 -c -o heavy.o {source}"\n'
    directory = builddir.make(tmp_path / "build", [META_TEST, META_MEMGUARD], conf)
    try:
        with container(LIMIT, "memguard-test") as box, Poller(box) as poller:
            result = builddir.run(bitbake, directory, "tiny-01", "tiny-02", REAL, prefix=box.prefix)
            kills = box.oom_kills
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert result.returncode == 0, result.output
    told, tasks = _report(directory)
    exits = exits_file.read_text(encoding="ascii").split()
    assert set(exits) == {"137"}
    assert (told["counts"]["killed"], told["counts"]["retried"], told["oom_kills"]) == (len(exits), len(exits), 0)
    assert kills == 0
    # It is near its limit for a moment only, until one is killed, and the poller may look a moment later.
    assert told["peak_bytes"] == pytest.approx(poller.peak_bytes, rel=0.1)
    killed = [act for recipe in tasks for act in tasks[recipe]["acts"] if act[0] == "kill"]
    assert len(killed) == len(exits)
    (heaviest,) = tasks[REAL]["heaviest_jobs"]
    (seen,) = poller.of(REAL).compilers.values()
    assert heaviest["source"].endswith(f"/{tmp_path.name}/{REAL}/heavy.cpp")
    assert heaviest["program"] == "cc1plus"
    # It grows until it ends, which is between two looks of both.
    assert heaviest["peak_bytes"] == pytest.approx(seen.peak_bytes, rel=0.15)
    # Without the time that it was stopped. It ends between two looks, taken to be in the middle.
    real, lasted_s = poller.of(REAL), seen.ended_s - seen.began_s
    least_s = lasted_s - real.stopped_s - real.unsure_s
    assert 0.95 * least_s - 2.0 <= heaviest["wall_s"] <= 1.05 * (lasted_s - real.stopped_s) + 2.0
    assert tasks[REAL]["peak_bytes"] == pytest.approx(poller.of(REAL).peak_bytes, rel=0.15)
    # The whole graph is there: what was configured before it was compiled, and what it depends on.
    assert "heavy.cpp" in memguard("report", "--text", cwd=directory).stdout
    starts = [json.loads(line) for line in _events(directory) if '"event": "start"' in line]
    names = [(start["recipe"], start["task"]) for start in starts]
    after = {name: {names[number] for number in start.get("after", ())} for name, start in zip(names, starts)}
    assert after["tiny-02", "do_configure"] == {("tiny-02", "do_unpack"), (REAL, "do_install")}


def _events(directory: Path) -> list[str]:
    (log,) = (directory / "memguard" / "events").glob("*.jsonl")
    return log.read_text(encoding="utf-8").splitlines()
