# SPDX-License-Identifier: MIT
"""Wall and CPU time of a build of at least 1,000 short tasks, memguard beside stock, in pairs.

The limit is far above the need, so nothing is held: what is measured is what memguard costs when nobody needs it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testbed import builddir
from testbed.bitbake import BitBake, locate
from testbed.builddir import META_TEST
from testbed.container import cpu_s_of, entering
from testbed.layer import write

from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS_PER_RECIPE = 5
CONF = 'BB_NUMBER_THREADS = "4"\n'
CONFS = {"stock": CONF, "memguard": CONF + 'INHERIT += "memguard"\n'}


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="builds of each, in turn")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks that run in each build, at least")
    options = parser.parse_args(arguments)
    bitbake = locate()
    scratch = Path(tempfile.mkdtemp(prefix="memguard-bench-"))
    try:
        layer, target = _many_recipes(scratch / "meta-many", options.tasks)
        builds = {
            name: builddir.make(scratch / name, [META_TEST, layer, REPOSITORY / "meta-memguard"], conf)
            for name, conf in CONFS.items()
        }
        for build in builds.values():
            _run(bitbake, build, ["-p"])
        print(f"{bitbake}; {options.pairs} pairs, in turn", flush=True)
        wall: dict[str, list[float]] = {name: [] for name in builds}
        cpu: dict[str, list[float]] = {name: [] for name in builds}
        tasks = 0
        for pair in range(options.pairs):
            for name in list(builds) if pair % 2 == 0 else list(reversed(builds)):
                shutil.rmtree(builds[name] / "tmp" / "stamps", ignore_errors=True)
                shutil.rmtree(builds[name] / "tmp" / "work", ignore_errors=True)
                seconds, cpu_seconds, tasks = _run(bitbake, builds[name], [target])
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
                print(f"pair {pair + 1}, {name}: {seconds:.1f} s wall, {cpu_seconds:.1f} s CPU", flush=True)
        print(f"\n{tasks} tasks; median (range)")
        for what, found in (("wall", wall), ("CPU", cpu)):
            ratios = [ours / theirs for ours, theirs in zip(found["memguard"], found["stock"])]
            print(
                f"{what:>5}: stock {spread(found['stock'], ' s', 1)}, memguard {spread(found['memguard'], ' s', 1)}, "
                f"ratio per pair {spread(ratios, '', 3)}, ratio of medians "
                f"{statistics.median(found['memguard']) / statistics.median(found['stock']):.3f}"
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _many_recipes(layer: Path, tasks: int) -> tuple[Path, str]:
    """A layer of recipes that do next to nothing, and the target that needs them all."""
    count = -(-tasks // TASKS_PER_RECIPE)
    recipes = {f"many-{number}": _recipe(number) for number in range(count)}
    recipes["everything"] = f'DEPENDS = "{" ".join(recipes)}"\n'
    return write(layer, recipes), "everything"


def _recipe(number: int) -> str:
    return 'SUMMARY = "Nothing"\n' + (f'DEPENDS = "many-{number - 20}"\n' if number >= 20 else "")


def _run(bitbake: BitBake, build: Path, arguments: Sequence[str]) -> tuple[float, float, int]:
    """Seconds of wall and CPU of one BitBake command and all it started, and the tasks it ran."""
    with _accounting() as (prefix, cpu_seconds):
        result = builddir.run(bitbake, build, *arguments, prefix=prefix, timeout=1800)
        if result.returncode:
            raise SystemExit(f"the build failed:\n{result.output[-4000:]}")
        return result.wall_s, cpu_seconds(), result.output.count("Running task ")


class _accounting:
    """CPU seconds of a command and of the server it leaves behind: a v1 cpuacct cgroup, or a v2 one."""

    def __enter__(self) -> tuple[tuple[str, ...], object]:
        v1, v2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")
        self._group = (v1 if v1.is_dir() else v2) / f"memguard-bench-{os.getpid()}"
        self._group.mkdir()
        return entering(self._group), self._seconds

    def __exit__(self, *reason: object) -> None:
        self._group.rmdir()

    def _seconds(self) -> float:
        return cpu_s_of(self._group)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
