# SPDX-License-Identifier: MIT
"""Logs and states of builds that never were, of any size, in the form that real builds leave.

Covers: a small simulation of tasks that start, are held until they fit, are stopped, killed and retried; the same
seed gives the same build. Names are those of OpenEmbedded recipes.
"""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    events: list[dict[str, Any]] = field(default_factory=list)
    readings: list[dict[str, Any]] = field(default_factory=list)

    def write(self, directory: Path, stamp: str = STAMP) -> Path:
        """Write both below a MEMGUARD_DIR; the events log."""
        for name, lines in (("events", self.events), ("readings", self.readings)):
            (directory / name).mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (directory / name / f"{stamp}.jsonl").write_text(text, encoding="utf-8")
        return directory / "events" / f"{stamp}.jsonl"


def make(tasks: int = 200, seed: int = 1, limit_bytes: int = 16 * GIB, threads: int = 8, has_end: bool = True) -> Logs:
    """A build of so many tasks under a limit."""
    chance = random.Random(seed)
    logs = Logs()
    waiting = _tasks(tasks, chance)
    reserve_bytes, idle_bytes = limit_bytes // 20, 300 * MIB
    running: list[_Running] = []
    held: dict[tuple[str, str], float] = {}
    totals = {"granted": 0, "held": 0, "held_s": 0.0, "shrunk": 0, "forced": 0}
    peak_bytes, now_s, reading_s = idle_bytes, BEGAN_S, BEGAN_S
    marks = {"withdraw_bytes": limit_bytes * 88 // 100, "stop_bytes": limit_bytes * 92 // 100}
    marks["kill_bytes"] = limit_bytes * 96 // 100

    def tell(event: str, time_s: float, **fields: Any) -> None:
        logs.events.append({"event": event, "time": round(time_s, 3), **fields})

    def read(time_s: float) -> int:
        now = sorted(running, key=lambda run: -run.current(time_s))
        used = idle_bytes + sum(run.current(time_s) for run in now)
        logs.readings.append(
            {
                "event": "reading",
                "time": round(time_s, 3),
                "used_bytes": used,
                "limit_bytes": limit_bytes,
                "reserve_bytes": reserve_bytes,
                "marks": marks,
                "tasks": [[run.recipe, run.task, run.current(time_s), run.jobs, 0, run.jobs] for run in now[:30]],
            }
        )
        return used

    tell(
        "build_start",
        now_s,
        mode="enforce",
        limit_bytes=limit_bytes,
        limit_source="/sys/fs/cgroup/memory.max",
        used_bytes=idle_bytes,
        reserve_bytes=reserve_bytes,
        cpus=8.0,
    )
    while waiting or running:
        free = limit_bytes - reserve_bytes - idle_bytes - sum(max(run.granted_bytes, 1) for run in running)
        for task in list(waiting[: 3 * threads]):
            recipe, name, peak, seconds, jobs, wrong = task
            granted = int(peak * wrong)
            if len(running) >= threads:
                break
            key = (recipe, name)
            about = {"recipe": recipe, "task": name}
            if granted > free and running:
                if key not in held:
                    held[key] = now_s
                    totals["held"] += 1
                    why = f"needs {granted // MIB} MiB, {max(0, free) // MIB} MiB fit"
                    tell("hold", now_s, **about, reason=why, used_bytes=idle_bytes)
                continue
            waiting.remove(task)
            if key in held:
                waited_s = now_s - held.pop(key)
                totals["held_s"] += waited_s
                tell("release", now_s, **about, held_s=round(waited_s, 3), reason="it fits")
            is_shrunk = name == "do_compile" and granted > free / 2 and jobs > 2
            got = jobs // 2 if is_shrunk else jobs
            totals["granted"] += 1
            totals["shrunk"] += is_shrunk
            origin = "history" if chance.random() < 0.7 else "known" if recipe in HEAVY else "default"
            tell(
                "grant",
                now_s,
                **about,
                jobs=got,
                wanted_jobs=jobs,
                bytes=granted,
                origin=origin,
                reason=f"{got} of {jobs} jobs fit into {max(0, free) // MIB} MiB" if is_shrunk else "it fits",
                used_bytes=idle_bytes,
            )
            tell("start", now_s, **about, tid=f"/layers/{recipe}.bb:{name}")
            run = _Running(now_s + seconds, recipe, name, now_s, peak, granted, got)
            heapq.heappush(running, run)
            free -= granted
        if not running:
            continue
        next_s = running[0].ends_s
        while reading_s < next_s:
            used = read(reading_s)
            if used > marks["stop_bytes"]:
                _act(logs, running, reading_s, used, chance)
            peak_bytes = max(peak_bytes, used)
            reading_s += 1.0
        run = heapq.heappop(running)
        now_s = run.ends_s
        about = {"recipe": run.recipe, "task": run.task}
        tell("end", now_s, **about, tid=f"/layers/{run.recipe}.bb:{run.task}", outcome=run.outcome)
        wall_s = run.ends_s - run.began_s
        logs.readings.append(
            {
                "event": "task",
                "time": round(now_s, 3),
                **about,
                "began": round(run.began_s, 3),
                "wall_s": round(wall_s, 3),
                "cpu_s": round(wall_s * run.jobs * 0.8, 3),
                "jobs": run.jobs,
                "granted_bytes": run.granted_bytes,
                "peak_bytes": run.peak_bytes,
                "outcome": run.outcome,
            }
        )
    if has_end:
        fields = {**totals, "held_s": round(totals["held_s"], 3)}
        wall_s = round(now_s + 1 - BEGAN_S, 3)
        tell(
            "build_end", now_s + 1, peak_bytes=peak_bytes, limit_bytes=limit_bytes, oom_kills=0, wall_s=wall_s, **fields
        )
    return logs


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
    about = {"recipe": newest.recipe, "task": newest.task, "program": "cc1plus", "pid": 4000 + int(time_s) % 1000}
    reason = f"{used // MIB} MiB used, above the stop mark"

    def act(kind: str, at_s: float, **fields: Any) -> None:
        logs.readings.append({"event": kind, "time": round(at_s, 3), **about, "reason": reason, **fields})

    act("withdraw", time_s, used_bytes=used)
    act("stop", time_s + 0.1, bytes=400 * MIB, used_bytes=used)
    if chance.random() < 0.2:
        act("kill", time_s + 0.3, bytes=500 * MIB, used_bytes=used)
        act("retry", time_s + 0.6, jobs=max(1, newest.jobs // 2), attempt=2)
    else:
        act("wake", time_s + 4, bytes=400 * MIB, used_bytes=used)


def make_state(tasks: int = 6, held: int = 3, now_s: float = BEGAN_S, pid: int = 1, **fields: Any) -> dict[str, Any]:
    """A state of a running build in the form of state.json."""
    limit = 16 * GIB
    running = {}
    for place, recipe in enumerate([*HEAVY, *LIGHT][:tasks]):
        granted = HEAVY.get(recipe, 100) * 3 // 2 * MIB
        state = {1: "stopped", 4: "retrying"}.get(place, "running")
        running[f"/layers/{recipe}.bb:do_compile"] = {
            "recipe": recipe,
            "task": "do_compile",
            "state": state,
            "current_bytes": granted * (60 + 7 * place) // 100,
            "peak_bytes": granted * (65 + 7 * place) // 100,
            "granted_bytes": granted,
            "jobs": 8,
            "tokens": 3 + place if state == "running" else None,
            "compilers": 8,
            "stopped": 3 if state == "stopped" else 0,
            "since": now_s - 60 * (place + 1),
        }
    waiting = [
        {
            "recipe": recipe,
            "task": "do_compile",
            "reason": "needs 2.4 GiB, 1.1 GiB fit",
            "since": now_s - 30 * (held - place),
        }
        for place, recipe in enumerate(["chromium-x11", "libreoffice", "tensorflow-lite", "gtk4", "qtbase"][:held])
    ]
    events = [
        {
            "event": "hold",
            "time": now_s - 90,
            "recipe": "chromium-x11",
            "task": "do_compile",
            "reason": "needs 2.4 GiB",
        },
        {
            "event": "stop",
            "time": now_s - 20,
            "recipe": "webkitgtk",
            "task": "do_compile",
            "program": "cc1plus",
            "pid": 4711,
            "bytes": 812 * MIB,
            "used_bytes": 15 * GIB,
            "reason": "15.0 GiB used, above the stop mark of 14.7 GiB",
        },
        {"event": "retry", "time": now_s - 5, "recipe": "rust-native", "task": "do_compile", "jobs": 4, "attempt": 2},
    ]
    return {
        "version": 2,
        "time_s": 1000.0,
        "time": now_s,
        "build": f"{STAMP}-4711",
        "pid": pid,
        "limit_bytes": limit,
        "limit_source": "/sys/fs/cgroup/memory.max",
        "used_bytes": 13 * GIB + 400 * MIB,
        "reserve_bytes": limit // 20,
        "cpus": 8.0,
        "mode": "enforce",
        "marks": {
            "withdraw_bytes": limit * 88 // 100,
            "stop_bytes": limit * 92 // 100,
            "kill_bytes": limit * 96 // 100,
        },
        "tasks": running,
        "held": waiting,
        "counts": {"granted": 120, "held": 9, "shrunk": 4, "stopped": 2, "killed": 1, "retried": 1, "oom_kills": 0},
        "events": events,
        **fields,
    }
