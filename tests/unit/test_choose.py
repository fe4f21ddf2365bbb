# SPDX-License-Identifier: MIT
"""The choice of the next task, over a queue that the tests fill and a real ledger."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from memguard.decide.admit import LIGHT_BYTES
from memguard.decide.choose import CROWD_LOOK, HOLDS_PER_CALL, QUIET_CPUS, SHORT_S, choose_next
from memguard.decide.ledger import Ledger
from memguard.model import BuildUse, Duration, Footprint, Policy, Reading, Task, TaskUse
from memguard.units import GIB


@dataclass
class Ready:
    """Tasks in order; some are not ready, weightless, or taken back."""

    tasks: dict[str, Task]
    not_ready: set[str] = field(default_factory=set)
    weightless: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def first(self, hidden: Container[str]) -> str | None:
        return next((tid for tid in self.tasks if tid not in hidden and self.is_ready(tid)), None)

    def ahead(self, count: int) -> Iterable[str]:
        return list(self.tasks)[:count]

    def is_ready(self, tid: str) -> bool:
        return tid not in self.not_ready and tid not in self.gone

    def is_weightless(self, tid: str) -> bool:
        return tid in self.weightless

    def taken_back(self, held: Iterable[str]) -> list[str]:
        return [tid for tid in held if tid in self.gone]

    def task(self, tid: str) -> Task:
        return self.tasks[tid]


def queue(*sizes: int, cpu_s: float | None = None) -> Ready:
    """Tasks "0", "1", ... of these sizes, which keep cpu_s CPUs busy for a second."""
    duration = None if cpu_s is None else Duration(1.0, 0.0, cpu_s)
    tasks = [
        Task(str(number), "", "r", "do_compile", Footprint(size, 0, 0, "known"), 1, duration)
        for number, size in enumerate(sizes)
    ]
    return Ready({task.tid: task for task in tasks})


def gate(cpus: float = 4.0, used: int = 0) -> Ledger:
    """The ledger of a container of 8 GiB that a sentinel watches, and in which so much is used by now."""
    empty = Reading(8 * GIB, "", 0, 0, 8 * GIB, None, 8 * GIB, cpus)
    ledger = Ledger(Policy(reserve_bytes=0), empty, 0.0)
    ledger.look(replace(empty, used_bytes=used, room_bytes=8 * GIB - used), BuildUse({}), 0.0)
    return ledger


def start(ready: Ready, ledger: Ledger, is_idle: bool = False) -> str | None:
    """Choose, and take what was chosen out of the queue as who starts it does."""
    tid = choose_next(ready, ledger, is_idle)
    if tid is not None:
        ready.not_ready.add(tid)
    return tid


def test_the_first_that_fits_starts_and_those_before_it_are_held() -> None:
    """Tasks are asked about in their order, and whoever does not fit waits."""
    ready, ledger = queue(5 * GIB, 6 * GIB, 7 * GIB, 1 * GIB), gate()
    assert start(ready, ledger, is_idle=True) == "0"
    assert start(ready, ledger) == "3"
    assert list(ledger.held) == ["1", "2"]


def test_a_held_task_comes_before_those_that_are_not() -> None:
    """Once there is memory for it, the oldest held task starts, whatever else is ready."""
    ready, ledger = queue(5 * GIB, 6 * GIB, 1), gate()
    start(ready, ledger, is_idle=True)
    assert choose_next(ready, ledger, False) == "2"
    ledger.settle(["0", "2"], 1.0)
    assert choose_next(ready, ledger, False) == "1"
    assert not ledger.held


def test_a_held_task_that_is_not_ready_lets_others_pass() -> None:
    """BitBake may hold off a task that memory would let start."""
    ready, ledger = queue(5 * GIB, 6 * GIB, 1), gate()
    start(ready, ledger, is_idle=True)
    start(ready, ledger)
    ready.not_ready.add("1")
    ledger.settle(["0", "2"], 1.0)
    assert choose_next(ready, ledger, True) is None
    ready.not_ready.discard("1")
    assert choose_next(ready, ledger, True) == "1"


def test_what_was_taken_back_is_held_no_longer() -> None:
    """A task that sstate has covered meanwhile keeps no memory from others."""
    ready, ledger = queue(5 * GIB, 6 * GIB), gate()
    start(ready, ledger, is_idle=True)
    assert start(ready, ledger) is None
    ready.gone.add("1")
    assert start(ready, ledger) is None
    assert not ledger.held


def test_a_weightless_task_asks_nobody() -> None:
    """What runs nothing starts though no memory is left, and is in no ledger."""
    ready, ledger = queue(8 * GIB, 5 * GIB), gate()
    start(ready, ledger, is_idle=True)
    ready.weightless.add("1")
    assert start(ready, ledger) == "1"
    assert list(ledger.running) == ["0"]


def test_only_so_many_are_held_in_one_call() -> None:
    """A call ends in time, though thousands of tasks do not fit."""
    ready, ledger = queue(8 * GIB, *[5 * GIB] * 100), gate()
    start(ready, ledger, is_idle=True)
    for calls in (1, 2):
        assert start(ready, ledger) is None
        assert len(ledger.held) == calls * HOLDS_PER_CALL


def test_busy_cpus_let_only_quiet_tasks_start() -> None:
    """One of those next in order that leaves the CPUs alone passes; one too far behind does not."""
    ready, ledger = queue(*[GIB // 8] * (CROWD_LOOK + 2), cpu_s=1.0), gate(cpus=0.5, used=5 * GIB)
    assert start(ready, ledger, is_idle=True) == "0"
    assert ledger.is_crowded
    assert start(ready, ledger) is None
    for place, starts in ((CROWD_LOOK, False), (CROWD_LOOK - 1, True)):
        tid = str(place)
        quiet = Task(tid, "", "r", "do_fetch", Footprint(GIB // 8, 0, 0, "known"), 1, Duration(1.0, 0.0, QUIET_CPUS))
        ready.tasks[tid] = quiet
        assert start(ready, ledger) == (tid if starts else None)
    assert not ledger.held


def test_busy_cpus_let_light_tasks_start() -> None:
    """What takes next to nothing starts, held or not: others may wait for it."""
    ready, ledger = queue(GIB, GIB, LIGHT_BYTES), gate(cpus=0.5, used=5 * GIB)
    assert start(ready, ledger, is_idle=True) == "0"
    ledger.hold(ready.tasks["2"], ledger.judge(ready.tasks["2"], is_idle=False))
    assert start(ready, ledger) == "2"
    assert start(ready, ledger) is None


def test_busy_cpus_hold_back_light_tasks_that_are_long() -> None:
    """They would only take CPU time from those that run; what nobody knows is taken to be short."""
    ready, ledger = queue(GIB, LIGHT_BYTES, LIGHT_BYTES), gate(cpus=0.5, used=5 * GIB)
    assert start(ready, ledger, is_idle=True) == "0"
    for tid, seconds in (("1", SHORT_S + 1), ("2", SHORT_S)):
        ready.tasks[tid] = replace(ready.tasks[tid], duration=Duration(seconds, 0.0))
    assert start(ready, ledger) == "2"
    assert start(ready, ledger) is None


def test_an_idle_cpu_lets_start_what_fits_now() -> None:
    """All that is ready is held first; then the smallest that fits beside what is used now starts."""
    ready, ledger = queue(5 * GIB, 6 * GIB, 4 * GIB), gate()
    assert start(ready, ledger, is_idle=True) == "0"
    used = Reading(8 * GIB, "", 1 * GIB, 0, 7 * GIB, None, 8 * GIB, 4.0)
    ledger.look(used, BuildUse({"0": TaskUse(GIB, cpus=4.0, most_compilers=1)}, rise_bytes=4 * GIB), 1.0)
    assert start(ready, ledger) is None
    ledger.look(used, BuildUse({"0": TaskUse(GIB, cpus=1.0, most_compilers=1)}, rise_bytes=4 * GIB), 2.0)
    assert start(ready, ledger) == "2"
    assert start(ready, ledger) is None
    assert list(ledger.held) == ["1"]


@given(
    st.lists(st.integers(1, 20 * GIB), min_size=1, max_size=40),
    st.sets(st.integers(0, 39)),
    st.sets(st.integers(0, 39)),
    st.integers(0, 9 * GIB),
    st.integers(0, 2),
    st.booleans(),
)
def test_liveness(
    sizes: list[int], held: set[int], not_ready: set[int], used_bytes: int, stopped: int, is_alone: bool
) -> None:
    """When nothing runs something starts as long as one task is ready, whatever it takes and whatever is in use."""
    ready, ledger = queue(*sizes), gate()
    for number in held:
        task = ready.tasks.get(str(number))
        if task is not None:
            ledger.hold(task, ledger.judge(task, is_idle=False))
    ready.not_ready = {str(number) for number in not_ready}
    read = Reading(8 * GIB, "", used_bytes, 0, 8 * GIB - used_bytes, None, 8 * GIB, 4.0)
    ledger.look(read, BuildUse({}, stopped, "x do_compile" if is_alone else ""), 1.0, is_idle=True)
    chosen = choose_next(ready, ledger, is_idle=True)
    assert (chosen is not None) is any(ready.is_ready(tid) for tid in ready.tasks)
    assert list(ledger.running) == ([] if chosen is None else [chosen])
