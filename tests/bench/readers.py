# SPDX-License-Identifier: MIT
"""Every reader of bytes that come from elsewhere, each as a function that gives it one spoilt input (fuzz).

Covers: what builds leave for each other and for commands, what people send in, and what kernel and tools say.
Does not cover: PostgreSQL's answers, and BitBake's own data.

A function takes the dice that decide on the input, and an empty directory that is the working directory, too. What a
reader says that it raises is caught; anything else is a finding.
"""

from __future__ import annotations

import contextlib
import functools
import json
import lzma
import os
import random
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

from memguard.channels import state as states
from memguard.channels.build_directory import BuildDirectory
from memguard.channels.grants import Handed, Handover
from memguard.channels.kills import read_kills
from memguard.channels.neighbours import Entry, JobEntry, TaskEntry, as_bytes, parse
from memguard.channels.notes import TaskEnd, TaskNote, as_line, parse_note
from memguard.channels.state import StateFile
from memguard.predict.remembered_lives import Lives
from memguard.record.events import as_line as event_line
from memguard.record.history.store import History
from memguard.record.metrics import format_text, measure
from memguard.sense import mounts
from memguard.sense.kernel_files import KernelFiles
from memguard.sense.proc_files import ProcessId, parse_stat
from memguard.sense.process_table import ProcessTable
from memguard.sense.tool_versions import Tools
from memguard.sentinel.others import others_of
from memguard.units import MIB
from memguard_cli.main import main as command
from memguard_cli.simulation import scenario
from testbed import build_logs
from testbed.cgroup_trees import EXPECTED, FIXTURES, files_below, files_of

from .mutations import spoil, spoil_database, spoil_json, spoil_packed

TESTS = FIXTURES.parent
LOGS = tuple(path.read_bytes()[: 1 << 18] for path in sorted((TESTS / "failure-logs").glob("*.log")))
SAMPLES = tuple(path.read_bytes()[: 1 << 16] for path in sorted((TESTS / "samples").glob("*.jsonl")))
STOPPED = TESTS / "builds" / "stopped"
NOW_S = build_logs.BEGAN_S
NOTE = b"""{"test1.build": [{"name": "zlib", "epoch": null, "version": "1.3.1", "revision": "r0", "tasks":
{"do_compile": {"start_time": 1712928495.59, "status": "PASSED", "elapsed_time": 12.5, "iostat": {}, "rusage":
{"ru_utime": 30.0, "ru_stime": 10.25, "ru_maxrss": 614400}, "child_rusage": {"ru_maxrss": 614400}}}}]}
""".replace(b"\n", b" ")
LIVES = b'{"pn": "zlib", "task": "do_compile", "written_s": 1712928495.59, "lives": "bGl2ZXMxCgA="}\n'
SCENARIO = b"""graph: task-depends.dot
durations: history.db
footprints: buildstats
tasks:
  "a-native:do_compile": {base: 100M, per_job: 600M, serial: 1G, parallel_s: 60}
  "b:*": {phases: [[10, 2, 1G], [5, 1, 200M]]}
error: {bias: 1.2, spread: 0.3}
limits: [2G, 4G]
cpus: [2, 4]
threads: 4
jobs: 4
idle: 300M
reserve: 100M
policies: [memguard, stock]
seeds: 1
seed: 3
"""
SMALL_SCENARIO = b"graph: {generate: 40, seed: 2}\nlimits: 4G\ncpus: 2\nseeds: 1\npolicies: memguard\n"
_KERNEL = b"cpu cache pgfault 1 2\nanon 123456\nfile 4096\nshmem 0\nslab 8192\nMemTotal: 16384 kB\nSwapTotal: 0 kB\n"


# -- what builds leave ----------------------------------------------------------------------------------------------


def read_state(dice: random.Random, directory: Path) -> None:
    """The sentinel's state, by the server, the metrics and `memguard top`."""
    path = BuildDirectory(directory).state
    path.write_bytes(spoil_json(dice, _state()))
    with contextlib.suppress(ValueError):
        found = states.parse(path.read_bytes())
        format_text(measure(found))
    with contextlib.suppress(ValueError, OSError):
        StateFile(directory).read(1001.0)
        StateFile(directory).has_turn("1-1", 1, 1001.0)
    _run("top", "--once", str(directory))


