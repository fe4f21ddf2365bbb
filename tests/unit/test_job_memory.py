# SPDX-License-Identifier: MIT
"""What is learned of a task's jobs as they live, from one look to the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memguard.predict.remembered_lives import Lives
from memguard.record.events import JobRow
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler
from memguard.sentinel.job_memory import ESCAPES_MOST, JobMemory
from memguard.sentinel.pace import LOOK_LEAST_S
from memguard.units import MIB

JOB = ProcessId(7, 70)


def compiler(mib: int, age_s: float, unit: int = 5) -> Compiler:
    """The job as a look finds it."""
    return Compiler(*JOB, "cc1plus", mib * MIB, age_s, unit)


def test_a_job_that_has_ended_teaches_what_jobs_take() -> None:
    """Its peak, how it rose, and that it ended between two looks; the next build knows its unit."""
    lives = Lives()
    jobs = JobMemory(None, lives)
    for age_s, mib in ((0.5, 50), (1.0, 100), (2.0, 200), (3.0, 150)):
        jobs.learn([compiler(mib, age_s)], 100 + age_s, ())
    assert set(jobs.living) == {JOB}
    assert jobs.expect_new().ended == 0
    jobs.learn([], 104.0, ())
    assert not jobs.living
    (life,) = [life for life in jobs.expect_new().lives if life.peak_bytes == 200 * MIB]
    assert (life.wall_s, life.rise_s) == (3.5, 2.0)
    known = Lives(lives.packed()).of(5)
    assert known is not None
    assert known.peak_bytes == 200 * MIB


def test_a_job_that_was_killed_teaches_nothing() -> None:
    """What it held is less than what it would have taken."""
    lives = Lives()
    jobs = JobMemory(None, lives)
    jobs.learn([compiler(50, 0.5)], 100.5, ())
    jobs.note_kill(JOB)
    jobs.note_kill(ProcessId(1, 1))  # it was never met
    jobs.learn([], 101.0, ())
    assert jobs.expect_new().ended == 0
    assert not lives.has_news


def test_a_job_that_goes_on_although_it_was_stopped_is_not_stopped_for_ever() -> None:
    """Somebody else wakes it, or lets no stop through. What it took until the stop came to it says nothing."""
    jobs, size_mib = JobMemory(None, Lives()), 50
    for number in range(1, ESCAPES_MOST + 1):
        jobs.learn([compiler(size_mib, number)], 100.0 + number, ())
        assert jobs.take_escaped() == []
        for late, found in ((0.1, []), (0.2, []), (0.3, [JOB])):
            size_mib += 0 if late == 0.2 else 30
            jobs.learn([compiler(size_mib, number + late)], 100.0 + number + late, {JOB})
            assert jobs.take_escaped() == found
        assert jobs.take_escaped() == []
        assert jobs.job(compiler(size_mib, number + 0.3), ()).may_stop is (number < ESCAPES_MOST)


def test_time_that_a_job_is_stopped_is_no_age() -> None:
    """It keeps the pace at which it grew."""
    jobs = JobMemory(None, Lives())
    jobs.learn([compiler(50, 0.5)], 100.5, ())
    jobs.learn([compiler(100, 1.0)], 101.0, ())
    jobs.learn([compiler(100, 61.0)], 161.0, {JOB})
    job = jobs.job(compiler(100, 61.0), {JOB})
    assert (job.age_s, job.growth_bytes_s, job.is_stopped) == (1.0, 100 * MIB, True)


def test_what_lies_in_swap_is_held_all_the_same() -> None:
    """A job that went to swap has not shrunk: it teaches what it took, and what comes back is no pace."""
    jobs = JobMemory(None, Lives())
    jobs.learn([compiler(50, 0.5)], 100.5, ())
    jobs.learn([compiler(100, 1.0)], 101.0, ())
    parked = replace(compiler(10, 61.0), swapped_bytes=90 * MIB)
    jobs.learn([parked], 161.0, {JOB})
    job = jobs.job(parked, {JOB})
    assert (job.bytes, job.held_bytes, job.need_bytes >= 90 * MIB) == (10 * MIB, 100 * MIB, True)
    jobs.learn([compiler(100, 61.5)], 161.5, ())
    assert jobs.job(compiler(100, 61.5), ()).growth_bytes_s == 0
    jobs.learn([], 162.0, ())
    assert {life.peak_bytes for life in jobs.expect_new().lives} == {100 * MIB, 512 * MIB}


def test_what_a_newborn_has_mapped_is_no_pace() -> None:
    """It is taken to have lived as long as a look apart at least."""
    jobs = JobMemory(None, Lives())
    jobs.learn([compiler(5, 0.001)], 100.0, ())
    assert jobs.job(compiler(5, 0.001), ()).growth_bytes_s == pytest.approx(5 * MIB / LOOK_LEAST_S)


def test_the_heaviest_jobs_keep_their_names() -> None:
    """The five that took most, with what they built: those that run and those that were killed, too; no light one."""
    jobs = JobMemory(None, Lives())
    for number in range(8):
        jobs.learn([replace(compiler(60 + 10 * number, 2.0), source=f"{number}.cpp")], 100.0 + 2 * number, ())
        if number == 7:
            jobs.note_kill(JOB)
        jobs.learn([], 101.0 + 2 * number, ())
    # The same file once more, with less; a light one.
    jobs.learn([replace(compiler(100, 2.0), source="5.cpp")], 120.0, ())
    jobs.learn([replace(compiler(30, 2.0), source="light.cpp")], 121.0, ())
    jobs.learn([replace(compiler(200, 3.0), source="running.cpp")], 122.0, ())
    assert [(job.source, job.peak_bytes // MIB, job.was_killed) for job in jobs.heaviest()] == [
        ("running.cpp", 200, 0),
        ("7.cpp", 130, 1),
        ("6.cpp", 120, 0),
        ("5.cpp", 110, 0),
        ("4.cpp", 100, 0),
    ]
    assert jobs.heaviest()[2] == JobRow("6.cpp", "cc1plus", 120 * MIB, 2.5)
