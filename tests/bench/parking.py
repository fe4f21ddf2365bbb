# SPDX-License-Identifier: MIT
"""Real compilers parked in swap that is good, full, slow or taken away, beside the same builds without parking.

Each build is `memguard run -- make` with g++ on Boost.Spirit, 600 MiB a compiler, in a container in which one and a
half of them fit. Both policies have the same swap, and the kernel swaps under both; without parking memguard does not
reckon with it. Whatever the swap does, every object must be built, and no build may take longer for parking.

good   zram of twice the limit
full   zram of 64 MiB, which is full at once
slow   a file of which the container reads back 8 MiB a second
gone   as good, but taken away (swapoff) once 100 MiB lie in it
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memguard.units import GIB, MIB, format_bytes
from testbed.container import Container, NoContainer, container, entering
from testbed.repeating import repeating
from testbed.slow_swap import slow_swap
from testbed.zram import NoSwap, zram

from .feedback import MEMGUARD, Compilers
from .statistics import spread

KINDS = ("good", "full", "slow", "gone")
POLICIES = ("parking", "without")
LIMIT = GIB
FULL_BYTES, SLOW_BYTES_S, GONE_FROM_BYTES = 64 * MIB, 8 * MIB, 100 * MIB
UNITS, JOBS = 8, 4
# What parking may cost at most where swap is bad.
MOST_SLOWER = 1.05
# `memguard run` as it is where MEMGUARD_PARKING is "off" in a build.
WITHOUT = """
import sys
from dataclasses import replace
from memguard_cli.commands import run
from memguard_cli.main import main
policy = run._policy
run._policy = lambda reserve: replace(policy(reserve), parks=False)
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Run:
    """One build. swapped_bytes: the most that lay in swap."""

    kind: str
    policy: str
    has_built: bool
    wall_s: float
    oom_kills: int
    stopped: int
    killed: int
    swapped_bytes: int


def run_once(kind: str, policy: str, scratch: Path, units: int) -> Run:
    """One build with one kind of swap. Raises NoContainer, NoSwap."""
    with contextlib.ExitStack() as stack:
        prefix: Sequence[str] = ()
        if kind == "slow":
            prefix = entering(stack.enter_context(slow_swap(2 * LIMIT, SLOW_BYTES_S)))
            device = None
        else:
            device = stack.enter_context(zram(FULL_BYTES if kind == "full" else 2 * LIMIT))
        box = stack.enter_context(container(LIMIT, "memguard-bench", swap_bytes=2 * LIMIT))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        (make,) = Compilers(units, 0).write(directory, None)
        memguard = [str(MEMGUARD)] if policy == "parking" else [sys.executable, "-c", WITHOUT]
        account = directory / "run.json"
        options = ["run", "--jobs", str(JOBS), "--json", str(account), "--"]
        began_s = time.monotonic()
        with watching_swap(box, device if kind == "gone" else None) as seen, open(directory / "log", "wb") as log:
            command = [*prefix, *box.prefix, *memguard, *options, *make]
            status = subprocess.run(command, cwd=directory, stdout=log, stderr=log, check=False).returncode
        wall_s = time.monotonic() - began_s
        built = len(list(directory.glob("unit*.o")))
        if status:
            print((directory / "log").read_text(encoding="utf-8", errors="replace")[-1500:], file=sys.stderr)
        told = json.loads(account.read_text(encoding="utf-8"))
        return Run(
            kind,
            policy,
            status == 0 and built == units,
            wall_s,
            box.oom_kills,
            told["stopped"],
            told["killed"],
            max(seen, default=0),
        )


@contextlib.contextmanager
def watching_swap(box: Container, device: Path | None) -> Iterator[list[int]]:
    """See what lies in swap while the context lasts; take `device` away once that is much."""
    seen: list[int] = []
    is_there = device is not None

    def watch() -> None:
        nonlocal is_there
        seen.append(box.swapped_bytes)
        if is_there and seen[-1] > GONE_FROM_BYTES:
            subprocess.run(["swapoff", str(device)], capture_output=True, check=False)
            is_there = False

    with repeating(watch, 0.1):
        yield seen


def show(runs: Sequence[Run]) -> list[str]:
    """Print a row for each policy of each kind; returns what missed a target."""
    missed = []
    for kind in dict.fromkeys(run.kind for run in runs):
        walls = {}
        for policy in POLICIES:
            mine = [run for run in runs if (run.kind, run.policy) == (kind, policy)]
            if not mine:
                continue
            built = sum(run.has_built for run in mine)
            walls[policy] = statistics.median(run.wall_s for run in mine)
            print(
                f"{kind:5} {policy:8} {built} of {len(mine)} built, {spread([run.wall_s for run in mine], ' s', 1)}; "
                f"killed by the kernel {sum(run.oom_kills for run in mine)}, by memguard "
                f"{sum(run.killed for run in mine)}; {sum(run.stopped for run in mine)} stops; up to "
                f"{format_bytes(max(run.swapped_bytes for run in mine))} in swap"
            )
            missed += [f"{kind}, {policy}: {len(mine) - built} not built"] if built < len(mine) else []
        if len(walls) == len(POLICIES) and (ratio := walls["parking"] / walls["without"]) > MOST_SLOWER:
            missed.append(f"{kind}: {ratio:.2f} x as long with parking")
    return missed


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status: 0, 1 where a target was missed, 2 where there is no swap to be had."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench parking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help=",".join(KINDS))
    parser.add_argument("--pairs", type=int, default=2, help="builds of each policy, in turn (default: 2)")
    parser.add_argument("--units", type=int, default=UNITS, help=f"files to compile (default: {UNITS})")
    options = parser.parse_args(arguments)
    runs = []
    with tempfile.TemporaryDirectory(prefix="memguard-bench-", dir="/var/tmp") as scratch:
        try:
            for pair in range(options.pairs):
                for kind in options.kinds.split(","):
                    for policy in POLICIES[:: -1 if pair % 2 else 1]:
                        runs.append(run_once(kind, policy, Path(scratch), options.units))
                        print(runs[-1], file=sys.stderr, flush=True)
        except (NoContainer, NoSwap) as missing:
            print(missing, file=sys.stderr)
            return 2
    missed = show(runs)
    print("\nmissed: " + ("; ".join(missed) or "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
