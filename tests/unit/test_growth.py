# SPDX-License-Identifier: MIT
"""When a larger container is asked for, and for how much more: a ledger, and a time that the tests set."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from memguard.decide.admit import Situation, admit
from memguard.decide.growth import AGAIN_S, PATIENCE_S, Growth, Wish, lacking_bytes, with_more
from memguard.decide.ledger import Ledger
from memguard.model import BuildUse, Footprint, Policy, Reading, Task, TaskUse
from memguard.units import GIB, MIB

POLICY = Policy(reserve_bytes=0)


def reading(used_bytes: int = 0, limit_bytes: int | None = 8 * GIB, host_bytes: int = 1 << 50) -> Reading:
    """A container of 8 GiB and 4 CPUs on a large machine."""
    return Reading(limit_bytes, "memory.max", used_bytes, 0, 8 * GIB - used_bytes, host_bytes, 1 << 50, 4.0)


def task(tid: str, size_bytes: int) -> Task:
    """A task of that size, whatever its jobs."""
    return Task(tid, "", f"r-{tid}", "do_compile", Footprint(size_bytes, 0, 0, "known"), 4)


class Bench:
    """A ledger in which a task of 6 GiB runs, with as many CPUs busy as is said, and another of 6 GiB is held."""

    def __init__(self, busy_cpus: float = 1.0) -> None:
        self.ledger, self.growth, self.now_s = Ledger(POLICY, reading(), 100.0), Growth(), 100.0
        self.use = BuildUse({"a": TaskUse(6 * GIB, busy_cpus, 6 * GIB, 1)})
        assert self.ledger.offer(task("a", 6 * GIB), is_idle=True)
        self.see()
        assert not self.ledger.offer(task("b", 6 * GIB), is_idle=False)

    def see(self, seconds: float = 0.0) -> Wish | None:
        """Look once, after some time."""
        self.now_s += seconds
        self.ledger.settle((), self.now_s)
        self.ledger.look(reading(6 * GIB), self.use, self.now_s)
        return self.growth.look(self.ledger, self.now_s)

    def wishes(self, seconds: float, step_s: float = 0.5) -> list[tuple[float, Wish]]:
        """Each wish of some seconds, with the seconds until then."""
        started_s, found = self.now_s, []
        while self.now_s - started_s < seconds:
            wish = self.see(step_s)
            if wish is not None:
                found.append((self.now_s - started_s, wish))
        return found


def test_what_a_task_lacks_is_asked_for_once_cpus_have_idled() -> None:
    """After some seconds, and then once a minute while nothing changes."""
    bench = Bench()
    found = bench.wishes(AGAIN_S + 10)
    assert [seconds for seconds, _ in found] == [PATIENCE_S, PATIENCE_S + AGAIN_S]
    assert found[0][1] == Wish(task("b", 6 * GIB), 4 * GIB)


def test_nothing_is_asked_for_while_cpus_are_busy() -> None:
    """More memory would start a task that has no CPU."""
    assert Bench(busy_cpus=4.0).wishes(30) == []


def test_nothing_is_asked_for_while_bitbake_does_not_ask() -> None:
    """Then all its threads are taken, and no task would start."""
    assert Bench().wishes(60, step_s=5.0) == []


def test_a_hold_that_ends_soon_is_nobodys_wish() -> None:
    """CPUs that idled for a task that runs by now count no more."""
    bench = Bench()
    assert bench.wishes(PATIENCE_S - 1) == []
    bench.ledger.release("b")
    bench.see(0.5)
    assert not bench.ledger.offer(task("c", 6 * GIB), is_idle=False)
    assert [seconds for seconds, _ in bench.wishes(PATIENCE_S + 1)] == [PATIENCE_S]


def test_what_would_not_help_is_not_asked_for() -> None:
    """Where there is no limit, or the machine has not got the memory, a higher limit lets nothing start."""
    full = Situation(reading(6 * GIB), POLICY, idle_bytes=0)
    assert lacking_bytes(task("b", 6 * GIB), full) == 4 * GIB
    assert lacking_bytes(task("b", 1 * GIB), full) == 0
    assert lacking_bytes(task("b", 6 * GIB), replace(full, reading=reading(6 * GIB, None))) is None
    assert lacking_bytes(task("b", 6 * GIB), replace(full, reading=reading(6 * GIB, host_bytes=2 * GIB))) is None


SIZE = st.integers(0, 64).map(lambda share: share * 256 * MIB)


@given(
    size=SIZE,
    per_job=SIZE,
    wanted_jobs=st.integers(1, 16),
    used=st.integers(0, 32).map(lambda share: share * 256 * MIB),
    rise=SIZE,
    pending=SIZE,
    kept=st.none() | SIZE,
    filling=st.none() | SIZE,
    reserve=st.sampled_from([Policy(), POLICY, Policy(reserve_share=0.1)]),
)
def test_with_what_it_lacks_a_task_starts(
    size: int,
    per_job: int,
    wanted_jobs: int,
    used: int,
    rise: int,
    pending: int,
    kept: int | None,
    filling: int | None,
    reserve: Policy,
) -> None:
    """Whatever runs and is kept, the reserve of the larger container included; and nothing is lacking where it fits."""
    wanted = Task("t", "", "r", "do_compile", Footprint(size, per_job, 0, "history"), wanted_jobs)
    situation = Situation(
        reading(used),
        reserve,
        idle_bytes=0,
        rise_bytes=rise,
        pending_bytes=pending,
        kept=task("k", kept) if kept is not None else None,
        filling=task("f", filling) if filling is not None else None,
    )
    lacking = lacking_bytes(wanted, situation)
    assert lacking is not None
    assert admit(wanted, with_more(situation, lacking)).starts
    if admit(wanted, with_more(situation, 0)).starts:
        assert lacking == 0
