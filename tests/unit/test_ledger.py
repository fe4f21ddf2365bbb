# SPDX-License-Identifier: MIT
"""The ledger alone: values in, values out, and a time that the tests set."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from memguard.decide.ledger import ASKED_S, READING_AGE_S, STARVED_S, Admission, Ledger, Release
from memguard.model import BuildUse, Footprint, Grant, Mode, Policy, Reading, Task, TaskUse
from memguard.units import GIB

NOTHING = BuildUse({})


def reading(used_bytes: int = 0) -> Reading:
    """A container of 8 GiB and 4 CPUs."""
    return Reading(8 * GIB, "memory.max", used_bytes, 0, 8 * GIB - used_bytes, None, 8 * GIB, 4.0)


def make_ledger(mode: Mode = Mode.ENFORCE) -> Ledger:
    """The ledger of an empty container, begun at 100 s."""
    return Ledger(Policy(mode, reserve_bytes=0), reading(), 100.0)


def task(tid: str, base: int, per_job: int = 0, wanted: int = 4) -> Task:
    """A task of that footprint."""
    return Task(tid, "", f"r-{tid}", "do_compile", Footprint(base, per_job, 0, "known"), wanted)


def test_what_happened_comes_back_as_values() -> None:
    """Who keeps the ledger learns of a hold once, and of the grant that ends it, with place and seconds."""
    ledger, heavy = make_ledger(), task("b", 5 * GIB)
    assert ledger.offer(task("a", 5 * GIB), is_idle=True)
    verdict = ledger.judge(heavy, is_idle=False)
    hold = ledger.hold(heavy, verdict)
    assert hold is not None
    assert (hold.task, hold.place, hold.since_s, hold.need_bytes) == (heavy, 2, 100.0, 5 * GIB)
    assert ledger.hold(heavy, verdict) is None
    ledger.settle(["a"], 107.5)
    verdict = ledger.judge(heavy, is_idle=False)
    assert verdict.grant == Grant(4, 5 * GIB)
    assert ledger.grant(heavy, verdict, verdict.grant) == Admission(ledger.running["b"], Release(hold, 7.5))
    assert ledger.running["b"].place == hold.place
    assert ledger.release("b") is None
    assert (ledger.totals.granted, ledger.totals.held, ledger.totals.held_s) == (2, 1, 7.5)


def test_what_is_held_is_judged_anew_once_somebody_watches() -> None:
    """Before, tasks count with the margins of their predictions, and such a need would keep them last for good."""
    ledger = make_ledger()
    learned = Task("b", "", "r", "do_compile", Footprint(7 * GIB, 0, 0, "history", margin=1.0), 1)
    ledger.look(reading(1 * GIB), BuildUse({}, is_watched=False), 100.0)
    ledger.offer(task("a", 3 * GIB), is_idle=True)
    assert not ledger.offer(learned, is_idle=False)
    before = ledger.held["b"].need_bytes
    ledger.look(reading(1 * GIB), NOTHING, 100.5)
    assert list(ledger.releasable(is_idle=False)) == [learned]
    assert ledger.held["b"].need_bytes < before


def test_a_reading_is_due_once_it_is_old() -> None:
    """The container need not be read for each of a thousand questions of one moment."""
    ledger = make_ledger()
    assert not ledger.settle((), 100.0 + READING_AGE_S / 2)
    assert ledger.settle((), 100.0 + 2 * READING_AGE_S)
    ledger.look(reading(), NOTHING, 100.0 + 2 * READING_AGE_S)
    assert not ledger.settle((), 100.0 + 2.5 * READING_AGE_S)


def test_a_task_that_nobody_has_seen_yet_takes_all_that_it_needs() -> None:
    """It counts on top of what is used until a sentinel has seen it; from then on what is expected of it does."""
    ledger = make_ledger()
    ledger.look(reading(1 * GIB), NOTHING, 100.0)
    ledger.offer(task("a", 3 * GIB), is_idle=True)
    assert ledger.free_bytes == 4 * GIB
    ledger.look(reading(2 * GIB), BuildUse({"a": TaskUse(1 * GIB, most_compilers=1)}, rise_bytes=1 * GIB), 100.5)
    assert ledger.free_bytes == 5 * GIB


def test_what_no_compiler_tells_of_is_pending() -> None:
    """A task that has run none yet will take the rest of its need; the user's word stands."""
    ledger = make_ledger()
    ledger.look(reading(), NOTHING, 100.0)
    for tid, origin in (("packing", "history"), ("own", "MEMGUARD_FOOTPRINT"), ("compiling", "history")):
        one = Task(tid, "", tid, "do_x", Footprint(2 * GIB, 0, 0, origin), 1)
        assert ledger.offer(one, is_idle=True)
    seen = {
        "packing": TaskUse(GIB // 2),
        "own": TaskUse(GIB // 2, most_compilers=3),
        "compiling": TaskUse(GIB, most_compilers=1),
    }
    ledger.look(reading(2 * GIB), BuildUse(seen), 101.0)
    assert ledger.free_bytes == 3 * GIB


def test_where_nobody_watches_grants_are_added_up() -> None:
    """Nothing says what running tasks take, and nobody could take it back."""
    ledger = make_ledger()
    ledger.offer(task("a", 3 * GIB), is_idle=True)
    for used_bytes, free_bytes in ((1 * GIB, 5 * GIB), (4 * GIB, 4 * GIB)):
        ledger.look(reading(used_bytes), BuildUse({}, is_watched=False), 101.0)
        assert ledger.free_bytes == free_bytes
        assert not ledger.is_hungry
        assert not ledger.is_crowded


def test_a_starved_task_has_its_memory_kept() -> None:
    """After a long time others start only beside what it needs, whatever idles."""
    ledger = make_ledger()
    ledger.look(reading(), NOTHING, 100.0)
    ledger.offer(task("a", 5 * GIB), is_idle=True)
    assert not ledger.offer(task("b", 4 * GIB), is_idle=False)
    for waited_s, starts in ((STARVED_S - 1, True), (STARVED_S, False)):
        ledger.look(reading(5 * GIB), BuildUse({"a": TaskUse(5 * GIB, most_compilers=1)}), 100.0 + waited_s)
        ledger.settle((), 100.0 + waited_s)
        assert ledger.judge(task("c", 2 * GIB), is_idle=False, is_bold=True).starts is starts


def test_heavy_tasks_run_one_after_the_other() -> None:
    """While none runs, memory is kept for the oldest of those that need more than half; beside one nothing is kept."""
    ledger = make_ledger()
    ledger.look(reading(), NOTHING, 100.0)
    ledger.offer(task("a", 3 * GIB), is_idle=True)
    assert not ledger.offer(task("heavy", 6 * GIB), is_idle=False)
    assert not ledger.judge(task("c", 2 * GIB), is_idle=False).starts
    ledger.settle(["a"], 101.0)
    assert ledger.offer(task("heavy", 6 * GIB), is_idle=False)
    assert not ledger.offer(task("other", 7 * GIB), is_idle=False)
    assert ledger.judge(task("c", 2 * GIB), is_idle=False).starts


def test_an_idle_cpu_makes_bold_the_smallest_first() -> None:
    """While CPUs are busy nobody is bold; of those that may start then the one that needs least comes first."""
    ledger = make_ledger()
    ledger.look(reading(), NOTHING, 100.0)
    ledger.offer(task("a", 3 * GIB), is_idle=True)
    busy, idle = (BuildUse({"a": TaskUse(1 * GIB, cpus, most_compilers=1)}, rise_bytes=7 * GIB) for cpus in (4.0, 3.0))
    for number, size in enumerate((5, 8, 4)):
        ledger.look(reading(1 * GIB), busy, 101.0)
        assert not ledger.offer(task(str(number), size * GIB), is_idle=False)
    assert not ledger.is_hungry
    ledger.look(reading(1 * GIB), idle, 102.0)
    assert ledger.is_hungry
    assert [found.tid for found in ledger.bold()] == ["2", "0"]
    assert ledger.offer(task("2", 4 * GIB), is_idle=False, is_bold=True)
    assert list(ledger.bold()) == []


def test_observing_counts_and_holds_nothing() -> None:
    """What would have been done is counted; the task has all its jobs."""
    ledger, heavy = make_ledger(Mode.OBSERVE), task("b", 0, per_job=4 * GIB)
    assert ledger.observe(heavy, ledger.judge(heavy, is_idle=False)).grant == Grant(4, 16 * GIB)
    again = task("c", 5 * GIB)
    ledger.observe(again, ledger.judge(again, is_idle=False))
    assert not ledger.held
    assert (ledger.totals.shrunk, ledger.totals.held, ledger.totals.granted) == (1, 1, 2)


def test_busy_cpus_crowd_the_build_until_their_tasks_end() -> None:
    """Four CPUs' work on four CPUs is a crowd, three are not, and an end thins it out."""
    ledger = make_ledger()
    ledger.look(reading(5 * GIB), NOTHING, 100.0)
    for number in range(4):
        assert not ledger.is_crowded
        ledger.offer(task(str(number), 1), is_idle=not number)
    assert ledger.is_crowded
    ledger.look(reading(1 * GIB), NOTHING, 100.5)
    assert not ledger.is_crowded  # while there is memory for all
    ledger.look(reading(5 * GIB), NOTHING, 100.6)
    assert ledger.is_crowded
    ledger.settle(["0"], 101.0)
    assert not ledger.is_crowded


# -- whatever happens --------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 9), st.integers(1, 12 * GIB), st.integers(0, 2 * GIB)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("look"), st.integers(0, 12 * GIB), st.integers(0, 3), st.booleans()),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_sums_are_those_of_the_entries(steps: list[tuple[object, ...]]) -> None:
    """After any story the ledger judges as one that has just been filled with the same entries would."""
    ledger, now_s = make_ledger(), 100.0
    for name, *values in steps:
        now_s += 1.0
        ledger.settle((), now_s)
        if name == "offer":
            number, base, per_job = values
            ledger.offer(task(str(number), base, per_job), is_idle=not ledger.running)  # type: ignore[arg-type]
        elif name == "end":
            ledger.settle([str(values[0])], now_s)
        elif name == "release":
            ledger.release(str(values[0]))
        else:
            used_bytes, stopped, is_alone = values
            use = BuildUse({}, stopped, "x" if is_alone else "")  # type: ignore[arg-type]
            ledger.look(reading(used_bytes), use, now_s, is_idle=not ledger.running)  # type: ignore[arg-type]
    assert ledger._granted_bytes == sum(entry.grant.bytes for entry in ledger.running.values())
    places = [hold.place for hold in ledger.held.values()]
    assert places == sorted(places)
    before = ledger._now()
    ledger._situation = None
    # Who starves is worked out with each change, not with each moment that passes.
    assert replace(ledger._now(), kept=before.kept, is_starved=before.is_starved) == before


def test_idle_cpus_count_while_a_held_task_would_fit_and_somebody_asks() -> None:
    """Not for a time in which BitBake had no thread for it, and asked nothing."""
    ledger = make_ledger()
    ledger.offer(task("a", 5 * GIB), is_idle=True)
    held = task("b", 4 * GIB)
    ledger.hold(held, ledger.judge(held, is_idle=False))
    use = BuildUse({"a": TaskUse(1 * GIB, cpus=1.0, most_compilers=1)}, rise_bytes=1 * GIB)
    ledger.look(reading(1 * GIB), use, 100.0)
    ledger.look(reading(1 * GIB), use, 100.0 + ASKED_S / 2)
    assert ledger.totals.idle_s == 3 * ASKED_S / 2
    ledger.look(reading(1 * GIB), use, 130.0)
    assert ledger.totals.idle_s == 3 * ASKED_S / 2
