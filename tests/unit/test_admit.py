# SPDX-License-Identifier: MIT
"""Admission: what fits starts, what does not is held, and nobody waits for ever."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memguard.decide.admit import Situation, admit, admit_alone, is_worth_asking, shortest_s
from memguard.model import Duration, Footprint, Grant, Policy, Reading, Task
from memguard.units import GIB, MIB

NO_RESERVE = Policy(reserve_bytes=0)


def reading(limit: int = 8 * GIB, used: int = 0, shmem: int = 0, cpus: float = 16) -> Reading:
    """A container on a roomy host."""
    return Reading(limit, "test", used, shmem, limit - used, 1 << 50, 1 << 50, cpus)


def task(tid: str = "t", base: int = 0, per_job: int = 0, serial: int = 0, wanted: int = 8) -> Task:
    """A task of that footprint."""
    return Task(tid, "", f"r-{tid}", "do_compile", Footprint(base, per_job, serial, "test"), wanted)


def light(tid: str, size: int) -> Task:
    """A task that takes `size`, whatever its jobs."""
    return task(tid, base=size, wanted=1)


def situation(
    seen: Reading | None = None,
    running: dict[str, int] | None = None,
    head: Task | None = None,
    passed: frozenset[str] = frozenset(),
    policy: Policy = NO_RESERVE,
    idle: int = 0,
) -> Situation:
    """An 8 GiB container with nothing in it and no reserve, unless said otherwise."""
    grants = running or {}
    passing = sum(grants.get(tid, 0) for tid in passed)
    return Situation(seen or reading(), policy, idle, sum(grants.values()), head, passing)


SIZES = st.integers(0, 16 * GIB)
FOOTPRINTS = st.builds(Footprint, SIZES, SIZES, SIZES, st.just("test"))
TASKS = st.builds(Task, st.just("t"), st.just(""), st.just("r"), st.just("do_x"), FOOTPRINTS, st.integers(1, 64))
HEADS = st.none() | TASKS.map(lambda head: replace(head, tid="head")) | TASKS
READINGS = st.builds(
    Reading,
    st.none() | SIZES,
    st.just("test"),
    SIZES,
    SIZES,
    st.integers(-GIB, 16 * GIB),
    st.none() | SIZES,
    SIZES,
    st.floats(0.1, 128),
)
POLICIES = st.builds(
    Policy,
    reserve_bytes=st.none() | SIZES,
    min_jobs=st.none() | st.integers(1, 64),
    min_jobs_share=st.floats(0.01, 1),
)
SITUATIONS = st.builds(
    Situation,
    READINGS,
    POLICIES,
    SIZES,
    SIZES,
    HEADS,
    SIZES,
)


@given(TASKS, SITUATIONS)
def test_a_grant_fits_and_keeps_to_the_wanted_jobs(task: Task, situation: Situation) -> None:
    """Whatever the situation, a grant fits what is free, with no more jobs than wanted and no fewer than worth it."""
    verdict = admit(task, situation)
    assert verdict.reason
    assert not verdict.is_forced
    if verdict.grant is not None:
        assert verdict.grant.bytes <= situation.free_bytes
        assert verdict.grant.bytes == task.footprint.peak_bytes(verdict.grant.jobs)
        assert situation.fewest_jobs(task) <= verdict.grant.jobs <= task.wanted_jobs


@given(TASKS, SITUATIONS)
def test_what_passes_the_head_leaves_room_for_it(task: Task, situation: Situation) -> None:
    """What starts while another waits takes no more than may pass it."""
    verdict = admit(task, situation)
    spare = situation.spare_bytes
    if verdict.grant is not None and situation.head and situation.head.tid != task.tid and spare is not None:
        assert verdict.grant.bytes <= spare


@given(TASKS, SITUATIONS)
def test_admit_alone_always_starts(task: Task, situation: Situation) -> None:
    """The liveness law: with nothing else running a task starts, with one job at least and no more than wanted."""
    verdict = admit_alone(task, situation)
    assert verdict.starts
    assert verdict.is_forced
    assert verdict.grant is not None
    assert 1 <= verdict.grant.jobs <= task.wanted_jobs
    if verdict.grant.jobs > 1:
        # More than one job only where they fit, or stay below the serial peak that comes with any number of jobs.
        assert verdict.grant.bytes <= max(situation.free_bytes, task.footprint.serial_bytes)


@given(TASKS, SITUATIONS, st.integers(1, 8 * GIB))
def test_more_in_use_never_starts_more(task: Task, situation: Situation, more: int) -> None:
    """Holding is monotonous: less room never starts a held task, nor gives more jobs."""
    seen = situation.reading
    fuller = replace(situation, reading=replace(seen, used_bytes=seen.used_bytes + more, room_bytes=-more))
    assume(seen.room_bytes >= 0)
    before, after = admit(task, situation).grant, admit(task, fuller).grant
    if situation.head is None and fuller.budget_bytes == situation.budget_bytes:
        assert after is None or (before is not None and after.jobs <= before.jobs)


def test_a_task_that_fits_gets_all_its_jobs() -> None:
    """With room for all jobs nothing is taken away."""
    verdict = admit(task(base=GIB, per_job=512 * MIB), situation())
    assert verdict.grant is not None
    assert (verdict.grant.jobs, verdict.grant.bytes, verdict.reason) == (8, 5 * GIB, "it fits")


def test_a_task_that_nearly_fits_gets_fewer_jobs() -> None:
    """Where not all jobs fit, as many start as do."""
    verdict = admit(task(base=GIB, per_job=GIB, wanted=16), situation())
    assert verdict.grant is not None
    assert (verdict.grant.jobs, verdict.grant.bytes) == (7, 8 * GIB)
    assert verdict.reason == "7 of 16 jobs fit into 8.0 GiB"


def test_too_few_jobs_are_not_worth_a_start() -> None:
    """A task is held rather than started with fewer jobs than a quarter."""
    heavy = task(per_job=GIB, wanted=16)
    assert admit(heavy, situation(running={"a": 4 * GIB})).starts
    verdict = admit(heavy, situation(running={"a": 4 * GIB + 1}))
    assert not verdict.starts
    assert verdict.reason == "needs 4.0 GiB, 4.0 GiB fit"


def test_fewer_jobs_are_asked_for_where_an_empty_container_fits_no_more() -> None:
    """A task that can never get its quarter starts with what an empty container fits."""
    heavy = task(per_job=3 * GIB, wanted=16)
    verdict = admit(heavy, situation())
    assert verdict.grant is not None
    assert verdict.grant.jobs == 2
    assert not admit(heavy, situation(running={"a": 3 * GIB})).starts


def test_the_ledger_stops_the_second_of_a_batch() -> None:
    """Two tasks of one tick: the first has used nothing yet, and still the second is held."""
    both = [light("a", 5 * GIB), light("b", 5 * GIB)]
    assert admit(both[0], situation()).starts
    assert not admit(both[1], situation(running={"a": 5 * GIB})).starts


@pytest.mark.parametrize("wanted", [1, 4, 64])
def test_a_serial_peak_holds_whatever_the_jobs(wanted: int) -> None:
    """A link that does not fit is not made to fit by fewer jobs."""
    heavy = task(base=64 * MIB, per_job=10 * MIB, serial=6 * GIB, wanted=wanted)
    assert not admit(heavy, situation(running={"a": 3 * GIB})).starts
    assert admit(heavy, situation(running={"a": 2 * GIB})).starts


def test_where_the_most_fits_all_jobs_do() -> None:
    """A recipe of few units is not shrunk for jobs that it has no work for; where its most does not fit, it is."""
    few = replace(task(per_job=GIB, wanted=16), footprint=Footprint(0, GIB, 0, "test", 4 * GIB))
    assert admit(few, situation(running={"a": 4 * GIB})).grant == Grant(16, 4 * GIB)
    assert admit(few, situation(running={"a": 5 * GIB})).grant is None
    assert admit(replace(few, wanted_jobs=8), situation(running={"a": 5 * GIB})).grant == Grant(3, 3 * GIB)


def test_memory_outgrown_by_running_tasks_counts() -> None:
    """Where the running tasks use more than they were granted, what is seen counts."""
    seen = reading(used=6 * GIB)
    assert situation(seen, running={"a": 2 * GIB}).free_bytes == 2 * GIB
    assert not admit(light("b", 3 * GIB), situation(seen, running={"a": 2 * GIB})).starts


def test_memory_not_yet_used_counts() -> None:
    """Where the running tasks use less than they were granted, what was granted counts."""
    assert situation(reading(used=GIB), running={"a": 6 * GIB}).free_bytes == 2 * GIB


def test_shmem_counts_on_top_of_grants() -> None:
    """What lies in tmpfs is freed by no task's end, and no grant covers it."""
    seen = reading(used=3 * GIB, shmem=2 * GIB)
    where = situation(seen, running={"a": 4 * GIB}, idle=GIB)
    assert where.budget_bytes == 5 * GIB
    assert where.free_bytes == GIB


