# SPDX-License-Identifier: MIT
"""The schedulers against BitBake's own, choice by choice, on run queues of many shapes."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memguard.model import BuildUse, Duration, PastRun, TaskUse
from testbed.bitbake import BitBake

KINDS = ("do_fetch", "do_compile", "do_package", "do_build")


@pytest.fixture(scope="module")
def modules(bitbake: BitBake) -> Iterator[SimpleNamespace]:
    """BitBake's runqueue and memguard's adapters, imported from the tree under test."""
    sys.path.insert(0, str(bitbake.tree / "lib"))
    try:
        names = (
            "bb",
            "bb.parse",
            "bb.runqueue",
            "bb.data_smart",
            "memguard.bitbake.session",
            "memguard.bitbake.scheduler",
        )
        loaded = {name.replace(".", "_"): importlib.import_module(name) for name in names}
        loaded["bb_parse"].siggen = SimpleNamespace(
            stampfile_mcfn=lambda name, file, extrainfo=False: _stamp(name, file)
        )
        yield SimpleNamespace(**loaded)
    finally:
        sys.path.remove(str(bitbake.tree / "lib"))


def _stamp(name: str, file: str, extrainfo: bool = False) -> str:
    # Every fifth recipe shares its work directory with the one before: equal stamps must not run at once.
    number = int(file.rpartition("r")[2])
    return f"r{number - 1 if number % 5 == 4 else number}.{name}"


def queue(modules: SimpleNamespace, seed: int, threads: dict[str, str], directory: Path) -> Any:
    """A run queue with random dependencies, the same for the same seed."""
    dice = random.Random(seed)
    recipes = dice.randrange(2, 25)
    entries: dict[str, Any] = {}
    for number in range(recipes):
        before: str | None = None
        for kind in KINDS:
            tid = f"/r{number}:{kind}"
            depends = {before} if before else set()
            if number and dice.random() < 0.3:
                depends.add(f"/r{dice.randrange(number)}:{dice.choice(KINDS)}")
            entries[tid] = SimpleNamespace(weight=dice.randrange(40), depends=depends, revdeps=set())
            before = tid
    for tid, entry in entries.items():
        for dependency in entry.depends:
            entries[dependency].revdeps.add(tid)
    d = modules.bb_data_smart.DataSmart()
    d.setVar("MEMGUARD_DIR", str(directory))
    for kind, limit in threads.items():
        d.setVarFlag(kind, "number_threads", limit)
    files = {f"/r{number}": f"r{number}" for number in range(recipes)}
    cache = SimpleNamespace(
        task_deps={file: {} for file in files},
        pkg_fn=files,
        pkg_pepvpr={file: ("", "1.0", "r0") for file in files},
        inherits={file: [] for file in files},
    )
    return SimpleNamespace(
        rqdata=SimpleNamespace(runtaskentries=entries, dataCaches={"": cache}, runq_setscene_tids=set()),
        cfgData=d,
        cooker=SimpleNamespace(
            configuration=SimpleNamespace(dry_run=False, setsceneonly=False),
            databuilder=SimpleNamespace(mcdata={"": d}),
        ),
        rq=SimpleNamespace(check_stamp_task=lambda tid, name, cache: False),
        max_cpu_pressure=None,
        max_io_pressure=None,
        max_memory_pressure=None,
        max_loadfactor=None,
        runq_buildable={tid for tid, entry in entries.items() if not entry.depends},
        runq_running=set(),
        runq_complete=set(),
        failed_tids=[],
        holdoff_tasks=set(),
        tasks_covered={tid for tid in entries if dice.random() < 0.1},
        tasks_notcovered=set(entries),
        build_stamps={},
        stampcache={},
        sq_live=set(),
        sq_buildable=set(),
        sq_running=set(),
        sqdone=False,
        number_tasks=1,
        stats=SimpleNamespace(active=0),
    )


def drive(
    modules: SimpleNamespace, kind: type, seed: int, threads: dict[str, str], directory: Path
) -> list[str | None]:
    """Every choice of a scheduler of `kind` over one whole build with random ends and held-off tasks."""
    rq = queue(modules, seed, threads, directory)
    dice = random.Random(seed)
    entries = rq.rqdata.runtaskentries
    scheduler = kind(rq, rq.rqdata)
    active: list[str] = []
    choices: list[str | None] = []
    while len(rq.runq_complete) < len(entries):
        # Sstate decides late about some tasks.
        rq.holdoff_tasks = {tid for tid in sorted(entries) if dice.random() < 0.2} if active else set()
        rq.stats.active = len(active)
        tid = scheduler.next_buildable_task() if len(active) < 4 else None
        choices.append(tid)
        if tid is not None:
            rq.runq_running.add(tid)
            rq.build_stamps[tid] = scheduler.stamps[tid]
            active.append(tid)
        elif not active:
            raise AssertionError("nothing runs and nothing is chosen")
        if active and (tid is None or dice.random() < 0.5):
            done = active.pop(dice.randrange(len(active)))
            del rq.build_stamps[done]
            rq.runq_complete.add(done)
            for revdep in sorted(entries[done].revdeps):
                if entries[revdep].depends <= rq.runq_complete:
                    scheduler.newbuildable(revdep)
            # BitBake repeats itself.
            scheduler.newbuildable(done)
    return choices


@pytest.mark.parametrize("order", ["speed", "completion"])
@pytest.mark.parametrize("threads", [{}, {"do_compile": "1", "do_fetch": "2", "do_package": "0"}])
def test_every_choice_is_bitbakes(
    modules: SimpleNamespace, tmp_path: Path, order: str, threads: dict[str, str]
) -> None:
    """With memory for all, memguard's schedulers choose what BitBake's would, in 75 builds of random shape."""
    stock, ours = {
        "speed": (modules.bb_runqueue.RunQueueSchedulerSpeed, modules.memguard_bitbake_scheduler.MemguardScheduler),
        "completion": (
            modules.bb_runqueue.RunQueueSchedulerCompletion,
            modules.memguard_bitbake_scheduler.MemguardCompletionScheduler,
        ),
    }[order]
    choices = 0
    for seed in range(75):
        theirs = drive(modules, stock, seed, threads, tmp_path)
        assert drive(modules, ours, seed, threads, tmp_path) == theirs, seed
        modules.memguard_bitbake_session.forget()
        choices += len(theirs)
    assert choices > 2500


def test_a_tight_memory_starves_nothing_and_runs_everything(modules: SimpleNamespace, tmp_path: Path) -> None:
    """With memory for one task in ten, every task still runs exactly once, in 100 builds of random shape."""
    ours = modules.memguard_bitbake_scheduler.MemguardScheduler

    class Tight(ours):  # type: ignore[misc, valid-type]
        """Every other recipe takes more than half of this machine."""

        def __init__(self, runqueue: Any, rqdata: Any) -> None:
            for number in range(0, 25, 2):
                value = f"do_compile:base={self.half}"
                runqueue.cfgData.setVar(f"MEMGUARD_FOOTPRINT:pn-r{number}", value)
            super().__init__(runqueue, rqdata)

    with open("/proc/meminfo", encoding="ascii") as meminfo:
        Tight.half = int(meminfo.readline().split()[1]) * 512
    holds = 0
    for seed in range(100):
        choices = [tid for tid in drive(modules, Tight, seed, {}, tmp_path) if tid]
        assert len(choices) == len(set(choices))
        holds += modules.memguard_bitbake_session.current().guard.ledger.totals.held
        modules.memguard_bitbake_session.forget()
    assert holds > 100


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("", False), ("default", False), ("arm", True)])
def test_the_unnamed_configuration_is_known_in_every_release(
    modules: SimpleNamespace, value: str | None, expected: bool
) -> None:
    """BitBake 2.8 calls the configuration of a build without multiconfigs "default", later ones leave it empty."""
    d = modules.bb_data_smart.DataSmart()
    if value is not None:
        d.setVar("BB_CURRENT_MC", value)
    assert modules.memguard_bitbake_session.is_named_multiconfig(d) is expected


def recalling(modules: SimpleNamespace, kind: type, runs: dict[tuple[str, str], PastRun]) -> type:
    """A scheduler of `kind` that finds `runs` in its history."""

    class Recalling(kind):  # type: ignore[misc, valid-type]
        def __init__(self, runqueue: Any, rqdata: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(modules.memguard_bitbake_session.Session, "fastest_runs", lambda session: runs)
                super().__init__(runqueue, rqdata)

    return Recalling


def test_what_is_remembered_changes_the_order_and_nothing_else(modules: SimpleNamespace, tmp_path: Path) -> None:
    """With a history the longest chain goes first, every task still runs once and after what it needs."""
    runs = {
        (f"r{number}", kind): PastRun(None, float((number * 37) % 11 + (50 if kind == "do_compile" else 1)), 0.0)
        for number in range(25)
        for kind in KINDS[:-1]
    }
    stock = modules.memguard_bitbake_scheduler.MemguardScheduler
    ours = recalling(modules, stock, runs)
    changed = 0
    for seed in range(60):
        before = [tid for tid in drive(modules, stock, seed, {}, tmp_path) if tid]
        modules.memguard_bitbake_session.forget()
        after = [tid for tid in drive(modules, ours, seed, {}, tmp_path) if tid]
        modules.memguard_bitbake_session.forget()
        assert len(after) == len(set(after))
        assert sorted(after) == sorted(before)
        changed += after != before
    assert changed > 40


def test_completion_order_stays_whatever_is_remembered(modules: SimpleNamespace, tmp_path: Path) -> None:
    """rm_work's order is about disk space: durations do not touch it."""
    runs = {(f"r{number}", "do_compile"): PastRun(None, float(number), 0.0) for number in range(25)}
    stock = modules.memguard_bitbake_scheduler.MemguardCompletionScheduler
    ours = recalling(modules, stock, runs)
    for seed in range(40):
        before = drive(modules, stock, seed, {}, tmp_path)
        modules.memguard_bitbake_session.forget()
        assert drive(modules, ours, seed, {}, tmp_path) == before
        modules.memguard_bitbake_session.forget()


