# SPDX-License-Identifier: MIT
"""Builds in which functions of memguard raise: every one must go on as stock.

Before each build a few functions of the server, of tasks' own processes and of the sentinel are drawn among those that
a build calls, and raise errors of several kinds at one of their calls. All build the same tiny recipes and compilers
that take memory, in a container in which MEMGUARD_LIMIT, not the kernel, makes memguard hold, stop and wake.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from memguard.units import GIB
from testbed import builddir, faults
from testbed.bitbake import BitBake, BitBakeMissing, locate
from testbed.builddir import META_TEST, Result
from testbed.container import NoContainer, container
from testbed.faults import Fault

META_CHAOS = Path(__file__).resolve().parents[1] / "bitbake" / "meta-chaos"
RECIPES = ("chaos-make", *(f"tiny-{number:02}" for number in range(1, 6)))
# A server that has met a fault steps aside: a second one finds little but what it does then. A sentinel is started
# again three times. Each task is a process of its own.
PER_BUILD = {"server": 2, "worker": 25, "sentinel": 8}
WHERE = {"server": "server", "tasks": "worker", "sentinel": "sentinel"}
TIMEOUT_S = 300.0


@dataclass
class Verdict:
    """What became of one build: the faults that took place, and what was not as stock."""

    struck: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class FaultyBuilds:
    """Builds in one directory, so that recipes are parsed once. Raises NoContainer, BitBakeMissing."""

    def __init__(self, bitbake: BitBake, scratch: Path, recipes: tuple[str, ...] = RECIPES) -> None:
        self._bitbake, self._scratch, self._recipes = bitbake, scratch, recipes
        self._layer = faults.plant(scratch)
        self._build = scratch / "build"
        conf = f"""\
INHERIT += "memguard"
BB_NUMBER_THREADS = "4"
PARALLEL_MAKE = "-j 4"
MEMGUARD_LIMIT = "640M"
MEMGUARD_DIR = "{scratch}/memguard"
MEMGUARD_METRICS = "{scratch}/memguard.prom"
MEMGUARD_PRESSURE_CMD = "true"
MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=64M,per_job=150M"
"""
        builddir.make(self._build, [META_TEST, META_CHAOS, self._layer], conf)
        result = self._run()
        if result.returncode:
            raise SystemExit(f"the build without a fault failed:\n{result.output[-4000:]}")
        self._expected = self._outputs()
        self.functions = faults.called(scratch)

    def build(self, ordered: list[Fault]) -> Verdict:
        """A build with these faults."""
        faults.order(self._scratch, ordered)
        result = self._run()
        verdict = Verdict(faults.struck(self._scratch, ordered))
        if result.returncode:
            lines = [line for line in result.output.splitlines() if "ERROR" in line or "Error" in line]
            verdict.wrong.append(f"exit status {result.returncode}: {' | '.join(lines)[:600]}")
        elif self._outputs() != self._expected:
            verdict.wrong.append("other outputs")
        verdict.wrong += [f"left behind: {process}" for process in result.leftover]
        self.output = result.output
        return verdict

    def _run(self) -> Result:
        for left in ("tmp/work", "tmp/stamps"):
            shutil.rmtree(self._build / left, ignore_errors=True)
        with container(2 * GIB, "memguard-faults") as box:
            return builddir.run(self._bitbake, self._build, *self._recipes, prefix=box.prefix, timeout=TIMEOUT_S)

    def _outputs(self) -> dict[str, str]:
        work = self._build / "tmp" / "work"
        files = sorted(path for path in work.glob("*/*/image/*") if path.is_file())
        return {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(arguments: list[str]) -> int:
    """Print a line for each build, and the sums; returns the exit status, 1 where a build was not as stock."""
    parser = argparse.ArgumentParser(prog="scripts/bench faults", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200, help="go on until so many have taken place")
    parser.add_argument("--first", type=int, default=1, help="the first seed: a build is repeated by its number")
    parser.add_argument(
        "--where", action="append", choices=WHERE, help="only in these processes, repeat; the others are left alone"
    )
    parser.add_argument(
        "--logs", metavar="DIRECTORY", type=Path, help="keep what BitBake said in builds that went wrong"
    )
    options = parser.parse_args(arguments)
    counts = {role: PER_BUILD[role] for role in (map(WHERE.__getitem__, options.where or WHERE))}
    scratch = Path(tempfile.mkdtemp(prefix="memguard-faults-"))
    found: list[Verdict] = []
    began_s = time.monotonic()
    try:
        # The server does the same whatever its tasks are.
        builds = FaultyBuilds(locate(), scratch, RECIPES[1:] if list(counts) == ["server"] else RECIPES)
        print(
            ", ".join(f"{len(names)} functions of the {role}" for role, names in builds.functions.items()), flush=True
        )
        seed = options.first
        while sum(len(verdict.struck) for verdict in found) < options.faults:
            ordered = faults.draw(builds.functions, counts, seed)
            verdict = builds.build(ordered)
            found.append(verdict)
            words = "; ".join(f"{one.role} {one.function} {one.kind} at call {one.call}" for one in verdict.struck)
            print(f"seed {seed}: {'; '.join(verdict.wrong) or 'as stock'} ({words})", flush=True)
            if verdict.wrong and options.logs:
                options.logs.mkdir(parents=True, exist_ok=True)
                (options.logs / f"seed-{seed}.txt").write_text(builds.output, encoding="utf-8")
            seed += 1
    except (NoContainer, BitBakeMissing) as missing:
        print(f"scripts/bench faults: {missing}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    wrong = [verdict for verdict in found if verdict.wrong]
    where = ", ".join(
        f"{sum(one.role == role for v in found for one in v.struck)} in the {role}" for role in faults.ROLES
    )
    print(
        f"\n{len(found) - len(wrong)} of {len(found)} builds went on as stock, with "
        f"{sum(len(verdict.struck) for verdict in found)} faults ({where}), in {time.monotonic() - began_s:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
