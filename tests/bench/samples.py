# SPDX-License-Identifier: MIT
"""Measures what compiles take at several job counts, for `scripts/bench predict`.

Real BitBake, real compilers, memguard only observing; the samples are what its history holds then. Recipes are those of
the test distribution, one task at a time, or with --bed, the OE-core recipes of `scripts/bench oe`, two at a time, each
with the kind that it was taken to be of before anybody had built it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memguard.record.history.store import History
from memguard.units import GIB
from memguard_cli.simulation.graph import read_dot
from testbed import builddir, oe_bed
from testbed.bitbake import locate
from testbed.builddir import META_TEST
from testbed.checkouts import NotHere
from testbed.container import NoContainer
from testbed.events import read_log

from .recording import granted_kinds, record_build, with_pools

REPOSITORY = Path(__file__).resolve().parents[2]
BITBAKE_LAYERS = META_TEST.parent
LAYERS = [META_TEST, BITBAKE_LAYERS / "meta-heavy", BITBAKE_LAYERS / "meta-samples", REPOSITORY / "meta-memguard"]
RECIPES = ("heavy-make", "heavy-cmake", "many-units", "link-time", "one-giant", "rust-crates")
# The container of builds in the bed; nothing there takes as much.
AMPLE_BYTES = 16 * GIB
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
    parser.add_argument("--recipes", help="what to build (default: all)")
    parser.add_argument("--bed", metavar="DIR", type=Path, help="build OE-core's recipes in this bed")
    parser.add_argument("--repeats", type=int, default=3, help="builds at each of them (default: 3)")
    parser.add_argument("--recording", metavar="FILE", type=Path, help="with --bed: the first build, for bench replay")
    options = parser.parse_args(arguments)
    counts = [int(count) for count in options.jobs.split(",")]
    if options.bed:
        return _build_in_bed(options, (options.recipes or ",".join(oe_bed.RECIPES)).split(","), counts)
    bitbake = locate()
    recipes = (options.recipes or ",".join(RECIPES)).split(",")
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
                samples = _samples(scratch / "build" / "memguard" / "history.db", recipes)
                _write(options.output, samples)
                number = repeat * len(counts) + counts.index(jobs) + 1
                print(f"build {number}: -j {jobs}, {result.wall_s:.0f} s, {len(samples)} samples", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _build_in_bed(options: argparse.Namespace, recipes: list[str], counts: list[int]) -> int:
    setting = oe_bed.Setting(is_guarded=True, limit_bytes=AMPLE_BYTES, threads=2, jobs=1, mode="observe")
    try:
        with oe_bed.bed(options.bed, oe_bed.Kind("wrynose", recipes)) as bed:
            bed.parse(setting)
            bed.forget_history()
            for number, jobs in enumerate(counts * options.repeats, 1):
                built = bed.build(f"samples-{number}", replace(setting, jobs=jobs))
                if not built.is_built:
                    print(f"the build failed; {built.log} says why", file=sys.stderr)
                    return 1
                if options.recording and number == 1:
                    origin = f"{bed.bitbake.name}, {bed.oe.name}, 2 tasks of -j {jobs}"
                    recording = record_build(bed.memguard, read_dot(bed.graph(setting)), built.wall_s, origin)
                if number == 1:
                    (log,) = bed.memguard.events.glob("*.jsonl")
                    kinds = granted_kinds(read_log(log))
                samples = [
                    {**sample, "kind": kinds.get((sample["pn"], sample["task"]), "")}
                    for sample in _samples(bed.memguard.history, recipes)
                ]
                _write(options.output, samples)
                print(f"build {number}: -j {jobs}, {built.wall_s:.0f} s, {len(samples)} samples", flush=True)
            if options.recording:
                with_pools(recording, bed.memguard).write(options.recording)
    except (NotHere, NoContainer, oe_bed.ParseFailed) as missing:
        print(f"scripts/bench samples: {missing}", file=sys.stderr)
        return 2
    return 0


def _find_rust() -> str:
    """The directory of the real cargo and rustc, "" where there is none: builds have a HOME that rustup knows not."""
    try:
        words = ("rustc", "--print", "sysroot")
        root = Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(root / "bin") if (root / "bin" / "cargo").exists() else ""


def _samples(file: Path, recipes: list[str]) -> list[dict[str, Any]]:
    """What the history holds of the compiles of these recipes, oldest first."""
    history = History(file, warn=print, is_read_only=True)
    samples = [sample for sample in history.export() if sample["task"] == "do_compile" and sample["pn"] in recipes]
    history.close()
    return samples


def _write(file: Path, samples: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(sample)}\n" for sample in samples), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
