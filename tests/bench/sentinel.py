# SPDX-License-Identifier: MIT
"""CPU time and memory of the sentinel while it watches 32 tasks, three times a second; beside it, psutil's.

"sentinel" is the very process that the server starts, with notes, state file and history. "psutil" reads the same of
every process (session, anonymous memory, name, start and CPU time) as often, and does nothing else. Processes hold
1 MiB each. "still": they wait. "forked": they wait and have 64 MiB of their leader's. "churning": a quarter of them
lives for 300 ms and is replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from memguard.channels.fifo import Notes
from memguard.channels.notes import Orders, TaskNote
from memguard.model import Mode, Policy
from memguard.sense.proc_files import ProcessId
from memguard.sentinel.look import MEASURE_S
from memguard.server.sentinel_process import Watch
from testbed import memory

from .statistics import spread

TASKS = 32
PSUTIL = """
import json, os, sys, time
import psutil
leaders = {pid for pid, start in json.loads(sys.argv[1])}
def scan():
    known = {}
    for process in psutil.process_iter():
        try:
            session = os.getsid(process.pid)
            if session in leaders:
                memory = process.memory_info()
                known[process.pid] = memory.rss - memory.shared, process.name(), process.create_time()
                process.cpu_times()
        except (psutil.Error, OSError):
            pass
"""
LOOP = """
while True:
    due = time.monotonic() + float(sys.argv[2])
    scan()
    time.sleep(max(0.0, due - time.monotonic()))
"""


@dataclass(frozen=True)
class Cost:
    """Of one process over a while: the share of one core, and its memory at the end, in bytes."""

    core: float
    resident_bytes: int
    proportional_bytes: int


def words(each: int, kind: str) -> str:
    """The program of one task with `each` processes beside its leader."""
    if kind == "still":
        return f"fork {each} {{ anon 1 wait }} wait"
    if kind == "forked":
        return f"anon 64 fork {each} {{ anon 1 wait }} wait"
    fleeting = max(1, each // 4)
    one = "spawn { anon 1 sleep 300 } "
    return f"fork {each - fleeting} {{ anon 1 wait }} fork 1 {{ wait }} repeat 100000 {{ {one * fleeting}reap }}"


def measure(pid: int, before_s: float, during_s: float) -> Cost:
    """What a process costs for `during_s`, once `before_s` have passed."""
    time.sleep(before_s)
    begun_s, cpu_s = time.monotonic(), _cpu_s(pid)
    time.sleep(during_s)
    core = (_cpu_s(pid) - cpu_s) / (time.monotonic() - begun_s)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").split()
    return Cost(core, *(int(rollup[rollup.index(name) + 1]) * 1024 for name in ("Rss:", "Pss:")))


def _cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process, to the nanosecond (Documentation/scheduler/sched-stats.rst)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextlib.contextmanager
def sentinel(leaders: list[ProcessId], directory: Path) -> Iterator[int]:
    """The process of a sentinel that watches these tasks."""
    policy = Policy(Mode.OBSERVE, directory=str(directory), history=str(directory / "history.db"))
    orders = Orders("bench", policy)
    noted = []
    for number, leader in enumerate(leaders):
        tid = f"/layer/recipes/recipe-{number}_1.0.bb:do_compile"
        noted.append(TaskNote(*leader, tid, f"recipe-{number}", "1.0", "do_compile", "machine", 8))
    watch = Watch(orders)
    try:
        for note in noted:
            Notes(directory).send(note)
        yield watch.pid
    finally:
        report = watch.end()
        if report.get("recorded") != len(leaders):
            raise RuntimeError(f"the sentinel saw {report}")


@contextlib.contextmanager
def psutil_loop(leaders: list[ProcessId], directory: Path) -> Iterator[int]:
    """A process that reads the same with psutil."""
    command = [sys.executable, "-c", PSUTIL + LOOP, json.dumps(leaders), str(MEASURE_S)]
    process = subprocess.Popen(command)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench sentinel", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,500,2000", help="processes in all tasks together")
    parser.add_argument("--kinds", default="still,forked,churning", help="what the processes do")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each, in turn")
    parser.add_argument("--seconds", type=float, default=10, help="length of one measurement")
    options = parser.parse_args(arguments)
    print(f"{TASKS} tasks, one look every {MEASURE_S:.2f} s; ", end="")
    print(f"median (range) of {options.repeats} times {options.seconds:g} s")
    print(f"{'processes':>9} {'kind':>9} {'':>8}  {'of a core':24} {'resident':>9} {'pss':>9}")
    with tempfile.TemporaryDirectory(prefix="memguard-bench-") as directory:
        program = memory.build(Path(directory))
        for size in (int(size) for size in options.sizes.split(",")):
            for kind in options.kinds.split(","):
                each = max(2, size // TASKS - 1)
                with contextlib.ExitStack() as stack:
                    tasks = [stack.enter_context(memory.running(program, words(each, kind))) for _ in range(TASKS)]
                    for task in tasks:
                        task.wait_for(each + 1 if kind != "churning" else each - max(1, each // 4) + 1)
                    report([task.leader for task in tasks], f"{size:9} {kind:>9}", options, Path(directory))
    return 0


def report(leaders: list[ProcessId], title: str, options: argparse.Namespace, directory: Path) -> None:
    """Measure both in turn and print a row for each."""
    costs: dict[str, list[Cost]] = {"sentinel": [], "psutil": []}
    for _ in range(options.repeats):
        for name, start in (("sentinel", sentinel), ("psutil", psutil_loop)):
            with start(leaders, directory / name) as pid:
                costs[name].append(measure(pid, options.seconds / 2, options.seconds))
    for name, found in costs.items():
        sizes = [statistics.median(sizes) / 2**20 for sizes in zip(*[astuple(cost)[1:] for cost in found])]
        core = spread([100 * cost.core for cost in found], " %")
        print(f"{title} {name:>8}  {core:24} {sizes[0]:5.1f} MiB {sizes[1]:5.1f} MiB", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
