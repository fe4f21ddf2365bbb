# SPDX-License-Identifier: MIT
"""What is stopped goes to swap, in a real container that may swap to zram: nothing is killed, and it comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Usage
from memguard.units import MIB
from testbed import compilers, memory
from testbed.container import Container, NoContainer, container
from testbed.memory import running
from testbed.zram import NoSwap, zram

LIB = Path(__file__).resolve().parents[2] / "meta-memguard" / "lib"
MEMGUARD = Path(sys.executable).with_name("memguard")
LIMIT, SWAP = 256 * MIB, 512 * MIB
# What the first of six compilers takes, slowly, and what each of those beside it takes at once.
UNITS, FIRST, OTHERS = 6, "2:205,2.5:205", "0.5:60,1.5:60"
SAYS = "from memguard.sense.container import Sensor; r = Sensor().read(); print(r.swap_left_bytes, r.left_bytes)"


@pytest.fixture
def box() -> Iterator[Container]:
    """A container of 256 MiB that may put twice as much into zram."""
    try:
        with zram(SWAP), container(LIMIT, "memguard-test", swap_bytes=SWAP) as made:
            yield made
    except (NoContainer, NoSwap) as missing:
        pytest.skip(str(missing))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program that takes memory as it is told."""
    try:
        return memory.build(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def swap_left(box: Container) -> int:
    """What a process inside sees that may still go to swap."""
    env = {"PYTHONPATH": str(LIB), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*box.prefix, sys.executable, "-c", SAYS], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout.split()[0])


def watch(table: ProcessTable, task: memory.MemoryTask, is_enough: Callable[[Usage], bool]) -> Usage:
    """Scan as the sentinel does until it is enough; what was seen last."""
    deadline = time.monotonic() + 20
    while True:
        (usage,) = table.scan({"task": task.leader}).values()
        if is_enough(usage) or time.monotonic() > deadline:
            return usage
        time.sleep(0.05)


@pytest.mark.memcg
def test_a_stopped_job_makes_room_and_comes_back(box: Container, program: Path) -> None:
    """Beside 150 MiB that are stopped others take 200 of 256: what is stopped is in swap then, and counts as held."""
    table = ProcessTable()
    assert SWAP * 0.9 <= swap_left(box) <= SWAP
    with running(program, "anon 150 wait repeat 1000 { read sleep 10 }", box.prefix) as parked:
        parked.wait_for(1)
        assert watch(table, parked, lambda usage: usage.current_bytes > 140 * MIB).swapped_bytes == 0
        os.kill(parked.leader.pid, signal.SIGSTOP)
        with running(program, "anon 200 wait", box.prefix) as other:
            other.wait_for(1)
            usage = watch(table, parked, lambda usage: usage.swapped_bytes > 80 * MIB)
            assert usage.swapped_bytes > 80 * MIB
            assert usage.current_bytes + usage.swapped_bytes == pytest.approx(150 * MIB, rel=0.05)
            assert swap_left(box) < SWAP - 80 * MIB
        os.kill(parked.leader.pid, signal.SIGCONT)
        assert parked.process.stdin
        parked.process.stdin.close()
        assert parked.process.wait(20) == 0
    table.close()
    assert box.oom_kills == 0


@pytest.mark.memcg
@pytest.mark.parametrize(("swap_bytes", "is_taken"), [(16 * MIB, False), (SWAP, True)], ids=["full", "taken away"])
def test_nothing_is_lost_where_swap_ends(swap_bytes: int, is_taken: bool, tmp_path: Path) -> None:
    """Four compilers at once where one fits: all is built, though swap is soon full, or goes with what is parked in it.

    swapoff charges what it reads back to the container, whatever its limit: then the kernel may kill, and make runs
    again.
    """
    try:
        programs = compilers.build(tmp_path)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    units = [f"unit{number}.o" for number in range(UNITS)]
    rules = [f"{unit}:\n\t{programs}/cc1plus -o $@ -p {OTHERS if place else FIRST}" for place, unit in enumerate(units)]
    (tmp_path / "Makefile").write_text("\n".join([f"all: {' '.join(units)}", *rules, ""]), encoding="ascii")
    command = [MEMGUARD, "run", "--job-size", "4M", "--reserve", "40M", "--retries", "5", "--", "make", "-j4"]
    most, is_there = 0, True
    try:
        with zram(swap_bytes) as device, container(LIMIT, "memguard-test", swap_bytes=SWAP) as box:
            process = subprocess.Popen([*box.prefix, *command], cwd=tmp_path)
            while process.poll() is None:
                most = max(most, box.swapped_bytes)
                if is_taken and is_there and most > 8 * MIB:
                    is_there = subprocess.run(["swapoff", str(device)], check=False).returncode != 0
                time.sleep(0.05)
            kills = box.oom_kills
    except (NoContainer, NoSwap) as missing:
        pytest.skip(str(missing))
    assert process.returncode == 0
    assert [unit for unit in units if not (tmp_path / unit).exists()] == []
    assert is_there is not is_taken
    assert is_taken or kills == 0
