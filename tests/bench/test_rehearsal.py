# SPDX-License-Identifier: MIT
"""Whole builds under the real reflex in simulated time: they end, and the kernel kills nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.rehearsal import MOST_S, Rehearsal
from bench.schedules import SCENARIOS, Make, Unit, Workload, draw_workload, safe_jobs
from memguard.model import Policy
from memguard.units import GIB, MIB
from testbed.liveness import LONGEST_S

LIMIT = 2 * GIB
RESERVE = Policy().reserve_of(LIMIT)
ROOM = LIMIT - RESERVE


@pytest.mark.parametrize("jobs", [16, 64])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_built_and_nothing_killed(scenario: str, jobs: int) -> None:
    """Of what nobody knows beforehand, the kernel kills nothing and neither does memguard; the safe -j is slower."""
    for seed in range(2):
        workload = draw_workload(scenario, seed, ROOM, jobs)
        found = Rehearsal(workload, LIMIT, jobs).run()
        assert found.has_built
        assert (found.oom_kills, found.killed) == (0, 0)
        assert found.peak_bytes <= LIMIT
        assert found.stalled_s <= LONGEST_S
    stock = Rehearsal(workload, LIMIT, jobs, fixed_jobs=jobs * len(workload.makes)).run()
    assert stock.oom_kills == 1
    safe = Rehearsal(workload, LIMIT, jobs, fixed_jobs=safe_jobs(workload.heaviest_bytes, ROOM, jobs)).run()
    assert safe.has_built
    assert safe.wall_s > found.wall_s


def test_what_is_built_again_is_built_faster() -> None:
    """The second build of the same units kills nothing either; over all scenarios together it takes less time."""
    first_s = again_s = 0.0
    for scenario in SCENARIOS:
        workload = draw_workload(scenario, 0, ROOM, 16)
        first = Rehearsal(workload, LIMIT, 16)
        first_s += first.run().wall_s
        found = Rehearsal(workload, LIMIT, 16, before=first.remembered()).run()
        assert found.has_built
        assert (found.oom_kills, found.killed) == (0, 0)
        again_s += found.wall_s
    assert again_s < 0.97 * first_s


@pytest.mark.parametrize(("slower", "heavier"), [(1.0, 4.0), (2.5, 1.0), (0.5, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize("jobs", [16, 64])
@pytest.mark.parametrize("scenario", ["tenth", "links", "slow"])
def test_what_is_remembered_wrongly_does_no_harm(scenario: str, jobs: int, slower: float, heavier: float) -> None:
    """Units that take longer or more, or less, than they took before are built, and the kernel kills none."""

    def before(unit: Unit) -> Unit:
        return Unit(unit.program, tuple((at_s / slower, size / heavier) for at_s, size in unit.points))

    workload = draw_workload(scenario, 0, ROOM, jobs)
    (make,) = workload.makes
    other = Make(tuple(map(before, make.units)), tuple(map(before, make.links)))
    first = Rehearsal(Workload((other,)), LIMIT, jobs)
    first.run()
    found = Rehearsal(workload, LIMIT, jobs, before=first.remembered()).run()
    assert found.has_built
    assert found.oom_kills == 0
    assert found.stalled_s <= LONGEST_S


def test_the_same_build_goes_the_same_way_twice() -> None:
    """What is rehearsed depends on nothing but the workload."""
    workload = draw_workload("burst", 0, ROOM, 16)
    assert Rehearsal(workload, LIMIT, 16).run() == Rehearsal(workload, LIMIT, 16).run()


def test_a_fixed_number_of_jobs_takes_as_long_as_arithmetic_says() -> None:
    """Four units of a second, two at a time, take two seconds; one that is alone takes its time."""
    second = Unit("cc1plus", ((0.5, 10.0 * MIB), (1.0, 10.0 * MIB)))
    for jobs, seconds in ((1, 4.0), (2, 2.0), (4, 1.0)):
        found = Rehearsal(Workload((Make((second,) * 4),)), LIMIT, jobs, fixed_jobs=jobs).run()
        assert found.wall_s == pytest.approx(seconds, abs=0.1)
    linked = Rehearsal(Workload((Make((second,) * 4, (second,)),)), LIMIT, 4, fixed_jobs=4).run()
    assert linked.wall_s == pytest.approx(2.0, abs=0.1)


@st.composite
def units(draw: st.DrawFn) -> Unit:
    """A compiler that rises at 250 MiB a second at most, somewhere in its life, and keeps that or gives it back."""
    peak_mib = draw(st.integers(1, 1400))
    rise_s = peak_mib / 250 * draw(st.floats(1.0, 3.0))
    begin_s, stay_s = draw(st.floats(0.0, 5.0)), draw(st.floats(0.05, 5.0))
    left = draw(st.sampled_from([0.1, 1.0]))
    points = [(begin_s, 1.0), (begin_s + rise_s, peak_mib), (begin_s + rise_s + stay_s, peak_mib * left)]
    return Unit("cc1plus", tuple((at_s, mib * MIB) for at_s, mib in points))


@settings(max_examples=30)
@given(
    st.lists(st.lists(units(), min_size=1, max_size=20), min_size=1, max_size=4),
    st.sampled_from([2, 8, 16]),
    st.booleans(),
)
def test_whatever_is_built_ends(makes: list[list[Unit]], jobs: int, are_tasks: bool) -> None:
    """Units that fit alone are all built, however many meet, and the kernel kills none that grow as compilers do."""
    workload = Workload(tuple(Make(tuple(units)) for units in makes))
    found = Rehearsal(workload, LIMIT, jobs, are_tasks=are_tasks).run()
    work_s = sum(unit.wall_s for unit in workload.units)
    assert found.has_built or work_s > MOST_S
    assert found.oom_kills == 0
