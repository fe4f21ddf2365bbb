# SPDX-License-Identifier: MIT
"""How soon something is done when memory passes the mark: from there to the first job that stands still.

A job under `memguard run` in a real container jumps by 150 MiB across the stop mark, without a hint beforehand. When
what is charged to the container passes the mark, and when the kernel tells that the job was stopped, is seen to the
millisecond. Each jump is a program of another name, so that nothing can be learned from the ones before. With
--processes, so many others sleep in the same tree, and are looked through each time.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from memguard.decide.moment import STOP_SHARE
from memguard.model import Policy
from memguard.sense.compilers import COMPILERS
from memguard.units import GIB
from testbed import compilers
from testbed.container import NoContainer, container

from .feedback import MEMGUARD, charged_file, warm_memory
from .statistics import quantile

LIMIT = GIB
TARGET_MS = 250
# What runs under memguard: one job that holds memory, and one after the other that jumps.
INSIDE = """
import json, os, signal, subprocess, sys, time
usage, mark, program, processes, names = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:]
others = [subprocess.Popen(["sleep", "3600"]) for _ in range(processes)]
time.sleep(1)
# What is held leaves 100 MiB to the mark; a jump ends 50 MiB beyond it.
held = (mark - int(open(usage).read())) / 2**20 - 108
holder = subprocess.Popen(["cc1plus", "-o", "/dev/null", "-p", f"0.5:{held},3600:{held}"], executable=program)
time.sleep(4)  # by then the holder has grown up
found = []
for number, name in enumerate(names):
    seconds = 0.5 + float(name.split(":")[1])
    profile = f"0.1:8,{seconds}:8,{seconds + 0.001}:158,{seconds + 30}:158"
    path = os.path.join(os.path.dirname(program), name.split(":")[0])
    jumper = subprocess.Popen([path, "-o", "/dev/null", "-p", profile])
    passed = stopped = None
    deadline = time.monotonic() + 5
    with open(usage) as file:
        while stopped is None and time.monotonic() < deadline:
            file.seek(0)
            if passed is None and int(file.read()) > mark:
                passed = time.monotonic()
            pid, status = os.waitpid(jumper.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                stopped = time.monotonic()
            elif pid:
                break
            time.sleep(0.001)
    if stopped is not None:
        jumper.kill()
    jumper.wait()
    # Memory that fills so fast that it will pass the mark before the next look stops a job before it has.
    found.append(None if stopped is None else 0.0 if passed is None else stopped - passed)
    time.sleep(0.3)
for process in [holder, *others]:
    process.kill()
print(json.dumps(found))
"""


def measure(jumps: int, processes: int, scratch: Path, chance: random.Random) -> list[float | None]:
    """Milliseconds from the mark to the stop of each jump, None of one that was never stopped. Raises NoContainer."""
    program = compilers.build(scratch) / "cc1plus"
    names = sorted(name for name in COMPILERS if name not in ("cc1plus", "ld"))[:jumps]
    for name in names:
        (program.parent / name).unlink(missing_ok=True)
        (program.parent / name).symlink_to(program)
    mark = LIMIT - int(Policy().reserve_of(LIMIT) * STOP_SHARE)
    # The moment between two looks at which it jumps is drawn.
    drawn = [f"{name}:{chance.uniform(0, 0.5):.3f}" for name in names]
    with container(LIMIT, "memguard-bench") as box:
        inside = [sys.executable, "-c", INSIDE, str(charged_file(box)), str(mark), str(program), str(processes), *drawn]
        command = [*box.prefix, str(MEMGUARD), "run", "--jobs", "8", "--", *inside]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if box.oom_kills or done.returncode:
            raise RuntimeError(f"{box.oom_kills} killed by the kernel for memory\n{done.stderr}")
    return [None if seconds is None else 1000 * seconds for seconds in json.loads(done.stdout)]


def main(arguments: list[str]) -> int:
    """Print a row for each number of processes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency", description=__doc__.splitlines()[0])
    parser.add_argument("--jumps", type=int, default=200, help="measurements of each (default: 200)")
    parser.add_argument("--processes", default="0,500", help="others in the same tree (default: 0,500)")
    options = parser.parse_args(arguments)
    chance = random.Random(1)
    missed = False
    with tempfile.TemporaryDirectory(prefix="memguard-bench-") as scratch:
        memory = warm_memory(2 * LIMIT)
        try:
            for processes in (int(count) for count in options.processes.split(",")):
                found: list[float | None] = []
                while len(found) < options.jumps:
                    found += measure(min(50, options.jumps - len(found)), processes, Path(scratch), chance)
                known = [milliseconds for milliseconds in found if milliseconds is not None]
                late = quantile(known, 0.99)
                print(
                    f"{processes:4} other processes: {len(found)} jumps, {len(found) - len(known)} never stopped; "
                    f"median {quantile(known, 0.5):.0f} ms, 99 % within {late:.0f} ms, longest {max(known):.0f} ms",
                    flush=True,
                )
                missed = missed or late > TARGET_MS or len(known) < len(found)
        except NoContainer as missing:
            print(missing, file=sys.stderr)
            return 2
        finally:
            memory.close()
    print(f"target: 99 % within {TARGET_MS} ms: {'missed' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