def read_notes(dice: random.Random, directory: Path) -> None:
    """Lines of the FIFO by which tasks tell the sentinel."""
    notes = [
        as_line(TaskNote(12, 34, "/l/a.bb:do_compile", "a", "1", "do_compile", "m", 4)),
        as_line(TaskEnd(12, 34, "done", 1.5, 1.0, 7)),
    ]
    for line in spoil_json(dice, b"".join(notes)).splitlines():
        parse_note(line)


def read_events(dice: random.Random, directory: Path) -> None:
    """A build's two logs, by `memguard report` and `memguard explain`."""
    logs = [path.read_bytes() for path in sorted(STOPPED.glob("*/*.jsonl"))]
    if dice.random() < 0.5:
        made = _logs()
        logs = [made.joinpath(name).read_bytes() for name in ("events", "readings")]
    which = dice.randrange(3)
    for place, folder in enumerate(("events", "readings")):
        (directory / folder).mkdir()
        text = spoil_json(dice, logs[place]) if which in (place, 2) else logs[place]
        (directory / folder / f"{build_logs.STAMP}.jsonl").write_bytes(text)
    _run("report", str(directory), *dice.choice((("--text",), ("--json",), ("-o", "r.html"))))


def read_kill_notes(dice: random.Random, directory: Path) -> None:
    """What the sentinel has noted of kills, by the task."""
    kill = {"time_s": 3.5, "program": "cc1plus", "bytes": 5, "used_bytes": 6, "limit_bytes": 7, "outputs": ["a.o"]}
    read_kills(spoil_json(dice, json.dumps(kill).encode() * 1 + b"\n").splitlines(), 1.0)


def read_grants(dice: random.Random, directory: Path) -> None:
    """A grant, by the task that it is for."""
    handover = Handover(directory)
    handover.put("/l/a.bb:do_compile", Handed(4))
    (path,) = BuildDirectory(directory).grants.iterdir()
    path.write_bytes(spoil_json(dice, path.read_bytes()))
    with contextlib.suppress(ValueError, OSError):
        handover.take("/l/a.bb:do_compile")


def read_neighbours(dice: random.Random, directory: Path) -> None:
    """What another user's build says of its tasks, by the sentinel."""
    job = JobEntry(4000001, 500, 300 * MIB, 2.0, 1e8, 600 * MIB, 5.0, 3.0)
    task = TaskEntry(4000000, 400, 4, 310 * MIB, 500 * MIB, 4.0, 2.0, held_tokens=1, jobs=(job,))
    content = spoil_json(dice, as_bytes(Entry(cpus=1.5, cpu_s=20.0, kills=1, tasks=(task, task))))
    with contextlib.suppress(ValueError):
        others_of({ProcessId(4000002, 300): parse(content)})


def read_lives(dice: random.Random, directory: Path) -> None:
    """The lives of jobs, packed in a row of the history."""
    lives = Lives.found(spoil(dice, bytes(range(256)) * 29))
    lives.sample(50)
    lives.of(3)
    lives.packed()


# -- histories and what is taken into them --------------------------------------------------------------------------


def read_history(dice: random.Random, directory: Path) -> None:
    """An SQLite file that somebody calls a history, by builds and by every command that opens one."""
    shutil.copy(_history(), "history.db")
    with contextlib.suppress(sqlite3.Error):
        spoil_database(dice, Path("history.db"))
    verb = dice.randrange(6)
    if verb == 0:
        with contextlib.closing(History(directory / "history.db", warn=lambda text: None)) as history:
            history.newest("zlib", "do_compile")
            history.fastest_runs()
            history.lives("zlib", "do_compile")
            history.remember_lives("zlib", "do_compile", b"x" * 29)
    elif verb == 1:
        _run("history", "--history", "history.db", "show")
    elif verb == 2:
        _run("history", "--history", "history.db", "export", "-o", "out.jsonl")
    elif verb == 3:
        _run("history", "--history", "other.db", "merge", "history.db")
    elif verb == 4:
        _run("predict", "--history", "history.db", "zlib", "--all-tasks")
    else:
        _run("history", "--history", "history.db", "prune", "--max-size", "100K")


