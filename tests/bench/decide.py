# SPDX-License-Identifier: MIT
"""Time of one next_buildable_task(), stock and memguard side by side.

BitBake's own scheduler classes and memguard's run on a run queue of generated recipes: real choices, real readings of
this machine's memory, a real event log; only the queue around them is a stand-in that marks tasks as running and done.
"calm": memory for everything. "tight": the heavy compiles do not all fit, so that some are always held. "known": as
tight, and a history tells how long each task takes; what it costs to work out the order is told in its own column.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from types import SimpleNamespace
from typing import Any
from unittest import mock

from memguard.model import PastRun
from testbed.bitbake import locate

from .statistics import quantile

TASKS = ("fetch", "unpack", "patch", "configure", "compile", "install", "package", "package_write_rpm", "build", "rm")
THREADS = 16
HEAVY_EVERY = 20


class Queue:
    """The part of BitBake's RunQueueExecute that schedulers see, over `size` tasks in chains of ten."""

    def __init__(self, size: int, directory: str, heavy: str) -> None:
        import bb.data_smart

        self.entries: dict[str, Any] = {}
        recipes = size // len(TASKS)
        for recipe in range(recipes):
            chain = [f"/layers/meta/recipes/r{recipe}/r{recipe}_1.0.bb:do_{task}" for task in TASKS]
            for place, tid in enumerate(chain):
                self.entries[tid] = SimpleNamespace(
                    weight=(recipes - recipe) * 3 + len(TASKS) - place,
                    depends=set(chain[place - 1 : place]) if place else set(),
                    revdeps=set(chain[place + 1 : place + 2]),
                )
        d = bb.data_smart.DataSmart()
        d.setVar("MEMGUARD_DIR", directory)
        d.setVar("PARALLEL_MAKE", "-j 2")
        d.setVar("BB_NUMBER_THREADS", str(THREADS))
        for recipe in range(0, recipes, HEAVY_EVERY):
            d.setVar(f"MEMGUARD_FOOTPRINT:pn-r{recipe}", f"do_compile:{heavy}")
        files = {tid.rpartition(":")[0]: f"r{index // len(TASKS)}" for index, tid in enumerate(self.entries)}
        cache = SimpleNamespace(
            task_deps={file: {"noexec": ["do_build"]} for file in files},
            pkg_fn=files,
            pkg_pepvpr={file: ("", "1.0", "r0") for file in files},
            inherits={file: ["/layers/meta/classes/autotools.bbclass"] for file in files},
        )
        self.rqdata = SimpleNamespace(runtaskentries=self.entries, dataCaches={"": cache})
        self.cfgData = d
        self.cooker = SimpleNamespace(
            configuration=SimpleNamespace(dry_run=False, setsceneonly=False),
            databuilder=SimpleNamespace(mcdata={"": d}),
        )
        # As BitBake's does for a task that never ran: one look for its stamp.
        self.rq = SimpleNamespace(check_stamp_task=lambda tid, name, cache: os.access(f"{directory}/{name}", os.F_OK))
        self.max_cpu_pressure = self.max_io_pressure = self.max_memory_pressure = self.max_loadfactor = None
        self.runq_buildable = {tid for tid, entry in self.entries.items() if not entry.depends}
        self.runq_running: set[str] = set()
        self.runq_complete: set[str] = set()
        self.failed_tids: list[str] = []
        self.holdoff_tasks: set[str] = set()
        self.tasks_covered: set[str] = set()
        self.tasks_notcovered = set(self.entries)
        self.build_stamps: dict[str, str] = {}
        self.stampcache: dict[str, bool] = {}
        self.sq_live: set[str] = set()
        self.stats = SimpleNamespace(active=0)
        self.number_tasks = THREADS
        self.active: deque[str] = deque()

    def start(self, tid: str, scheduler: Any) -> None:
        """Mark a task as running, and the oldest running one as done once all threads are taken."""
        self.runq_running.add(tid)
        self.active.append(tid)
        self.build_stamps[tid] = scheduler.stamps[tid]
        while len(self.active) >= THREADS:
            self.end(scheduler)
        self.stats.active = len(self.active)

    def end(self, scheduler: Any) -> None:
        """Mark the oldest running task as done; what it made ready becomes buildable."""
        done = self.active.popleft()
        del self.build_stamps[done]
        self.runq_complete.add(done)
        for revdep in self.entries[done].revdeps:
            scheduler.newbuildable(revdep)
        self.stats.active = len(self.active)


