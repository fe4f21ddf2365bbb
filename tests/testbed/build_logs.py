# SPDX-License-Identifier: MIT
"""Logs and states of builds that never were, of any size, in the form that real builds leave.

Covers: a small simulation of tasks that start, are held until they fit, are stopped, killed and retried; the same
seed gives the same build. Names are those of OpenEmbedded recipes.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.state import Counts, HeldTask, Marks, State, TaskState
from memguard.record.events import (
    BuildEnded,
    BuildStarted,
    Ended,
    Event,
    Granted,
    Held,
    JobRow,
    Killed,
    ReadingTaken,
    Released,
    Retried,
    Started,
    Stopped,
    TaskMeasured,
    TaskRow,
    Withdrawn,
    Woken,
    as_line,
    as_object,
)
from memguard.units import GIB, MIB

STAMP = "20260131120000"
BEGAN_S = 1769860800.0
HEAVY = {
    "llvm-native": 1500,
    "webkitgtk": 2300,
    "nodejs-native": 1300,
    "qtwebengine": 2600,
    "rust-native": 1900,
    "gcc-cross-x86_64": 900,
    "linux-yocto": 450,
    "mesa": 500,
    "boost": 700,
    "protobuf": 600,
    "openssl": 220,
    "systemd": 260,
}
LIGHT = ("zlib", "ncurses", "bash", "busybox", "glib-2.0", "libxml2", "curl", "expat", "util-linux", "python3", "perl")
TASKS = ("do_configure", "do_compile", "do_install", "do_package", "do_populate_sysroot")


@dataclass(order=True)
class _Running:
    ends_s: float
    recipe: str
    task: str
    began_s: float = field(compare=False)
    peak_bytes: int = field(compare=False)
    granted_bytes: int = field(compare=False)
    jobs: int = field(compare=False)
    outcome: str = field(compare=False, default="ok")

    def current(self, now_s: float) -> int:
        """Rises to its peak in the first half."""
        share = (now_s - self.began_s) / max(1.0, self.ends_s - self.began_s)
        return int(self.peak_bytes * min(1.0, 0.25 + 1.5 * share))


@dataclass
class Logs:
    """The lines of both logs, in order."""

    events: list[Event] = field(default_factory=list)
    readings: list[Event] = field(default_factory=list)

    def write(self, directory: Path, stamp: str = STAMP) -> Path:
        """Write both below a MEMGUARD_DIR; the events log."""
        return write_lines(directory, map(as_line, self.events), map(as_line, self.readings), stamp)


def write_lines(directory: Path, events: Iterable[str], readings: Iterable[str], stamp: str = STAMP) -> Path:
    """Write these lines as the logs of a build, whatever they are; the events log."""
    written = BuildDirectory(directory)
    for folder, lines in ((written.events, events), (written.readings, readings)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stamp}.jsonl").write_text("".join(lines), encoding="utf-8")
    return written.events / f"{stamp}.jsonl"


def make(tasks: int = 200, seed: int = 1, limit_bytes: int = 16 * GIB, threads: int = 8, has_end: bool = True) -> Logs:
    """A build of that many tasks under a limit."""
    chance = random.Random(seed)
    logs = Logs()
    waiting = _tasks(tasks, chance)
    reserve_bytes, idle_bytes = limit_bytes // 20, 300 * MIB
    running: list[_Running] = []
    held: dict[tuple[str, str], float] = {}
    counted = {"granted": 0, "held": 0, "shrunk": 0, "forced": 0}
    held_s = 0.0
    peak_bytes, now_s, reading_s = idle_bytes, BEGAN_S, BEGAN_S
    stop_bytes = limit_bytes * 92 // 100

    def read(time_s: float) -> int:
        now = sorted(running, key=lambda run: -run.current(time_s))
        used = idle_bytes + sum(run.current(time_s) for run in now)
        rows = tuple(TaskRow(run.recipe, run.task, run.current(time_s), run.jobs, 0, run.jobs) for run in now[:30])
        logs.readings.append(ReadingTaken(round(time_s, 3), used, limit_bytes, reserve_bytes, rows))
        return used

    logs.events.append(
        BuildStarted(now_s, "enforce", limit_bytes, "/sys/fs/cgroup/memory.max", idle_bytes, reserve_bytes, cpus=8.0)
    )
    while waiting or running:
        free = limit_bytes - reserve_bytes - idle_bytes - sum(max(run.granted_bytes, 1) for run in running)
        for task in list(waiting[: 3 * threads]):
            recipe, name, peak, seconds, jobs, wrong = task
            granted = int(peak * wrong)
            if len(running) >= threads:
                break
            key, at_s = (recipe, name), round(now_s, 3)
            if granted > free and running:
                if key not in held:
                    held[key] = now_s
                    counted["held"] += 1
                    why = f"needs {granted // MIB} MiB, {max(0, free) // MIB} MiB fit"
                    logs.events.append(Held(at_s, *key, reason=why, used_bytes=idle_bytes))
                continue
            waiting.remove(task)
            if key in held:
                waited_s = now_s - held.pop(key)
                held_s += waited_s
                logs.events.append(Released(at_s, *key, held_s=round(waited_s, 3), reason="it fits"))
            is_shrunk = name == "do_compile" and granted > free / 2 and jobs > 2
            got = jobs // 2 if is_shrunk else jobs
            counted["granted"] += 1
            counted["shrunk"] += is_shrunk
            origin = "history" if chance.random() < 0.7 else "known" if recipe in HEAVY else "default"
            reason = f"{got} of {jobs} jobs fit into {max(0, free) // MIB} MiB" if is_shrunk else "it fits"
            logs.events.append(Granted(at_s, *key, "", got, jobs, granted, origin, reason, idle_bytes))
            logs.events.append(Started(at_s, *key, tid=f"/layers/{recipe}.bb:{name}"))
            run = _Running(now_s + seconds, recipe, name, now_s, peak, granted, got)
            heapq.heappush(running, run)
            free -= granted
        if not running:
            continue
        next_s = running[0].ends_s
        while reading_s < next_s:
            used = read(reading_s)
            if used > stop_bytes:
                _act(logs, running, reading_s, used, chance)
            peak_bytes = max(peak_bytes, used)
            reading_s += 1.0
        run = heapq.heappop(running)
        now_s, at_s = run.ends_s, round(run.ends_s, 3)
        tid = f"/layers/{run.recipe}.bb:{run.task}"
        logs.events.append(Ended(at_s, run.recipe, run.task, tid=tid, outcome=run.outcome))
        wall_s = round(run.ends_s - run.began_s, 3)
        logs.readings.append(
            TaskMeasured(
                *(at_s, run.recipe, run.task, round(run.began_s, 3), wall_s, round(wall_s * run.jobs * 0.8, 3)),
                *(run.jobs, run.granted_bytes, run.peak_bytes, run.outcome, None, _heaviest_jobs(run)),
            )
        )
    if has_end:
        ends_s = now_s + 1
        end = BuildEnded(round(ends_s, 3), peak_bytes, limit_bytes, oom_kills=0, wall_s=round(ends_s - BEGAN_S, 3))
        logs.events.append(replace(end, **counted, held_s=round(held_s, 3)))
    return logs


def _heaviest_jobs(run: _Running) -> tuple[JobRow, ...]:
    """The largest compilers of a task that compiles, and its link."""
    if run.task != "do_compile" or run.peak_bytes < 200 * MIB:
        return ()
    files = ("Sema/SemaTemplate.cpp", "core/dom/Document.cpp", "bindings/V8Window.cpp", "passes/Inliner.cpp")
    wall_s = run.ends_s - run.began_s
    rows = [JobRow(f"lib/lib{run.recipe}.so", "ld", run.peak_bytes * 45 // 100, round(wall_s * 0.2, 1))]
    for place, name in enumerate(files):
        size = run.peak_bytes * (38 - 5 * place - len(run.recipe) % 4) // 100
        rows.append(JobRow(f"src/{name}", "cc1plus", size, round(wall_s * (0.3 - 0.05 * place), 1)))
    return tuple(rows)


def _tasks(number: int, chance: random.Random) -> list[tuple[str, str, int, float, int, float]]:
    """Recipe, task, peak, seconds, jobs, and predicted share of the peak, of each task."""
    recipes = [*HEAVY, *LIGHT]
    made = []
    for place in range(number):
        round_, name = divmod(place, len(recipes) * len(TASKS))
        recipe = recipes[name % len(recipes)] + (f"-{round_}" if round_ else "")
        task = TASKS[name // len(recipes)]
        heavy_mib = HEAVY.get(recipes[name % len(recipes)], 40)
        if round_:
            heavy_mib = int(heavy_mib * chance.uniform(0.05, 0.6))
        jobs = 8 if task in ("do_compile", "do_install") else 1
        if task == "do_compile":
            peak, seconds = int(heavy_mib * MIB * chance.uniform(1.5, 3.2)), heavy_mib / 6 * chance.uniform(0.5, 1.5)
        else:
            peak, seconds = int(chance.uniform(20, 160) * MIB), chance.uniform(1, 12)
        made.append((recipe, task, peak, max(1.0, seconds), jobs, chance.choice((0.45, 0.75, 0.95, 1.1, 1.4))))
    return made


def _act(logs: Logs, running: list[_Running], time_s: float, used: int, chance: random.Random) -> None:
    """What the sentinel does when memory is short: stop the newest and wake it; now and then kill and retry."""
    newest = max(running, key=lambda run: run.began_s)
    task = (newest.recipe, newest.task)
    about: dict[str, Any] = {"program": "cc1plus", "reason": f"{used // MIB} MiB used, above the stop mark"}
    job: dict[str, Any] = {**about, "pid": 4000 + int(time_s) % 1000, "used_bytes": used}

    def at(seconds: float) -> float:
        return round(time_s + seconds, 3)

    logs.readings.append(Withdrawn(at(0), *task, used_bytes=used))
    logs.readings.append(Stopped(at(0.1), *task, bytes=400 * MIB, **job))
    if chance.random() < 0.2:
        logs.readings.append(Killed(at(0.3), *task, bytes=500 * MIB, **job))
        logs.readings.append(Retried(at(0.6), *task, jobs=max(1, newest.jobs // 2), attempt=2, **about))
    else:
        logs.readings.append(Woken(at(4), *task, bytes=400 * MIB, **job))


def make_state(tasks: int = 6, held: int = 3, now_s: float = BEGAN_S, pid: int = 1, **fields: Any) -> State:
    """The state of a running build; `fields` are of State."""
    limit = 16 * GIB
    running = {}
    for place, recipe in enumerate([*HEAVY, *LIGHT][:tasks]):
        granted = HEAVY.get(recipe, 100) * 3 // 2 * MIB
        state = {1: "stopped", 4: "retrying"}.get(place, "running")
        tid = f"/layers/{recipe}.bb:do_compile"
        running[tid] = TaskState(
            pid=5000 + place,
            start_ticks=100 * place,
            tid=tid,
            recipe=recipe,
            version="1.0",
            task="do_compile",
            machine="core2-64",
            jobs=8,
            most_jobs=8,
            state=state,
            place=place,
            since=now_s - 60 * (place + 1),
            current_bytes=granted * (60 + 7 * place) // 100,
            peak_bytes=granted * (65 + 7 * place) // 100,
            granted_bytes=granted,
            tokens=3 + place if state == "running" else None,
            compilers=8,
            stopped=3 if state == "stopped" else 0,
        )
    names = ["chromium-x11", "libreoffice", "tensorflow-lite", "gtk4", "qtbase"][:held]
    waiting = [
        HeldTask(recipe, "do_compile", "needs 2.4 GiB, 1.1 GiB fit", now_s - 30 * (held - place))
        for place, recipe in enumerate(names)
    ]
    above = "15.0 GiB used, above the stop mark of 14.7 GiB"
    events: tuple[Event, ...] = (
        Held(now_s - 90, "chromium-x11", "do_compile", reason="needs 2.4 GiB"),
        Stopped(now_s - 20, "webkitgtk", "do_compile", 15 * GIB, "cc1plus", 4711, 812 * MIB, above),
        Retried(now_s - 5, "rust-native", "do_compile", jobs=4, attempt=2),
    )
    found = State(
        time_s=1000.0,
        time=now_s,
        build=f"{STAMP}-4711",
        pid=pid,
        limit_bytes=limit,
        limit_source="/sys/fs/cgroup/memory.max",
        used_bytes=13 * GIB + 400 * MIB,
        reserve_bytes=limit // 20,
        cpus=8.0,
        mode="enforce",
        marks=Marks(limit * 88 // 100, limit * 92 // 100, limit * 96 // 100),
        tasks=running,
        held=tuple(waiting),
        counts=Counts(granted=120, held=9, shrunk=4, stopped=2, killed=1, retried=1),
        events=tuple(map(as_object, events)),
    )
    return replace(found, **fields)