def read_samples(dice: random.Random, directory: Path) -> None:
    """Lines of JSON, by `memguard history import`; what was taken is shown and exported."""
    Path("in.jsonl").write_bytes(spoil_json(dice, dice.choice(SAMPLES)))
    _run("history", "--history", "history.db", "import", "in.jsonl")
    _run("history", "--history", "history.db", "show")


def read_note(dice: random.Random, directory: Path) -> None:
    """A buildstats.json as in the notes of yocto-buildstats, and lives as lines, by `memguard history import`."""
    Path("in.json").write_bytes(spoil_json(dice, dice.choice((NOTE, LIVES))))
    _run("history", "--history", "history.db", "import", "in.json")


def read_buildstats(dice: random.Random, directory: Path) -> None:
    """A tree of buildstats, by `memguard history import` and `memguard plan`."""
    shutil.copytree(_buildstats(), "buildstats")
    paths = [path for path in Path("buildstats").rglob("*") if path.is_file()]
    for path in dice.sample(paths, min(len(paths), 4)):
        path.write_bytes(spoil(dice, path.read_bytes()))
    _run("history", "--history", "history.db", "import", "buildstats")
    if dice.random() < 0.2:
        _run("plan", "buildstats", "--cpus", "2", "--limits", "4G", "--seeds", "1")


# -- graphs, scenarios and logs -------------------------------------------------------------------------------------


def read_graph(dice: random.Random, directory: Path) -> None:
    """A task graph in dot, plain or packed, by `memguard plan`."""
    text = _graph()
    if dice.random() < 0.3:
        Path("task-depends.dot").write_bytes(spoil_packed(dice, text))
    else:
        Path("task-depends.dot").write_bytes(spoil(dice, text))
    _run("plan", "task-depends.dot", "--cpus", "2", "--limits", "4G", "--seeds", "1")


def read_scenario(dice: random.Random, directory: Path) -> None:
    """YAML, by `memguard simulate`."""
    Path("task-depends.dot").write_bytes(_graph())
    shutil.copy(_history(), "history.db")
    shutil.copytree(_buildstats(), "buildstats")
    text = spoil(dice, dice.choice((SCENARIO, SCENARIO, SMALL_SCENARIO)), (SCENARIO, SMALL_SCENARIO))
    Path("scenario.yml").write_bytes(text)
    with contextlib.suppress(scenario.ScenarioError):
        scenario.read_scenario(Path("scenario.yml"))


def read_log(dice: random.Random, directory: Path) -> None:
    """The log of a task or a console, by `memguard explain`."""
    Path("log").write_bytes(spoil(dice, dice.choice(LOGS), LOGS))
    _run("explain", *dice.choice(((), ("--json",))), "log")


def read_packed(dice: random.Random, directory: Path) -> None:
    """A log packed by gzip or xz, by `memguard explain`."""
    Path("log").write_bytes(spoil_packed(dice, dice.choice(LOGS)))
    _run("explain", "log")


# -- what the kernel and tools say ----------------------------------------------------------------------------------


def read_cgroups(dice: random.Random, directory: Path) -> None:
    """A container's cgroups, mounts and machine, by `memguard doctor`."""
    files = files_of(dice.choice(sorted(EXPECTED)))
    for path in dice.sample(sorted(files), min(len(files), dice.choice((1, 3, 10)))):
        files[path] = spoil(dice, files[path], (_KERNEL,))
    for name, content in files.items():
        path = directory / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _run("doctor", "--root", "root", *dice.choice(((), ("--json",))))


def read_processes(dice: random.Random, directory: Path) -> None:
    """The files of processes, by the table that sentinels scan."""
    stat = Path("/proc/self/stat").read_bytes()
    parse_stat(spoil(dice, stat))
    (directory / "mountinfo").write_bytes(spoil(dice, Path("/proc/self/mountinfo").read_bytes()[: 1 << 14]))
    list(mounts.parse(KernelFiles().text(str(directory / "mountinfo"))))
    root = directory / "proc"
    own = parse_stat(stat)
    assert own is not None
    for pid in (1, 20, 300):
        (root / str(pid)).mkdir(parents=True)
        for name in ("stat", "statm", "status", "cgroup", "cmdline", "environ", "smaps_rollup"):
            with contextlib.suppress(OSError):
                content = Path("/proc/self", name).read_bytes()
                if name == "stat":
                    content = content.replace(str(os.getpid()).encode(), str(pid).encode(), 1)
                (root / str(pid) / name).write_bytes(spoil(dice, content) if dice.random() < 0.5 else content)
    (root / "loadavg").write_bytes(spoil(dice, b"0.1 0.2 0.3 1/100 300\n"))
    table = ProcessTable(root)
    leader = ProcessId(20, own.start_ticks)
    with contextlib.closing(table):
        for _ in range(3):
            table.scan({"a": leader})
            (root / "300" / "statm").write_bytes(spoil(dice, b"5000 4000 100 10 0 300 0\n"))