def with_one_running(modules: SimpleNamespace, tmp_path: Path, cpus: float) -> tuple[Any, Any, str]:
    """A run queue, its scheduler and the one task that runs, and is seen to keep so many CPUs busy."""
    runs = {(f"r{number}", kind): PastRun(None, 30.0, 30.0) for number in range(25) for kind in KINDS}
    kind = recalling(modules, modules.memguard_bitbake_scheduler.MemguardScheduler, runs)
    rq = queue(modules, 1, {}, tmp_path)
    rq.tasks_covered = set()
    rq.cfgData.setVar("PARALLEL_MAKE", "-j 999")
    rq.cfgData.setVar("BB_NUMBER_THREADS", "999")
    rq.cooker.databuilder.mcdata[""] = rq.cfgData
    scheduler = kind(rq, rq.rqdata)
    first = scheduler.next_buildable_task()
    rq.runq_running.add(first)
    rq.build_stamps[first] = scheduler.stamps[first]
    rq.stats.active = 1
    # Less than half of the memory will be free.
    rise_bytes = scheduler._guard.ledger.budget_bytes * 6 // 10
    use = BuildUse({first: TaskUse(0, cpus, most_compilers=1)}, rise_bytes=rise_bytes)
    scheduler._guard._state_file = SimpleNamespace(read=lambda now_s: SimpleNamespace(use=use))
    scheduler._guard.sample()
    return rq, scheduler, first


