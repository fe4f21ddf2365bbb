# SPDX-License-Identifier: MIT
"""Measures what recipes of the test distribution take at several job counts, for `scripts/bench predict`.

Real BitBake, real compilers, memguard only observing, one task at a time; the samples are what its history holds then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from memguard.record.history.store import History
from testbed import builddir
from testbed.bitbake import locate
from testbed.builddir import META_TEST

REPOSITORY = Path(__file__).resolve().parents[2]
BITBAKE_LAYERS = META_TEST.parent
LAYERS = [META_TEST, BITBAKE_LAYERS / "meta-heavy", BITBAKE_LAYERS / "meta-samples", REPOSITORY / "meta-memguard"]
RECIPES = ("heavy-make", "heavy-cmake", "many-units", "link-time", "one-giant", "rust-crates")
CONF = """\
INHERIT += "memguard"
MEMGUARD_MODE = "observe"
BB_NUMBER_THREADS = "1"
PARALLEL_MAKE = "-j {jobs}"
RUST_BIN = "{rust_bin}"
"""


def main(arguments: list[str]) -> int:
    """Build each recipe at each job count, over and over, and write the samples; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench samples", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FILE", help="JSON lines, one sample each; is written anew")
    parser.add_argument("--jobs", default="1,2,4,8", help="job counts, in turn (default: 1,2,4,8)")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="what to build, one after the other")
    parser.add_argument("--repeats", type=int, default=3, help="builds at each of them (default: 3)")
    options = parser.parse_args(arguments)
    bitbake = locate()
    recipes = options.recipes.split(",")
    counts = [int(count) for count in options.jobs.split(",")]
    rust_bin = _find_rust()
    if "rust-crates" in recipes and not rust_bin:
        parser.error("rust-crates needs cargo and rustc; without them: --recipes many-units,link-time,one-giant")
    scratch = Path(tempfile.mkdtemp(prefix="memguard-bench-"))
    try:
        for repeat in range(options.repeats):
            for jobs in counts:
                build = builddir.make(scratch / "build", LAYERS, CONF.format(jobs=jobs, rust_bin=rust_bin))
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


def _find_rust() -> str:
    """The directory of the real cargo and rustc, "" where there is none: builds have a HOME that rustup knows not."""
    try:
        words = ("rustc", "--print", "sysroot")
        root = Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(root / "bin") if (root / "bin" / "cargo").exists() else ""


def _samples(file: Path, recipes: list[str]) -> list[str]:
    """What the history holds of the compiles of these recipes, oldest first, as JSON."""
    history = History(file, warn=print, is_read_only=True)
    samples = [sample for sample in history.export() if sample["task"] == "do_compile" and sample["pn"] in recipes]
    history.close()
    return [json.dumps(sample) for sample in samples]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