def test_page_cache_is_no_use() -> None:
    """A container whose limit is filled by page cache is empty to us."""
    assert situation(reading(used=100 * MIB)).free_bytes == 8 * GIB - 100 * MIB


def test_the_reserve_stays_free() -> None:
    """What is in reserve is granted to nobody."""
    where = situation(policy=Policy(reserve_bytes=GIB))
    assert where.free_bytes == 7 * GIB
    assert not admit(light("a", 7 * GIB + 1), where).starts


def test_a_host_short_of_memory_counts() -> None:
    """A limit beyond what the host still has is worth nothing."""
    seen = replace(reading(limit=64 * GIB, used=GIB), host_available_bytes=3 * GIB)
    assert situation(seen, idle=GIB).free_bytes == 3 * GIB


def test_a_limit_that_fell_below_use_grants_nothing() -> None:
    """A pod that was made smaller in place starts nothing more, and raises nothing."""
    where = situation(reading(limit=2 * GIB, used=3 * GIB), running={"a": 2 * GIB})
    assert where.free_bytes == 0
    assert not admit(light("b", 1), where).starts
    assert admit_alone(light("b", 1), where).starts


# The reservation.

HEAD = task("head", per_job=GIB, wanted=4, base=2 * GIB)


def test_lighter_tasks_pass_within_what_is_spare() -> None:
    """Beside the held head, just what leaves room for its start passes."""
    where = situation(running={"before": 7 * GIB}, head=HEAD)
    assert where.spare_bytes == 5 * GIB
    crowded = situation(running={"before": 2 * GIB, "p": 4 * GIB}, head=HEAD, passed=frozenset({"p"}))
    assert crowded.spare_bytes == GIB
    assert admit(light("q", GIB), crowded).starts
    verdict = admit(light("q", GIB + 1), crowded)
    assert not verdict.starts
    assert verdict.reason.endswith("which would delay r-head do_compile")