def read_versions(dice: random.Random, directory: Path) -> None:
    """What a make or ninja says of its version, and what is kept of that."""
    (directory / "make").write_bytes(b"#!/bin/sh\ncat said\n")
    (directory / "make").chmod(0o755)
    (directory / "said").write_bytes(spoil(dice, b"GNU Make 4.3\nBuilt for x86_64-pc-linux-gnu\n"))
    Tools(directory / "tools").oldest(("make",), str(directory))
    for path in (directory / "tools").rglob("*"):
        if path.is_file():
            path.write_bytes(spoil(dice, path.read_bytes()))
    Tools(directory / "tools").oldest(("make",), str(directory))


READERS: dict[str, Callable[[random.Random, Path], None]] = {
    "state": read_state,
    "notes": read_notes,
    "events": read_events,
    "kills": read_kill_notes,
    "grants": read_grants,
    "neighbours": read_neighbours,
    "lives": read_lives,
    "history": read_history,
    "samples": read_samples,
    "buildstats": read_buildstats,
    "note": read_note,
    "graph": read_graph,
    "scenario": read_scenario,
    "log": read_log,
    "packed": read_packed,
    "cgroups": read_cgroups,
    "processes": read_processes,
    "versions": read_versions,
}


def _run(*words: str) -> None:
    """A command as somebody types it: whatever it says, it says so in a sentence."""
    status = command(list(words))
    assert status in (0, 1, 2, 3), status  # 3: doctor, of what would cost a build


@functools.cache
def _state() -> bytes:
    return json.dumps(states.as_object(build_logs.make_state())).encode()


_PREPARED: dict[str, Path] = {}


def prepare(directory: Path) -> None:
    """Make the samples that take time: once, before processes are forked."""
    made = build_logs.make(tasks=40)
    for name, lines in (("events", map(event_line, made.events)), ("readings", map(event_line, made.readings))):
        (directory / name).write_text(_joined(lines), encoding="utf-8")
    _PREPARED["logs"] = directory
    _PREPARED["history"] = directory / "history.db"
    with contextlib.closing(History(directory / "history.db", warn=lambda text: None)) as history:
        for text in SAMPLES:
            history.import_samples(json.loads(line) for line in text.splitlines()[:150] if line.endswith(b"}"))
        history.remember_lives("zlib", "do_compile", Lives().packed())
    stats = TESTS / "buildstats"
    (first,) = [path for path in stats.iterdir() if path.is_dir()]
    for name, content in list(files_below(first).items())[:30]:
        path = directory / "buildstats" / first.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _PREPARED["buildstats"] = directory / "buildstats"
    lines = lzma.decompress((TESTS / "graphs" / "core-image-minimal.dot.xz").read_bytes()).splitlines(keepends=True)
    (directory / "small.dot").write_bytes(_closed(lines[:400]) + b"}\n")
    _PREPARED["graph"] = directory / "small.dot"


def _closed(lines: list[bytes]) -> bytes:
    """Those lines of a graph whose tasks are all there."""
    there = {line.split()[0] for line in lines if b"[label=" in line}
    return b"".join(line for line in lines if b"->" not in line or line.split()[2] in there)


def _joined(lines: Iterable[str]) -> str:
    return "".join(lines)


def _logs() -> Path:
    return _PREPARED["logs"]


def _history() -> Path:
    return _PREPARED["history"]


def _buildstats() -> Path:
    return _PREPARED["buildstats"]


def _graph() -> bytes:
    return _PREPARED["graph"].read_bytes()
