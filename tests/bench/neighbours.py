# SPDX-License-Identifier: MIT
"""Builds that share one memory limit, beside the same builds one after the other: nothing is killed, and none starves.

Real BitBake builds in one container, of recipes whose compilers are simulated (tests/testbed/job_program.c): they take
memory over time and sleep, so that two builds are not slow for want of CPUs. With --real the compilers are real, and
take 0.6 GB each (tests/bitbake/meta-heavy). In each round:

in turn   one build after the other, each with the container to itself
together  all at once, as two executors of a CI host in one container
apart     all at once, with MEMGUARD_NEIGHBOURS at off (where --apart asks for it): each thinks that it is alone

No build has a history. Nothing else should run on the machine; kills count all the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard.record.events import Killed, Stopped
from memguard.record.events import parse as parse_event
from memguard.units import MIB, format_bytes, parse_bytes
from testbed import builddir, compilers
from testbed.bitbake import BitBake, BitBakeMissing, locate
from testbed.builddir import META_TEST
from testbed.container import NoContainer, container
from testbed.layer import write

from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
META_HEAVY = REPOSITORY / "tests" / "bitbake" / "meta-heavy"
LIMIT = "1536M"
# Of each build: recipes, their compilers, and what these take and for how long.
RECIPES, UNITS = 4, 6
PEAKS_MIB = (60, 120, 250, 400, 550)
WALLS_S = (1.5, 5.0)
CONF = """\
BB_NUMBER_THREADS = "4"
PARALLEL_MAKE = "-j 4"
INHERIT += "memguard"
"""
APART = 'MEMGUARD_NEIGHBOURS = "off"\n'
TOGETHER = 'MEMGUARD_NEIGHBOURS = "auto"\n'
# A build that takes longer than this hangs.
MOST_S = 1800.0
# What the wall time of builds together may be of that one after the other.
MOST_SHARE = 1.15


@dataclass(frozen=True)
class Outcome:
    """What some builds came to. walls_s: of each; wall_s: of all; killed, stopped: by memguard.

    peak_bytes, peak_process_bytes: with all of the kernel's own memory, also what it gives back, and without.
    """

    round: int
    name: str
    built: int
    builds: int
    wall_s: float
    walls_s: tuple[float, ...]
    kernel_kills: int
    killed: int
    stopped: int
    peak_bytes: int
    peak_process_bytes: int


def main(arguments: list[str]) -> int:
    """Print a line for each round's builds and a summary; returns the exit status: 1 where one missed, 2 without."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench neighbours", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="(default: 10)")
    parser.add_argument("--builds", type=int, default=2, help="that share the limit (default: 2)")
    parser.add_argument("--limit", type=parse_bytes, default=parse_bytes(LIMIT), help=f"(default: {LIMIT})")
    parser.add_argument("--recipes", type=int, default=RECIPES, help=f"of six compilers each (default: {RECIPES})")
    parser.add_argument("--real", action="store_true", help="with real compilers")
    parser.add_argument("--apart", action="store_true", help="also at once without seeing each other")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what each came to as JSON, too")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no directory {options.json.parent}")
    # Whatever ends this ends with no cgroup left; a shell's background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="memguard-neighbours-"))
    outcomes: list[Outcome] = []
    try:
        bitbake = locate()
        print(
            f"{bitbake}; {options.builds} builds of {'heavy-image' if options.real else f'{options.recipes} recipes'}, "
            f"limit {format_bytes(options.limit)}; {options.rounds} rounds",
            flush=True,
        )
        layer = META_HEAVY if options.real else make_layer(scratch / "meta-jobs", scratch, options.recipes)
        builds = [_make(bitbake, scratch / f"build-{number}", layer) for number in range(options.builds)]
        for number in range(1, options.rounds + 1):
            for name in ("in turn", "together", *(["apart"] if options.apart else [])):
                outcomes.append(_run(bitbake, builds, options, number, name))
                print(_line(outcomes[-1]), flush=True)
    except (NoContainer, BitBakeMissing) as missing:
        print(f"scripts/bench neighbours: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("scripts/bench neighbours: broken off", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if options.json and outcomes:
            rows = [asdict(outcome) for outcome in outcomes]
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return _summarise(outcomes)


def make_layer(layer: Path, scratch: Path, count: int) -> Path:
    """Recipes that run six simulated compilers each by make; no two are the same. The target is `heavy-image`."""
    programs = compilers.build(scratch)
    dice = random.Random(17)
    recipes = {}
    for number in range(count):
        rules = []
        for unit in range(UNITS):
            peak, wall = dice.choice(PEAKS_MIB), dice.uniform(*WALLS_S)
            profile = f"{0.2 * wall:.2f}:{peak // 8},{0.7 * wall:.2f}:{peak},{wall:.2f}:{peak}"
            rules.append(f"unit{unit}.o:\n\t{programs}/cc1plus -o $@ -p {profile}\n")
        makefile = f"all: {' '.join(f'unit{unit}.o' for unit in range(UNITS))}\n{''.join(rules)}"
        (scratch / f"jobs-{number}").mkdir()
        (scratch / f"jobs-{number}" / "Makefile").write_text(makefile, encoding="ascii")
        recipes[f"jobs-{number}"] = f'SUMMARY = "Jobs"\nS = "{scratch}/jobs-{number}"\ninherit make\n'
    recipes["heavy-image"] = f'SUMMARY = "All"\nDEPENDS = "{" ".join(recipes)}"\n'
    return write(layer, recipes)


def _make(bitbake: BitBake, path: Path, layer: Path) -> Path:
    """A build directory that has parsed all recipes; what it asks for beside CONF is written at each start."""
    build = builddir.make(path, [META_TEST, layer, REPOSITORY / "meta-memguard"], f"{CONF}include conf/more.conf\n")
    (build / "conf" / "more.conf").write_text("", encoding="utf-8")
    result = builddir.run(bitbake, build, "-p")
    if result.returncode:
        raise SystemExit(f"it does not parse:\n{result.output[-4000:]}")
    return build


def _run(bitbake: BitBake, builds: list[Path], options: argparse.Namespace, number: int, name: str) -> Outcome:
    for build in builds:
        (build / "conf" / "more.conf").write_text(TOGETHER if name == "together" else APART, encoding="utf-8")
        for made in (*(build / "tmp" / part for part in ("stamps", "work", "deploy")), build / USUAL_NAME):
            shutil.rmtree(made, ignore_errors=True)
    with container(options.limit, "memguard-neighbours") as box:

        def one(build: Path) -> builddir.Result:
            return builddir.run(bitbake, build, "heavy-image", prefix=box.prefix, timeout=MOST_S)

        began_s = time.monotonic()
        with ThreadPoolExecutor(1 if name == "in turn" else len(builds)) as pool:
            results = list(pool.map(one, builds))
        wall_s = time.monotonic() - began_s
        kills, peaks = box.oom_kills, (box.peak_bytes, box.peak_process_bytes)
    for build, result in zip(builds, results):
        if result.returncode:
            print(f"{build.name} failed:\n{result.output[-3000:]}")
    return Outcome(
        round=number,
        name=name,
        built=sum(result.returncode == 0 for result in results),
        builds=len(builds),
        wall_s=round(wall_s, 1),
        walls_s=tuple(round(result.wall_s, 1) for result in results),
        kernel_kills=kills,
        killed=_count(builds, Killed),
        stopped=_count(builds, Stopped),
        peak_bytes=peaks[0],
        peak_process_bytes=peaks[1],
    )


def _count(builds: list[Path], kind: type[Killed] | type[Stopped]) -> int:
    """How many lines of this kind the readings of the builds have."""
    logs = [log for build in builds for log in BuildDirectory(build / USUAL_NAME).readings.glob("*.jsonl")]
    lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    return sum(isinstance(parse_event(line), kind) for line in lines)


def _line(outcome: Outcome) -> str:
    walls = ", ".join(f"{wall_s:.0f}" for wall_s in outcome.walls_s)
    return (
        f"round {outcome.round}, {outcome.name}: {outcome.built} of {outcome.builds} built, {outcome.wall_s:.1f} s "
        f"wall ({walls}), {outcome.kernel_kills} killed by the kernel, {outcome.killed} by memguard, "
        f"{outcome.stopped} stops, peak {outcome.peak_process_bytes / MIB:.0f} MiB, with the kernel's own memory "
        f"{outcome.peak_bytes / MIB:.0f}"
    )


def _summarise(outcomes: list[Outcome]) -> int:
    """Print what all rounds came to; 1 where builds that saw each other were killed, not built, or slow."""
    by_name = {name: [one for one in outcomes if one.name == name] for name in ("in turn", "together", "apart")}
    for name, ones in by_name.items():
        if ones:
            built, of = sum(one.built for one in ones), sum(one.builds for one in ones)
            print(
                f"{name}: {built} of {of} built, {spread([one.wall_s for one in ones], ' s', 0)}, "
                f"{sum(one.kernel_kills for one in ones)} killed by the kernel, "
                f"{sum(one.killed for one in ones)} by memguard"
            )
    together = by_name["together"]
    shares = [one.wall_s / base.wall_s for one, base in zip(together, by_name["in turn"])]
    share = statistics.median(shares)
    print(f"together / in turn per round: {spread(shares)}")
    print(f"the first to end / the last, together: {spread([min(one.walls_s) / max(one.walls_s) for one in together])}")
    missed = [
        *(["a build that saw its neighbour was not built"] if any(one.built < one.builds for one in together) else []),
        *(["the kernel has killed"] if any(one.kernel_kills for one in together) else []),
        *([f"{share:.2f} of the wall time is more than {MOST_SHARE}"] if share > MOST_SHARE else []),
    ]
    print("missed: " + ("; ".join(missed) or "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
