# SPDX-License-Identifier: MIT
"""Measures what the heavy recipes of the test distribution take at several job counts, for `scripts/bench predict`.

Real BitBake, real compilers, memguard only observing, one task at a time; the samples are what its history holds then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from memguard.history import History
from testbed import builddir
from testbed.bitbake import locate
from testbed.builddir import META_TEST

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS = [META_TEST, REPOSITORY / "tests" / "bitbake" / "meta-heavy", REPOSITORY / "meta-memguard"]
CONF = """\
INHERIT += "memguard"
MEMGUARD_MODE = "observe"
BB_NUMBER_THREADS = "1"
PARALLEL_MAKE = "-j {jobs}"
"""


def main(arguments: list[str]) -> int:
    """Build each recipe at each job count, over and over, and write the samples; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench samples", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FILE", help="JSON lines, one sample each; is written anew")
    parser.add_argument("--jobs", default="1,2,4,8", help="job counts, in turn (default: 1,2,4,8)")
    parser.add_argument("--recipes", default="heavy-make,heavy-cmake", help="what to build, one after the other")
    parser.add_argument("--repeats", type=int, default=3, help="builds at each of them (default: 3)")
    options = parser.parse_args(arguments)
    bitbake = locate()
    recipes = options.recipes.split(",")
    counts = [int(count) for count in options.jobs.split(",")]
    scratch = Path(tempfile.mkdtemp(prefix="memguard-bench-"))
    try:
        for repeat in range(options.repeats):
            for jobs in counts:
                build = builddir.make(scratch / "build", LAYERS, CONF.format(jobs=jobs))
                shutil.rmtree(build / "tmp", ignore_errors=True)
                result = builddir.run(bitbake, build, *recipes, timeout=1800)
                if result.returncode:
                    print(result.output[-4000:], file=sys.stderr)
                    return 1
                lines = _samples(scratch / "build" / "memguard" / "history.db", recipes)
                options.output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                number = repeat * len(counts) + counts.index(jobs) + 1
                print(f"build {number}: -j {jobs}, {result.wall_s:.0f} s, {len(lines)} samples", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _samples(file: Path, recipes: list[str]) -> list[str]:
    """What the history holds of the compiles of these recipes, oldest first, as JSON."""
    history = History(file, warn=print, is_read_only=True)
    samples = [sample for sample in history.export() if sample["task"] == "do_compile" and sample["pn"] in recipes]
    history.close()
    return [json.dumps(sample) for sample in samples]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
