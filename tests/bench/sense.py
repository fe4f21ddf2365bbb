# SPDX-License-Identifier: MIT
"""Time of one Reading below five nested cgroups with limits, beside psutil.virtual_memory().

Each level has a limit and a CPU quota of its own, which is the dearest case. Real cgroups, made for the run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import psutil

from memguard.sense.container import Sensor
from memguard.sense.kernel_files import KernelFiles
from memguard.units import GIB

from .statistics import quantile, spread

LEVELS = 5
TARGET_US, TARGET_READS = 300, 40


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status: 2 where no cgroups can be made."""
    parser = argparse.ArgumentParser(prog="scripts/bench sense", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds of both, in turn")
    parser.add_argument("--readings", type=int, default=500, help="readings in each round")
    options = parser.parse_args(arguments)
    try:
        with nested(LEVELS):
            report(options.rounds, options.readings)
    except OSError as error:
        print(f"scripts/bench sense: no cgroups can be made here ({error}); run it as root", file=sys.stderr)
        return 2
    return 0


def report(rounds: int, readings: int) -> None:
    """Measure inside the innermost cgroup and print."""
    sensor = Sensor()
    levels = len(sensor.memory.levels) if sensor.memory else 0
    limits = sum(level.limit() is not None for level in sensor.memory.levels) if sensor.memory else 0
    print(f"cgroups {sensor.hierarchies.version}, {levels} levels, {limits} of them with a limit")
    steps: dict[str, Callable[[], object]] = {
        "Reading": sensor.read,
        "Reading with CPUs": lambda: (sensor.forget_cpus(), sensor.read()),
        "psutil.virtual_memory()": psutil.virtual_memory,
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    medians: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps) if number % 2 == 0 else list(reversed(steps)):
            found = [_microseconds(steps[name]) for _ in range(readings)]
            times[name] += found
            medians[name].append(quantile(found, 0.5))
    for name, found in times.items():
        print(f"{name:>24}: {spread(medians[name], ' us', 0)}, 99 % within {quantile(found, 0.99):.0f} us")
    reads, grown = count_reads(steps["Reading with CPUs"]), growth(sensor.read, readings)
    print(f"{'file reads':>24}: {reads} (target: at most {TARGET_READS})")
    print(f"{'kept after each Reading':>24}: {grown:.2f} bytes")
    print(f"target: at most {TARGET_US} us for one Reading; CPUs are counted again once a second")
    print(f"medians of {rounds} rounds of {readings} (range)")


def _microseconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return (time.perf_counter() - started) * 1e6


def count_reads(step: Callable[[], object]) -> int:
    """How many files one step reads."""
    with mock.patch.object(KernelFiles, "_read", autospec=True, side_effect=KernelFiles._read) as reads:
        step()
    return reads.call_count


def growth(step: Callable[[], object], times: int) -> float:
    """Bytes that one step leaves behind, on average over `times` of them."""
    step()
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(times):
            step()
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / times
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def nested(levels: int) -> Iterator[Path]:
    """Be in the innermost of nested cgroups with memory limits and CPU quotas, and back where we were at the end.

    Raises OSError where they cannot be made.
    """
    v2 = Path("/sys/fs/cgroup")
    is_v2 = (v2 / "cgroup.controllers").exists()
    name = f"memguard-bench-{os.getpid()}"
    tops = [v2] if is_v2 else [v2 / "memory", v2 / "cpu"]
    homes = {top: _home(top, is_v2) for top in tops}
    made: list[Path] = []
    try:
        for top in tops:
            directory = top
            for level in range(levels):
                if is_v2:
                    (directory / "cgroup.subtree_control").write_text("+memory +cpu")
                directory = directory / (name if level == 0 else f"level{level}")
                directory.mkdir()
                made.append(directory)
                _limit(directory, 20 * GIB - level, is_v2)
            (directory / "cgroup.procs").write_text(str(os.getpid()))
        yield directory
    finally:
        for home in homes.values():
            with contextlib.suppress(OSError):
                (home / "cgroup.procs").write_text(str(os.getpid()))
        for directory in reversed(made):
            directory.rmdir()


def _home(top: Path, is_v2: bool) -> Path:
    """The cgroup this process is in now, in the hierarchy mounted at `top`."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if (is_v2 and not controllers) or top.name in controllers.split(","):
            return top / path.lstrip("/")
    return top


def _limit(directory: Path, limit_bytes: int, is_v2: bool) -> None:
    for name, value in (
        ("memory.max" if is_v2 else "memory.limit_in_bytes", str(limit_bytes)),
        ("cpu.max", "6400000 100000"),
        ("cpu.cfs_quota_us", "6400000"),
    ):
        if (directory / name).exists():
            (directory / name).write_text(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