def test_the_head_itself_is_not_bound_by_the_reservation() -> None:
    """What is kept free is kept for the head."""
    where = situation(running={"p": 4 * GIB}, head=HEAD, passed=frozenset({"p"}))
    verdict = admit(HEAD, where)
    assert verdict.grant is not None
    assert verdict.grant.jobs == 2


def test_a_head_too_large_for_an_empty_container_reserves_nothing() -> None:
    """Nothing can run beside it at any time, so nothing is kept back for it."""
    where = situation(head=light("head", 9 * GIB))
    assert where.spare_bytes is None
    assert admit(light("q", 7 * GIB), where).starts


def test_outgrown_memory_is_not_spare() -> None:
    """What the container uses beyond all grants is not there for the head, so nothing may pass on it."""
    seen = reading(used=4 * GIB)
    where = situation(seen, running={"p": 2 * GIB}, head=HEAD, passed=frozenset({"p"}))
    assert where.spare_bytes == GIB


def waits_for_the_head(seed: int, drift: int = 0, growth: float = 1.0) -> tuple[int, int]:
    """Run light tasks past a heavy head until it starts: the ticks it waited after the last of those before it.

    A random stream never ends. `drift` bytes are in use that no grant knows of; each task really takes `growth` of
    its grant. Returns the wait and the ticks until the last task from before had ended.
    """
    source = random.Random(seed)
    head = light("head", source.randint(3 * GIB, 7 * GIB))
    running: dict[str, int] = {}
    ends: dict[str, int] = {}
    passed: set[str] = set()
    before_ended_at = None
    for tick in range(600):
        for tid in [tid for tid, end in ends.items() if end <= tick]:
            del running[tid], ends[tid]
            passed.discard(tid)
        is_held = tick >= 5
        used = int(sum(running.values()) * growth) + drift
        where = situation(reading(used=used), running, head if is_held else None, frozenset(passed))
        if is_held:
            if before_ended_at is None and not set(running) - passed:
                before_ended_at = tick
            if admit(head, where).starts or not running:
                assert before_ended_at is not None or admit(head, where).starts
                return tick - (before_ended_at or tick), tick
        for number in range(source.randint(4, 12)):
            one = light(f"{tick}-{number}", source.randint(20 * MIB, source.choice((GIB // 4, 2 * GIB))))
            where = situation(where.reading, running, where.head, frozenset(passed))
            if admit(one, where).starts:
                running[one.tid] = one.footprint.peak_bytes(1)
                ends[one.tid] = tick + source.randint(1, 40)
                if is_held:
                    passed.add(one.tid)
    pytest.fail("the head never started")


@pytest.mark.parametrize("seed", range(40))
def test_no_task_starves(seed: int) -> None:
    """The head starts no later than the moment the last task from before it was held has ended."""
    waited, _ = waits_for_the_head(seed)
    assert waited == 0


@pytest.mark.parametrize("drift", [0, 300 * MIB, GIB, 3 * GIB])
@pytest.mark.parametrize("growth", [0.2, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(4))
def test_no_task_starves_on_wrong_predictions(seed: int, growth: float, drift: int) -> None:
    """Memory that no grant knows of may delay the head by the tasks that run, never for as long as others come."""
    waited, _ = waits_for_the_head(seed, drift, growth)
    assert waited <= 80


def test_alone_a_serial_peak_costs_no_jobs() -> None:
    """A link that fits nowhere comes with one job or with eight: the task gets the jobs that stay below it."""
    linking = task(base=0, per_job=GIB, serial=10 * GIB, wanted=16)
    verdict = admit_alone(linking, situation())
    assert verdict.grant is not None
    assert verdict.grant.jobs == 10


def test_fresh_tasks_count_on_top_of_what_others_outgrew() -> None:
    """A task that started a moment ago is not yet seen in use: its grant counts beside one that outgrew its own."""
    seen = reading(used=6 * GIB)
    grown = situation(seen, running={"grown": 2 * GIB, "new": 4 * GIB})
    assert grown.free_bytes == 2 * GIB
    assert replace(grown, growth_bytes=4 * GIB).free_bytes == -2 * GIB


def test_every_task_runs_in_the_end() -> None:
    """Liveness: a queue of tasks of all sizes, some too large for the container, runs to its end in bounded time."""
    source = random.Random(1)
    waiting = [light(str(number), source.randint(0, 10 * GIB)) for number in range(300)]
    running: dict[str, int] = {}
    passed: set[str] = set()
    head = None
    for _ in range(3000):
        where = situation(running=running, head=head, passed=frozenset(passed))
        start = next((one for one in waiting if admit(one, where).starts), None)
        if start is None and not running and waiting:
            start = waiting[0]
            assert admit_alone(start, where).starts
        if start is not None:
            waiting.remove(start)
            running[start.tid] = start.footprint.peak_bytes(1)
            if head is not None and start is not head:
                passed.add(start.tid)
            if start is head or head is None:
                head, passed = (waiting[0] if waiting else None), set()
        elif running:
            ended = source.choice(sorted(running))
            del running[ended]
            passed.discard(ended)
        else:
            break
    assert not waiting


def test_what_ends_before_the_head_can_start_passes() -> None:
    """A light task passes on memory kept for the head where it is expected to be over by then, with a margin."""
    where = replace(situation(running={"before": 6 * GIB}, head=HEAD), ends=((60.0, 6 * GIB),))
    crowded = replace(where, passed_bytes=5 * GIB)
    assert crowded.spare_bytes == 0
    assert crowded.head_starts_s == 60.0
    passing = light("p", 2 * GIB)
    assert not admit(passing, crowded).starts
    assert admit(replace(passing, duration=Duration(39.0, 0.0)), crowded).starts
    assert not admit(replace(passing, duration=Duration(41.0, 0.0)), crowded).starts
    assert not admit(replace(passing, duration=Duration(1.0, 0.0)), replace(crowded, ends=())).starts
    assert not admit(replace(light("p", 4 * GIB), duration=Duration(1.0, 0.0)), crowded).starts


def test_a_long_task_waits_for_jobs_where_that_pays() -> None:
    """Starting with half of the jobs ends later than a short wait for all; without durations it starts."""
    long = replace(task("long", per_job=GIB, wanted=8), duration=Duration(0.0, 800.0))  # 100 s with 8 jobs, 200 with 4
    soon = replace(situation(running={"before": 4 * GIB}), ends=((10.0, 4 * GIB),))
    verdict = admit(long, soon)
    assert not verdict.starts
    assert verdict.need_bytes == 8 * GIB
    late = replace(soon, ends=((90.0, 4 * GIB),))
    granted = admit(long, late).grant
    assert granted is not None
    assert granted.jobs == 4
    assert admit(replace(long, duration=None), soon).starts
    assert admit(long, replace(soon, ends=())).starts


ENDS = st.lists(st.tuples(st.floats(0, 1e5), SIZES), max_size=5)


@given(TASKS, SITUATIONS, st.floats(0, 1e5), st.floats(0, 1e6), ENDS)
def test_durations_let_nothing_start_that_does_not_fit(
    task: Task, situation: Situation, serial_s: float, parallel_s: float, ends: list[tuple[float, int]]
) -> None:
    """Whatever durations say, what starts fits into what is free, and an idle build starts something."""
    known = replace(task, duration=Duration(serial_s, parallel_s))
    where = replace(situation, ends=sorted(ends))
    verdict = admit(known, where)
    if verdict.grant is not None:
        assert verdict.grant.bytes <= where.free_bytes
        least_bytes = task.footprint.peak_bytes(where.fewest_jobs(known))
        assert is_worth_asking(where)(known, least_bytes, shortest_s(known))
    assert admit_alone(known, where).starts
