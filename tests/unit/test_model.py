# SPDX-License-Identifier: MIT
"""The nouns and their small arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.model import Footprint, Policy, Reading, Task
from memguard.units import GIB, MIB

SIZES = st.integers(min_value=0, max_value=64 * GIB)
FOOTPRINTS = st.builds(Footprint, SIZES, SIZES, SIZES, st.just("test"), st.none() | SIZES)

READING = Reading(
    limit_bytes=8 * GIB,
    limit_source="test",
    used_bytes=2 * GIB,
    shmem_bytes=0,
    room_bytes=6 * GIB,
    host_available_bytes=50 * GIB,
    total_bytes=64 * GIB,
    cpus=8,
)


@given(FOOTPRINTS, st.integers(-GIB, 64 * GIB), st.integers(1, 512))
def test_jobs_within_a_room_fit_it(footprint: Footprint, room: int, wanted: int) -> None:
    """The jobs that fit do fit, and one more would not or is not wanted."""
    jobs = footprint.jobs_within(room, wanted)
    assert 0 <= jobs <= wanted
    if jobs:
        assert footprint.peak_bytes(jobs) <= room
    if jobs < wanted:
        assert footprint.peak_bytes(jobs + 1) > room


@given(FOOTPRINTS, st.integers(1, 512))
def test_more_jobs_never_take_less_and_never_more_than_the_most(footprint: Footprint, jobs: int) -> None:
    """A peak rises with the jobs, up to the most where there is one; a larger serial part stands all the same."""
    assert footprint.peak_bytes(jobs) <= footprint.peak_bytes(jobs + 1)
    line = replace(footprint, most_bytes=None)
    if footprint.most_bytes is None:
        assert footprint.peak_bytes(jobs) == line.peak_bytes(jobs)
    else:
        most = max(footprint.most_bytes, footprint.serial_bytes)
        assert footprint.peak_bytes(jobs) == min(line.peak_bytes(jobs), most)


def test_jobs_beyond_the_most_cost_nothing() -> None:
    """Where the most fits, all wanted jobs do; below it the line says how many."""
    footprint = Footprint(100 * MIB, 500 * MIB, 0, "test", 2100 * MIB)
    assert footprint.jobs_within(2100 * MIB, 64) == 64
    assert footprint.jobs_within(2100 * MIB - 1, 64) == 3


def test_serial_peak_is_not_lowered_by_jobs() -> None:
    """No job count brings a task below its serial peak."""
    footprint = Footprint(64 * MIB, 100 * MIB, 8 * GIB, "test")
    assert footprint.peak_bytes(1) == 8 * GIB
    assert footprint.jobs_within(8 * GIB - 1, 16) == 0
    assert footprint.jobs_within(8 * GIB, 16) == 16


def test_ceiling_is_the_container_limit_on_a_roomy_host() -> None:
    """Where the host has memory to spare, the limit is what kills."""
    assert READING.ceiling_bytes == 8 * GIB


def test_ceiling_falls_with_the_memory_of_the_host() -> None:
    """Where the host runs out first, its available memory counts."""
    assert replace(READING, host_available_bytes=GIB).ceiling_bytes == 3 * GIB


def test_ceiling_is_never_below_what_is_used() -> None:
    """Beyond the limit (after a shrink in place) no room is left, and not less than none."""
    assert replace(READING, room_bytes=-GIB).ceiling_bytes == 2 * GIB


def test_bound_is_the_machine_where_no_limit_is_seen() -> None:
    """Without a limit the machine's memory bounds the plan."""
    assert replace(READING, limit_bytes=None).bound_bytes == 64 * GIB


@pytest.mark.parametrize(
    ("bound", "reserve"),
    [
        (400 * MIB, 100 * MIB),
        (GIB, 256 * MIB),
        (4 * GIB, 256 * MIB),
        (16 * GIB, 16 * GIB // 20),
        (256 * GIB, 2 * GIB),
    ],
)
def test_default_reserve(bound: int, reserve: int) -> None:
    """The default is 5 %, at least 256 MiB, at most 2 GiB, never more than a quarter."""
    assert Policy().reserve_of(bound) == reserve


def test_own_reserve_stands_before_the_default() -> None:
    """A size or a share of the user's is taken as it is, none at all included."""
    assert Policy(reserve_bytes=0).reserve_of(GIB) == 0
    assert Policy(reserve_share=0.5).reserve_of(GIB) == GIB // 2


@pytest.mark.parametrize(
    ("policy", "wanted", "cpus", "fewest"),
    [
        (Policy(), 16, 16, 4),
        (Policy(), 64, 4, 1),
        (Policy(), 1, 16, 1),
        (Policy(), 8, 2.5, 1),
        (Policy(), 8, 0.5, 1),
        (Policy(min_jobs_share=1.0), 3, 2.5, 3),
        (Policy(min_jobs=6), 16, 2, 6),
        (Policy(min_jobs=6), 4, 16, 4),
        (Policy(min_jobs_share=0.07), 100, 100, 7),
    ],
)
def test_fewest_jobs(policy: Policy, wanted: int, cpus: float, fewest: int) -> None:
    """The fewest jobs are a number, or a share of those that the CPUs can run."""
    assert policy.fewest_jobs(wanted, cpus) == fewest


@given(st.integers(1, 1000), st.floats(0.1, 1000), st.integers(1, 100))
def test_fewest_jobs_never_exceed_the_wanted(wanted: int, cpus: float, percent: int) -> None:
    """However set, the fewest jobs lie between one and the wanted ones."""
    assert 1 <= Policy(min_jobs_share=percent / 100).fewest_jobs(wanted, cpus) <= wanted
    assert 1 <= Policy(min_jobs=percent).fewest_jobs(wanted, cpus) <= wanted


def test_task_is_told_with_its_multiconfig() -> None:
    """A task of a multiconfig says so."""
    task = Task("t", "", "foo", "do_compile", Footprint(0, 0, 0, ""), 1)
    assert str(task) == "foo do_compile"
    assert str(replace(task, mc="arm")) == "mc:arm:foo do_compile"
