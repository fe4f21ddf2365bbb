# SPDX-License-Identifier: MIT
"""What jobs are expected to take, from those that have ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.predict.job_lives import KEPT, KNOWN_FROM, LEAST_BYTES, UNKNOWN_BYTES, Expected, JobSizes, Life
from memguard.units import MIB

LIGHT, HEAVY = Life(50 * MIB, 2.0, 1.0), Life(400 * MIB, 4.0, 2.0)

lives = st.builds(
    lambda peak, wall, rise, begun: Life(peak, wall, wall * rise, wall * rise * begun),
    st.integers(LEAST_BYTES, 8192 * MIB),
    st.floats(0.1, 600),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.9),
)


def sizes(*ended: Life, prior_bytes: int | None = None) -> JobSizes:
    """What is known once these have ended."""
    found = JobSizes(prior_bytes)
    for life in ended:
        found.add(life)
    return found


def test_a_life_rises_and_stays() -> None:
    """Memory goes in straight lines from nothing through a tenth of the peak to the peak."""
    life = Life(100 * MIB, 10.0, 6.0, begun_s=4.0)
    assert [round(life.bytes_at(age) / MIB) for age in (0, 2, 4, 5, 6, 9)] == [0, 5, 10, 55, 100, 100]


def test_the_mean_of_a_life_is_its_area() -> None:
    """The mean agrees with summing up the life in small steps."""
    life = Life(100 * MIB, 10.0, 6.0, begun_s=4.0)
    area = sum(life.bytes_at(10 * (step + 0.5) / 10000) for step in range(10000)) / 10000
    assert life.mean_bytes == pytest.approx(area, rel=0.001)


def test_nothing_is_known_at_first() -> None:
    """Before any job has run, a job is as large as distributions plan for; or as it was thought beforehand."""
    assert sizes().expect_new().peak_bytes == UNKNOWN_BYTES
    assert sizes(prior_bytes=90 * MIB).expect_new().peak_bytes == 90 * MIB


def test_running_jobs_tell_of_the_next_ones_while_few_have_ended() -> None:
    """What is thought beforehand fades with each job that is seen to be smaller, and with enough ended ones is gone."""
    found = sizes()
    seen = [found.expect_new([LIGHT] * running).peak_bytes for running in (0, 1, 4, 16)]
    assert seen == sorted(seen, reverse=True)
    assert sizes(*[LIGHT] * KNOWN_FROM).expect_new([HEAVY] * 9).peak_bytes == LIGHT.peak_bytes


def test_earlier_builds_tell_of_the_next_ones() -> None:
    """Before any job has ended the next one is like those of earlier builds; each that ends takes the place of one."""
    found = JobSizes(90 * MIB, [LIGHT, HEAVY] * KNOWN_FROM)
    expected = found.expect_new([HEAVY] * 9)
    assert expected.peak_bytes == (LIGHT.peak_bytes + HEAVY.peak_bytes) // 2
    assert expected.ended == 2 * KNOWN_FROM
    assert {life.peak_bytes for life in expected.lives} == {LIGHT.peak_bytes, HEAVY.peak_bytes}
    for _ in range(2 * KNOWN_FROM):
        found.add(HEAVY)
    assert found.expect_new().peak_bytes == HEAVY.peak_bytes


def test_a_job_lives_as_the_same_did_before() -> None:
    """A newborn whose unit was heavy is expected to be, whatever others of its size were; until it has taken more."""
    found = sizes(*[LIGHT] * KNOWN_FROM)
    assert found.expect(MIB, 0.1).peak_bytes < 2 * LIGHT.peak_bytes
    known = found.expect(MIB, 0.1, before=HEAVY)
    assert (known.peak_bytes, known.wall_s, known.rise_s) == (HEAVY.peak_bytes, HEAVY.wall_s, HEAVY.rise_s)
    assert known.ended == 1
    grown = found.expect(HEAVY.peak_bytes * 5 // 4, 1.0, before=HEAVY)
    assert grown.peak_bytes > HEAVY.peak_bytes * 5 // 4


def test_a_job_that_lasts_longer_than_before_is_not_over_yet() -> None:
    """One that has risen is about to end; one that has not is slower, and has as long again before it."""
    overdue = sizes().expect(HEAVY.peak_bytes, 40.0, before=HEAVY)
    assert overdue.wall_s == pytest.approx(44.0)
    late = sizes().expect(100 * MIB, 3.0, before=HEAVY)
    assert (late.wall_s, late.peak_bytes) == (pytest.approx(6.0), HEAVY.peak_bytes)
    assert sizes().expect(100 * MIB, 1.0, before=HEAVY).wall_s == HEAVY.wall_s


def test_a_job_is_like_those_that_were_its_size_at_its_age() -> None:
    """A heavy job is told from light ones while it is still as small as those become."""
    found = sizes(*[LIGHT] * 9, HEAVY)
    assert found.expect(40 * MIB, 0.2).peak_bytes == HEAVY.peak_bytes
    assert found.expect(10 * MIB, 0.2).peak_bytes == LIGHT.peak_bytes


def test_a_late_riser_is_known_by_its_small_beginning() -> None:
    """A job that takes next to nothing yet is expected to do what those did that took next to nothing."""
    late = Life(200 * MIB, 3.0, 2.2, begun_s=2.0)
    assert sizes(*[late] * 9, LIGHT).expect(8 * MIB, 1.0).peak_bytes == late.peak_bytes


def test_programs_are_told_apart() -> None:
    """A linker is not expected to be as small as the compilers that ended before it."""
    found = JobSizes()
    for _ in range(9):
        found.add(LIGHT, "cc1plus")
    assert found.expect(300 * MIB, 0.5, "ld").peak_bytes >= 600 * MIB
    found.add(HEAVY, "ld")
    assert found.expect(95 * MIB, 0.5, "ld").peak_bytes == HEAVY.peak_bytes


def test_what_is_like_nothing_goes_on_as_it_has_begun() -> None:
    """As much again in as long again; a young one, whose pace says little, for a second."""
    assert sizes().expect(100 * MIB, 5.0).peak_bytes == 200 * MIB
    assert sizes().expect(20 * MIB, 0.2).peak_bytes == 120 * MIB
    assert sizes().expect(100 * MIB, 5.0).ended == 0


def test_what_is_like_nothing_becomes_no_larger_than_the_largest_did_before() -> None:
    """Until it has taken more: then that is believed no longer."""
    known = JobSizes(largest_bytes=120 * MIB)
    assert known.expect(100 * MIB, 5.0).peak_bytes == 120 * MIB
    assert known.expect(50 * MIB, 5.0).peak_bytes == 100 * MIB
    assert known.expect(130 * MIB, 5.0).peak_bytes == 260 * MIB


def test_what_is_still_is_not_expected_to_double() -> None:
    """A job that grew for two seconds and has been still for two has grown up; after one it may grow by a half."""
    assert sizes().expect(100 * MIB, 4.0, still_s=2.0).peak_bytes == 100 * MIB
    assert sizes().expect(100 * MIB, 3.0, still_s=1.0).peak_bytes == 150 * MIB


def test_what_was_thought_beforehand_counts_for_young_jobs() -> None:
    """A job that is small yet is expected to become what it was thought to."""
    assert sizes(prior_bytes=900 * MIB).expect(10 * MIB, 1.0).peak_bytes == 900 * MIB


def test_the_oldest_lives_are_forgotten() -> None:
    """When a task goes over to other files, what these take counts."""
    assert sizes(*[HEAVY] * 5, *[LIGHT] * KEPT).expect_new().peak_bytes == LIGHT.peak_bytes


@given(st.lists(lives, max_size=12), st.integers(0, 8192 * MIB), st.floats(0.0, 600))
def test_nothing_is_expected_to_be_less_than_it_is(ended: list[Life], size_bytes: int, age_s: float) -> None:
    """Whatever has ended: a job's peak is no less than its size now, and it is not over yet."""
    expected: Expected = sizes(*ended).expect(size_bytes, age_s)
    assert expected.peak_bytes >= size_bytes
    assert expected.wall_s > age_s
    assert expected.rise_s > 0
    assert 0 <= expected.begun_s < expected.rise_s


@given(st.lists(lives, min_size=KNOWN_FROM, max_size=20))
def test_a_new_job_is_within_what_was_seen(ended: list[Life]) -> None:
    """The next job is expected between the smallest and the largest that have ended."""
    new = sizes(*ended).expect_new()
    assert min(life.peak_bytes for life in ended) - 1 <= new.peak_bytes <= max(life.peak_bytes for life in ended)
    assert set(new.lives) <= set(ended)