def measure(make: Any, queue: Queue, calls: int) -> tuple[float, float, list[float]]:
    """Seconds to make the scheduler, of its first call, and of each of `calls` calls after it."""
    started = time.perf_counter()
    scheduler = make(queue, queue.rqdata)
    made = time.perf_counter() - started
    started = time.perf_counter()
    tid = scheduler.next_buildable_task()
    first = time.perf_counter() - started
    assert tid is not None
    queue.start(tid, scheduler)
    times = []
    while len(times) < calls:
        started = time.perf_counter()
        tid = scheduler.next_buildable_task()
        times.append(time.perf_counter() - started)
        if tid is not None:
            queue.start(tid, scheduler)
        elif queue.active:
            queue.end(scheduler)
        else:
            break
    return made, first, times


def past_runs(queue: Queue) -> dict[tuple[str, str], PastRun]:
    """What a history would know of every task of a queue: some seconds, of which CPUs are busy with a tenth."""
    recipes = queue.rqdata.dataCaches[""].pkg_fn
    return {
        (recipes[file], task): PastRun(None, 1.0 + place % 97, 0.1)
        for place, (file, _, task) in enumerate(tid.rpartition(":") for tid in queue.entries)
    }


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench decide", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000", help="tasks in the run queue")
    parser.add_argument("--calls", type=int, default=900, help="calls measured in each run")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn")
    options = parser.parse_args(arguments)
    bitbake = locate()
    sys.path.insert(0, str(bitbake.tree / "lib"))
    import bb
    import bb.parse
    import bb.runqueue

    from memguard.bitbake import session
    from memguard.bitbake.scheduler import MemguardScheduler

    bb.parse.siggen = SimpleNamespace(stampfile_mcfn=lambda name, file, extrainfo=False: f"{file}.{name}")

    def stock(queue: Queue, rqdata: Any) -> Any:
        scheduler = bb.runqueue.RunQueueSchedulerSpeed(queue, rqdata)
        # At 100,000 tasks stock's first call takes minutes; its map is given to it, as it would make it itself.
        if len(rqdata.runtaskentries) > 20000:
            scheduler.rev_prio_map = {tid: place for place, tid in enumerate(scheduler.prio_map)}
        return scheduler

    print(f"{bitbake}; {options.pairs} pairs of {options.calls} calls; microseconds per call: median, 90 %")
    print(f"{'tasks':>8} {'memory':>6} {'stock':>16} {'memguard':>16} {'ratio of medians, per pair':>30} first call")
    half = f"base={os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2}"
    with tempfile.TemporaryDirectory(prefix="memguard-bench-") as directory:
        for size in (int(size) for size in options.sizes.split(",")):
            for memory, heavy in (("calm", "base=1K"), ("tight", half), ("known", half)):
                runs: dict[str, list[tuple[float, float, list[float]]]] = {"stock": [], "memguard": []}
                for pair in range(options.pairs):
                    makers = [("stock", stock), ("memguard", MemguardScheduler)]
                    for name, make in makers if pair % 2 == 0 else reversed(makers):
                        queue = Queue(size, directory, heavy)
                        known = past_runs(queue) if memory == "known" else {}
                        with (
                            _silent(bb),
                            mock.patch.object(session.Session, "fastest_runs", lambda _, known=known: known),
                        ):
                            runs[name].append(measure(make, queue, options.calls))
                        session.forget()
                medians = {name: [statistics.median(times) for *_, times in found] for name, found in runs.items()}
                every = {name: [t for *_, times in found for t in times] for name, found in runs.items()}
                ratios = [ours / theirs for ours, theirs in zip(medians["memguard"], medians["stock"])]
                cells = [
                    f"{statistics.median(medians[name]) * 1e6:8.1f} {quantile(every[name], 0.9) * 1e6:7.1f}"
                    for name in ("stock", "memguard")
                ]
                firsts = [statistics.median(first for _, first, _ in runs[name]) for name in ("stock", "memguard")]
                made = [statistics.median(made for made, *_ in runs[name]) for name in ("stock", "memguard")]
                given = " (given)" if size > 20000 else ""
                print(
                    f"{size:8} {memory:>6} {cells[0]} {cells[1]} "
                    f"{statistics.median(ratios):10.3g} ({min(ratios):.3g} to {max(ratios):.3g})".ljust(90)
                    + f" {firsts[0] * 1e3:.1f} ms{given} / {firsts[1] * 1e3:.1f} ms"
                    + f"; made in {made[0] * 1e3:.0f} / {made[1] * 1e3:.0f} ms",
                    flush=True,
                )
    return 0


class _silent:
    """BitBake's messages to nobody: the bench has no UI."""

    def __init__(self, bb: Any) -> None:
        self._bb = bb

    def __enter__(self) -> None:
        self._kept = self._bb.note, self._bb.warn
        self._bb.note = self._bb.warn = lambda *text: None

    def __exit__(self, *reason: object) -> None:
        self._bb.note, self._bb.warn = self._kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