def test_nothing_starts_while_the_cpus_are_busy(modules: SimpleNamespace, tmp_path: Path) -> None:
    """Where a running task keeps all CPUs busy the next waits for its end; an idle one lets it start."""
    for cpus, starts in ((1e3, False), (1e-3, True)):
        rq, scheduler, first = with_one_running(modules, tmp_path, cpus)
        assert scheduler._guard.is_crowded is not starts
        assert (scheduler.next_buildable_task() is not None) is starts
        rq.runq_complete.add(first)
        rq.stats.active = 0
        assert scheduler.next_buildable_task() is not None
        modules.memguard_bitbake_session.forget()


def test_a_download_starts_although_the_cpus_are_busy(modules: SimpleNamespace, tmp_path: Path) -> None:
    """What earlier builds saw waiting for a network, and not for a CPU, passes what the busy CPUs hold back."""
    _, scheduler, first = with_one_running(modules, tmp_path, 1e3)
    assert scheduler.next_buildable_task() is None
    quiet = [tid for tid in scheduler.buildable if tid != first][-1]
    known = scheduler._task(quiet)
    scheduler._tasks[quiet] = replace(known, duration=Duration(30.0, 0.0, 0.5))
    assert scheduler.next_buildable_task() == quiet
    modules.memguard_bitbake_session.forget()


def test_a_running_task_that_takes_more_than_its_kind_teaches_the_others(
    modules: SimpleNamespace, tmp_path: Path
) -> None:
    """What is held of its kind, or has yet to begin, is expected to take more from the next look on."""
    kind = modules.memguard_bitbake_scheduler.MemguardScheduler
    rq = queue(modules, 1, {}, tmp_path)
    rq.tasks_covered = set()
    scheduler = kind(rq, rq.rqdata)
    first, other = (next(tid for tid in scheduler.prio_map if tid == f"/r{number}:do_compile") for number in (0, 1))
    guard, before = scheduler._guard, scheduler._task(other).footprint
    guard.ledger.offer(scheduler._task(first), is_idle=True)
    rq.runq_running.add(first)
    rq.stats.active = 1
    use = BuildUse({first: TaskUse(2 << 30, 1.0, 2 << 30, most_compilers=1)})
    guard._state_file = SimpleNamespace(read=lambda now_s: SimpleNamespace(use=use))
    guard.sample()
    scheduler.next_buildable_task()
    assert scheduler._task(other).footprint.peak_bytes(1) > before.peak_bytes(1)
    modules.memguard_bitbake_session.forget()
