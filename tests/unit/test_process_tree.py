# SPDX-License-Identifier: MIT
"""What the processes of a task hold together, out of made-up processes."""

from __future__ import annotations

from memguard.sense.proc_files import PAGE_BYTES, TICKS_PER_S, ProcessId
from memguard.sense.process_tree import Process, Tree
from memguard.units import MIB


def make_tree(*processes: Process) -> Tree:
    """A tree of these processes, led by one with the pid 1."""
    tree = Tree(ProcessId(1, 100), 0.0)
    for process in processes:
        process.tree, tree.members[process.pid] = tree, process
    return tree


def make_process(pid: int, anon_mib: int = 0, inherited_mib: int = 0, **fields: object) -> Process:
    """A process with memory, as it is after a measurement."""
    process = Process(pid)
    process.size, process.start_ticks = 1000, 100 + pid
    process.anon_bytes, process.inherited_bytes = anon_mib * MIB, inherited_mib * MIB
    for name, value in fields.items():
        setattr(process, name, value)
    return process


def test_what_is_inherited_counts_once() -> None:
    """A forked process counts by what it grew by, and never for less than nothing."""
    usage = make_tree(make_process(1, 100), make_process(2, 110, 100), make_process(3, 90, 100)).usage(10.0)
    assert usage.current_bytes == 110 * MIB
    assert usage.processes == 3
    assert usage.largest_process_bytes == 100 * MIB


def test_shared_memory_counts_as_its_largest_part() -> None:
    """Of what is mapped and shared counts the largest part, or the sum of shares once these are known and more."""
    one, two = make_process(1, 1, shmem_bytes=50 * MIB), make_process(2, 1, shmem_bytes=80 * MIB)
    assert make_tree(one, two).usage(10.0).current_bytes == 82 * MIB
    one.shmem_pss_bytes, two.shmem_pss_bytes = 50 * MIB, 45 * MIB
    assert make_tree(one, two).usage(10.0).current_bytes == 97 * MIB


def test_faults_and_ends_are_in_doubt() -> None:
    """A page fault of a sharer that brought no memory may have split a page off; what one leaves may be others'."""
    leader = make_process(1, 100, has_copies=True)
    copy = make_process(2, 104, 100, faults=3000, walked_anon_bytes=100 * MIB, shmem_bytes=0)
    tree = make_tree(leader, copy)
    tree.usage(10.0)
    assert tree.doubt_bytes == 3000 * PAGE_BYTES - 4 * MIB
    assert tree.urgency(10.0) == tree.doubt_bytes * 10.0
    copy.empty()
    assert tree.left_bytes == 4 * MIB
    assert copy.anon_bytes == copy.inherited_bytes == copy.doubt_bytes == 0


def test_little_doubt_is_not_worth_a_walk() -> None:
    """Under a mebibyte, or under 2 % of the tree, or before its time, nothing is urgent."""
    tree = make_tree(make_process(1, 200))
    for left_mib, is_urgent in ((0.9, False), (3.9, False), (4.1, True)):
        tree.left_bytes, tree.is_changed = int(left_mib * MIB), True
        tree.usage(10.0)
        assert bool(tree.urgency(10.0)) == is_urgent
    assert not tree.urgency(-1.0)
    tree.settle(10.0, 12.0)
    tree.usage(10.0)
    assert not tree.doubt_bytes


def test_sharers_are_those_that_may_share() -> None:
    """Who forked or was forked, maps shared memory, or has a brother of the same image may share; the largest first."""
    image = (b"1", b"2", b"3")
    alone, shared = make_process(1, 5, image=(b"9", b"9", b"9")), make_process(2, 1, shmem_bytes=3 * MIB)
    brothers = [make_process(pid, pid, image=image) for pid in (3, 40)]
    assert make_tree(alone, shared, *brothers).sharers() == [brothers[1], shared, brothers[0]]


def test_cpu_time_never_falls() -> None:
    """A process that leaves with its time takes nothing back of what was seen."""
    one, two = make_process(1, 1, cpu_ticks=3 * TICKS_PER_S), make_process(2, 1, cpu_ticks=2 * TICKS_PER_S)
    tree = make_tree(one, two)
    assert tree.usage(10.0).cpu_s == 5.0
    del tree.members[2]
    tree.is_changed = True
    assert tree.usage(11.0).cpu_s == 5.0
    tree.lost_ticks, tree.is_changed = 4 * TICKS_PER_S, True
    assert tree.usage(12.0).cpu_s == 7.0


def test_workers_are_the_leaves() -> None:
    """Processes that wait for others of the task are no workers; zombies may be."""
    processes = [make_process(1, 1), make_process(2, 1, parent=1), make_process(3, parent=2, size=0)]
    usage = make_tree(*processes).usage(10.0)
    assert (usage.processes, usage.workers) == (2, 1)


def test_a_sum_is_worked_out_again_only_after_a_change() -> None:
    """Where nothing has changed the last usage is the answer; compilers grow older all the same."""
    tree = make_tree(make_process(1, 10))
    first = tree.usage(10.0)
    assert tree.usage(11.0) is first
    compiler = make_process(2, 5, is_compiler=True, name="cc1")
    tree.members[2], tree.is_changed = compiler, True
    ages = [tree.usage(now_s).compilers[0].age_s for now_s in (10.0, 12.0)]
    assert ages[1] - ages[0] == 2.0
