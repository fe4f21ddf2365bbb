# SPDX-License-Identifier: MIT
"""How fast memory fills, and how late looks come, look by look."""

from __future__ import annotations

import pytest

from memguard.model import Reading
from memguard.sense.process_tree import Compiler, Usage
from memguard.sentinel.pace import (
    CRAWL_CPUS,
    FILL_HALF_LIFE_S,
    FILL_LEAST_BYTES_S,
    LATE_MOST_S,
    LATE_S,
    LOOK_MOST_S,
    Fill,
    Lateness,
    Standstill,
)
from memguard.units import GIB, MIB


def reading(used_gib: float, charged_gib: float | None = None) -> Reading:
    """A container of 16 GiB."""
    used = int(used_gib * GIB)
    charged = None if charged_gib is None else int(charged_gib * GIB)
    return Reading(16 * GIB, "test", used, 0, 16 * GIB - used, None, None, 4.0, charged_bytes=charged)


def test_the_fastest_fill_is_half_forgotten_in_a_minute() -> None:
    """It is never taken to be slower than what was never seen."""
    fill = Fill()
    for now_s, used_gib in ((0.0, 1), (1.0, 5), (2.0, 4)):
        fill.take(now_s, reading(used_gib), 0)
    assert fill.bytes_s == -GIB
    assert fill.fastest_bytes_s == pytest.approx(4 * GIB, rel=0.02)
    fill.take(2.0 + FILL_HALF_LIFE_S, reading(4), 0)
    assert fill.fastest_bytes_s == pytest.approx(2 * GIB, rel=0.02)
    fill.take(1000.0, reading(4), 0)
    assert fill.fastest_bytes_s == FILL_LEAST_BYTES_S


def test_processes_say_sooner_than_the_kernels_sums_what_is_used() -> None:
    """What they have grown by counts on top of what is used outside of them, but never beyond what is charged."""
    fill = Fill()
    for now_s in (0.0, 0.5, 1.0):
        fill.take(now_s, reading(3), GIB)
    fill.take(1.5, reading(3), 4 * GIB)
    assert fill.used_bytes == 6 * GIB
    fill.take(2.0, reading(3, charged_gib=5), 4 * GIB)
    assert fill.used_bytes == 5 * GIB


def test_what_is_charged_to_a_part_of_the_machine_bounds_nothing() -> None:
    """Without a limit it is the machine that is used, by others than this session's cgroup, too."""
    fill = Fill()
    fill.take(0.0, reading(12, charged_gib=2), GIB)
    assert fill.used_bytes == 12 * GIB


def test_what_is_charged_to_another_container_is_not_used_here() -> None:
    """A task may move its processes elsewhere; that the kernel's sums are late is no reason to think so."""
    fill = Fill()
    for tenth in range(90):
        fill.take(tenth / 10, reading(1 + tenth / 100, charged_gib=16), 4 * GIB)
    assert fill.used_bytes == 4 * GIB
    for tenth in range(90, 200):
        fill.take(tenth / 10, reading(2, charged_gib=16), 4 * GIB)
    assert fill.used_bytes == 2 * GIB
    fill.take(20.0, reading(2, charged_gib=16), 5 * GIB)
    assert fill.used_bytes == 3 * GIB
    for tenth in range(201, 240):
        fill.take(tenth / 10, reading(6, charged_gib=16), 4 * GIB)
    fill.take(24.0, reading(3, charged_gib=16), 4 * GIB)
    assert fill.used_bytes == 6 * GIB


def test_the_latest_look_of_late_counts() -> None:
    """For a while, and up to what no machine that is awake is late by; a look before its time is not late."""
    lateness = Lateness()
    assert lateness.take(0.0) == 0.0
    lateness.expect(1.0)
    assert lateness.take(1.2) == pytest.approx(0.2)
    lateness.expect(2.0)
    assert lateness.take(1.5) == pytest.approx(0.2)
    lateness.expect(2.0)
    assert lateness.take(2.0 + LATE_S) == LATE_MOST_S


@pytest.mark.parametrize(
    ("now", "is_still"),
    [
        (Usage(100 * MIB, cpu_s=5.005), True),
        (Usage(101 * MIB, cpu_s=5.0), True),
        (Usage(100 * MIB, cpu_s=5.5), False),
        (Usage(110 * MIB, cpu_s=5.0), False),
        (Usage(90 * MIB, cpu_s=5.0), False),
        (Usage(100 * MIB, compilers=(Compiler(1, 1, "ld", 0, 0.0),), cpu_s=5.0), False),
    ],
)
def test_what_only_waits_has_not_gone_on(now: Usage, is_still: bool) -> None:
    """CPU time, memory or another job is a sign of life; what a poll for a lock takes is none."""
    standstill, before = Standstill(), Usage(100 * MIB, cpu_s=5.0)
    found = [standstill.take(tenth / 10, {"a": before}) for tenth in range(1000, 1020)]
    assert found[-1] == pytest.approx(1.9)
    assert (standstill.take(102.0, {"a": now}) > 0) is is_still
    assert standstill.take(102.5, {"b": now}) == 0


def test_what_reads_its_own_code_again_and_again_crawls() -> None:
    """A quarter of a CPU is a crawl, not a standstill; what compiles does neither."""
    crawl, standstill = Standstill(CRAWL_CPUS), Standstill()
    for tenth in range(1000, 1050):
        usages = {"a": Usage(GIB, cpu_s=0.024 * tenth)}
        found = crawl.take(tenth / 10, usages), standstill.take(tenth / 10, usages)
    assert found[0] == pytest.approx(4.9)
    assert found[1] < 0.5
    slow = Standstill(CRAWL_CPUS)
    whole = [slow.take(tenth / 10, {"a": Usage(GIB, cpu_s=0.025 * tenth)}, cpus=0.25) for tenth in range(1000, 1050)]
    assert max(whole) < 1.2
    compiles = [crawl.take(105.0 + tenth / 10, {"a": Usage(GIB, cpu_s=30.0 + 0.1 * tenth)}) for tenth in range(50)]
    assert max(compiles) < 1.0


def test_nothing_has_gone_on_only_while_somebody_looked() -> None:
    """A build that was stopped as a whole for an hour has not stood still that long; what was done begins anew."""
    standstill, usages = Standstill(), {"a": Usage(100 * MIB)}
    standstill.take(100.0, usages)
    assert standstill.take(3700.0, usages) == 2 * LOOK_MOST_S
    standstill.begin()
    assert standstill.take(3701.0, usages) == 0
