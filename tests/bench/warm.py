# SPDX-License-Identifier: MIT
"""Wall time of real builds whose history is empty, and of the same builds once it has one, in pairs; stock beside.

A generated layer on the small distribution: recipes that many others need, which BitBake's order therefore puts first,
and one recipe that nothing but the image needs and that takes as long as a good part of all others. Its compile sleeps,
as do the others: what is measured is the order of tasks, and the machine's speed plays no part in it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from testbed import builddir
from testbed.bitbake import BitBake, locate
from testbed.builddir import META_TEST
from testbed.layer import write

from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
BASES, LEAVES_OF_BASE = 12, 5
THREADS = 3
KINDS = ("stock", "cold", "warm")


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench warm", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="builds of each, in turn")
    parser.add_argument("--second", type=float, default=1.0, help="length of a second of the recipes' sleep")
    options = parser.parse_args(arguments)
    bitbake = locate()
    scratch = Path(tempfile.mkdtemp(prefix="memguard-bench-"))
    history = scratch / "history.db"
    conf = f'BB_NUMBER_THREADS = "{THREADS}"\n'
    remembering = f'INHERIT += "memguard"\nMEMGUARD_HISTORY = "{history}"\n'
    try:
        layers = [META_TEST, make_layer(scratch / "meta-chain", options.second), REPOSITORY / "meta-memguard"]
        stock = builddir.make(scratch / "stock", layers, conf)
        build = builddir.make(scratch / "memguard", layers, conf + remembering)
        _run(bitbake, stock, "-p")
        _run(bitbake, build, "-p")
        print(f"{bitbake}; {options.pairs} rounds of {', '.join(KINDS)}", flush=True)
        wall: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(options.pairs):
            for kind in KINDS:
                directory = stock if kind == "stock" else build
                if kind == "cold":
                    for path in scratch.glob("history.db*"):
                        path.unlink()
                for name in ("stamps", "work"):
                    shutil.rmtree(directory / "tmp" / name, ignore_errors=True)
                wall[kind].append(_run(bitbake, directory, "everything"))
            print(f"round {number + 1}: " + ", ".join(f"{kind} {wall[kind][-1]:.1f} s" for kind in KINDS), flush=True)
        for kind in KINDS:
            print(f"{kind:>6}: {spread(wall[kind], ' s', 1)}")
        for base in ("cold", "stock"):
            ratios = [warm / other for warm, other in zip(wall["warm"], wall[base])]
            gain = 100 - 100 * statistics.median(ratios)
            print(f"warm / {base} per round: {spread(ratios, '', 3)}; median {gain:.0f} % less")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def make_layer(layer: Path, second: float) -> Path:
    """The layer; its target is `everything`."""
    recipes = {"giant": _sleep(20 * second)}
    for base in range(BASES):
        recipes[f"base-{base}"] = _sleep(2 * second)
        for leaf in range(LEAVES_OF_BASE):
            recipes[f"leaf-{base}-{leaf}"] = _sleep(0.2 * second, f"base-{base}")
    recipes["everything"] = _sleep(0.1 * second, " ".join(recipes))
    return write(layer, recipes)


def _sleep(seconds: float, needs: str = "") -> str:
    compile_lines = f'    echo "nice value $(nice)"\n    sleep {seconds:g}\n'
    return f'SUMMARY = "Sleeps"\nDEPENDS = "{needs}"\ndo_compile() {{\n{compile_lines}}}\n'


def _run(bitbake: BitBake, build: Path, *arguments: str) -> float:
    """Seconds of wall time of one BitBake command."""
    result = builddir.run(bitbake, build, *arguments, timeout=1800)
    if result.returncode:
        raise SystemExit(f"the build failed:\n{result.output[-4000:]}")
    return result.wall_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
