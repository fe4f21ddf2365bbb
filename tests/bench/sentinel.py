# SPDX-License-Identifier: MIT
"""CPU time and memory of watching the process trees of 32 tasks, four times a second; beside it, psutil's.

Each measurement runs in a process of its own: "procs" as the sentinel runs it (python -I -S), "psutil" reading the same
of every process: session, anonymous memory, name, start and CPU time. Processes hold 1 MiB each. "still": they wait.
"forked": they wait and have 64 MiB of their leader's. "churning": a quarter of them lives for 300 ms and is replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from memguard.procs import Leader
from testbed import memory

from .statistics import quantile

TASKS = 32
EVERY_S = 0.25
LAYER_LIB = Path(__file__).resolve().parents[2] / "meta-memguard" / "lib"
WATCH = f"""
import json, sys, time
sys.path.insert(0, {str(LAYER_LIB)!r})
from memguard.procs import Leader, ProcessTable
tasks = {{str(pid): Leader(pid, start) for pid, start in json.loads(sys.argv[1])}}
table, costs = ProcessTable(), []
usages = {{}}
def scan():
    global usages
    usages = table.scan(tasks)
def seen():
    return sum(usage.processes for usage in usages.values()), sum(usage.current_bytes for usage in usages.values())
"""
PSUTIL = """
import json, os, sys, time
import psutil
leaders = {pid for pid, start in json.loads(sys.argv[1])}
costs, known = [], {}
def scan():
    global known
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
def seen():
    return len(known), sum(found[0] for found in known.values())
"""
LOOP = """
for turn in range(int(sys.argv[2]) + int(sys.argv[4])):
    begun = time.process_time()
    scan()
    costs.append(time.process_time() - begun)
    time.sleep(float(sys.argv[3]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([costs[int(sys.argv[4]):], int(status["VmRSS"].split()[0]) * 1024, *seen()]))
"""


def words(each: int, kind: str) -> str:
    """The program of one task with `each` processes beside its leader."""
    if kind == "still":
        return f"fork {each} {{ anon 1 wait }} wait"
    if kind == "forked":
        return f"anon 64 fork {each} {{ anon 1 wait }} wait"
    fleeting = max(1, each // 4)
    one = "spawn { anon 1 sleep 300 } "
    return f"fork {each - fleeting} {{ anon 1 wait }} fork 1 {{ wait }} repeat 100000 {{ {one * fleeting}reap }}"


def watch(
    code: str, flags: list[str], leaders: list[Leader], scans: int, before: int
) -> tuple[list[float], int, int, int]:
    """CPU seconds of each scan after the first `before`, resident bytes, processes and bytes seen at the end."""
    command = [sys.executable, *flags, "-c", code + LOOP, json.dumps(leaders), str(scans), str(EVERY_S), str(before)]
    costs, resident, processes, seen = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return costs, resident, processes, seen


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench sentinel", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,500,2000", help="processes in all tasks together")
    parser.add_argument("--kinds", default="still,forked,churning", help="what the processes do")
    parser.add_argument("--scans", type=int, default=40, help="scans measured in each run")
    parser.add_argument("--before", type=int, default=16, help="scans before those, which meet all processes at once")
    options = parser.parse_args(arguments)
    print(f"{TASKS} tasks, {options.scans} scans, one every {EVERY_S} s; CPU microseconds per scan")
    heads = f"{'mean':>8} {'median':>8} {'90 %':>8} {'of a core':>9} {'resident':>9}  seen"
    print(f"{'processes':>9} {'kind':>9} {'':>7} {heads}")
    with tempfile.TemporaryDirectory(prefix="memguard-bench-") as directory:
        program = memory.build(Path(directory))
        for size in (int(size) for size in options.sizes.split(",")):
            for kind in options.kinds.split(","):
                each = max(2, size // TASKS - 1)
                with contextlib.ExitStack() as stack:
                    tasks = [stack.enter_context(memory.running(program, words(each, kind))) for _ in range(TASKS)]
                    for task in tasks:
                        task.wait_for(each + 1 if kind != "churning" else each - max(1, each // 4) + 1)
                    leaders = [task.leader for task in tasks]
                    for name, code, flags in (("procs", WATCH, ["-I", "-S"]), ("psutil", PSUTIL, [])):
                        costs, resident, processes, seen = watch(code, flags, leaders, options.scans, options.before)
                        mean = statistics.mean(costs)
                        print(
                            f"{size:9} {kind:>9} {name:>7} {mean * 1e6:8.0f} {statistics.median(costs) * 1e6:8.0f} "
                            f"{quantile(costs, 0.9) * 1e6:8.0f} {mean / EVERY_S:9.2%} {resident / 2**20:5.1f} MiB  "
                            f"{processes} processes, {seen / 2**20:.0f} MiB",
                            flush=True,
                        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
