# SPDX-License-Identifier: MIT
"""Real makes under a real memory limit: memguard run beside what else people do, and beside perfect knowledge.

The compilers are simulated (tests/testbed/job_program.c): each takes memory over time as it is told and sleeps, so that
many run at once on few CPUs; make, the jobserver, the cgroup and its OOM killer are the real ones. With --real they are
g++ on Boost.Spirit instead; with --rehearse all but memguard's own reflex is simulated, and a build takes a fraction of
a second. Policies, all in the same run and in alternating order:

memguard  `memguard run --jobs N -- make`, which knows nothing of the units beforehand
again     the same once more, which knows what each unit took in the run before (`--history`)
stock     `make -jN`
static    `make -jK`, where K of the heaviest unit fit: what is safe without feedback
gate      `make -jN`, and a unit waits to begin while more than 75 % of the limit is charged
clairvoyant  computed: the best of 200 schedules of somebody who knows every unit's memory over time; the same reserve
in order  computed: the same with the units in make's order, which is all that a tool below make can reach
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from memguard.model import Policy
from memguard.units import GIB, MIB, format_bytes, parse_bytes
from testbed import compilers
from testbed.container import Container, NoContainer, container
from testbed.liveness import LONGEST_S, watching

from .rehearsal import Rehearsal
from .schedules import SCENARIOS, Workload, clairvoyant_s, draw_workload, profile_words, safe_jobs
from .statistics import spread

TESTS = Path(__file__).resolve().parents[1]
SPIRIT = TESTS / "bitbake" / "meta-heavy" / "recipes-heavy" / "heavy" / "files"
MEMGUARD = Path(sys.executable).with_name("memguard")
POLICIES = ("memguard", "again", "stock", "static", "gate")
# Those under the reflex, all seeds of which are run.
GUARDED = ("memguard", "again")
GATE_SHARE = 0.75
# A run that takes so long is called stalled, and ended.
STALLED_S = 300.0
SEEDS, BASELINE_SEEDS = 50, 5
# Targets: wall time over the clairvoyant's, and the static -j's over memguard's, where that is asked for.
MOST_OVER_CLAIRVOYANT = 1.15
LEAST_OVER_STATIC = {"tenth": 1.5, "links": 1.5}


class Build(Protocol):
    """Something to build: `units` heavy enough for the limit to matter."""

    heaviest_bytes: int

    def write(self, directory: Path, gate: tuple[Path, int] | None) -> list[list[str]]:
        """Write what is built into `directory`; returns the makes to be run there at once."""


@dataclass(frozen=True)
class Simulated:
    """A workload of simulated compilers, with the directory that holds the program under its names."""

    workload: Workload
    programs: Path

    @property
    def heaviest_bytes(self) -> int:
        """What the heaviest unit takes."""
        return self.workload.heaviest_bytes

    def write(self, directory: Path, gate: tuple[Path, int] | None) -> list[list[str]]:
        """One makefile for each make."""
        gated = f" -gate {gate[0]} {gate[1]}" if gate else ""
        for number, make in enumerate(self.workload.makes):
            units = [f"{number}-{place}.o" for place in range(len(make.units))]
            links = [f"{number}-link{place}" for place in range(len(make.links))]
            lines = ["all: " + " ".join([*units, *links]), ""]
            for name, unit in zip([*units, *links], [*make.units, *make.links]):
                needed = " ".join(units) if name in links else ""
                lines += [
                    f"{name}: {needed}",
                    f"\t@{self.programs}/{unit.program} -o $@ -p {profile_words(unit)}{gated}",
                ]
            (directory / f"{number}.mk").write_text("\n".join(lines) + "\n", encoding="ascii")
        return [["make", "-f", f"{number}.mk"] for number in range(len(self.workload.makes))]


@dataclass(frozen=True)
class Compilers:
    """The same file over and over through the real g++."""

    units: int
    heaviest_bytes: int

    def write(self, directory: Path, gate: tuple[Path, int] | None) -> list[list[str]]:
        """A makefile with one rule."""
        for name in ("parser.hpp", "part1.cpp"):
            shutil.copy(SPIRIT / name, directory)
        waits = f"while [ $$(cat {gate[0]}) -gt {gate[1]} ]; do sleep 0.05; done; " if gate else ""
        units = " ".join(f"unit{number}.o" for number in range(self.units))
        rule = f".PHONY: all\nall: {units}\n%.o:\n\t@{waits}g++ -O1 -c -o $@ part1.cpp\n"
        (directory / "0.mk").write_text(rule, encoding="ascii")
        return [["make", "-f", "0.mk"]]


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    policy: str
    wall_s: float
    oom_kills: int
    has_built: bool
    stalled_s: float
    account: dict[str, Any]


def room_of(limit_bytes: int) -> int:
    """What a build may use by plan under a limit."""
    return limit_bytes - Policy().reserve_of(limit_bytes)


def run_once(build: Build, policy: str, jobs: int, limit_bytes: int, place: Path) -> Run:
    """One build under one policy in a container of its own. Raises NoContainer.

    place: a directory of the case's own; what memguard remembers from run to run stays there.
    """
    room_bytes = room_of(limit_bytes)
    with tempfile.TemporaryDirectory(dir=place) as made, container(limit_bytes, "memguard-bench") as box:
        directory = Path(made) / "build"
        directory.mkdir()
        gate = (charged_file(box), int(GATE_SHARE * limit_bytes)) if policy == "gate" else None
        makes = build.write(directory, gate)
        if policy not in GUARDED:
            count = safe_jobs(build.heaviest_bytes, room_bytes, jobs) if policy == "static" else jobs
            each = max(1, count // len(makes)) if policy == "static" else count
            makes = [[*make, f"-j{each}"] for make in makes]
        command = _at_once(makes)
        if policy in GUARDED:
            options = ["--jobs", str(jobs), "--json", str(directory / "run.json"), "--history", str(place / "history")]
            command = [str(MEMGUARD), "run", *options, "--", *command]
        began_s = time.monotonic()
        with open(directory / "log", "wb") as log, watching(lambda: box.pids) as liveness:
            process = subprocess.Popen([*box.prefix, *command], cwd=directory, stdout=log, stderr=log)
            try:
                status = process.wait(timeout=STALLED_S)
            except subprocess.TimeoutExpired:
                box.kill()
                status = process.wait()
        wall_s = time.monotonic() - began_s
        account: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            account = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        if policy in GUARDED and "Traceback" in (
            said := (directory / "log").read_text(encoding="utf-8", errors="replace")
        ):
            raise RuntimeError(said)
        return Run(policy, wall_s, box.oom_kills, status == 0, liveness.longest_s, account)


def _at_once(makes: list[list[str]]) -> list[str]:
    """One command for several makes; fails where one of them does."""
    if len(makes) == 1:
        return makes[0]
    started = " ".join(f'{" ".join(make)} & pids="$pids $!";' for make in makes)
    return ["sh", "-c", f"{started} status=0; for pid in $pids; do wait $pid || status=1; done; exit $status"]


def charged_file(box: Container) -> Path:
    """The file that tells all that is charged to a container."""
    v2 = box.directory / "memory.current"
    return v2 if v2.exists() else box.directory / "memory.usage_in_bytes"


def warm_memory(size_bytes: int) -> mmap.mmap:
    """Memory for the runs that the kernel has at hand, while the result lives.

    A virtual machine may give memory back to its host two seconds after it was freed (free page reporting); what is
    touched then comes at a tenth of the speed, and simulated compilers lag behind their profiles. Only pieces of 2 MiB
    are given back; so all is touched once and freed in pieces of 1 MiB.
    """
    held = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(held)), 1, size_bytes)
    for start in range(0, size_bytes - MIB + 1, MIB):
        held.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, MIB - mmap.PAGESIZE)
    return held


# -- the tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One seed of one scenario at one number of jobs."""

    scenario: str
    seed: int
    jobs: int

    def draw(self, room_bytes: int) -> Workload:
        """Its units."""
        return draw_workload(self.scenario, self.seed, room_bytes, self.jobs)


@dataclass(frozen=True)
class Ideal:
    """What the clairvoyant takes, and what it takes with the units in make's order."""

    best_s: float
    in_order_s: float


def ideal_of(case: Case, limit_bytes: int) -> Ideal:
    """Seconds that the clairvoyant's schedules take."""
    room_bytes = room_of(limit_bytes)
    workload = case.draw(room_bytes)
    best_s = clairvoyant_s(workload, room_bytes, case.jobs)
    return Ideal(best_s, clairvoyant_s(workload, room_bytes, case.jobs, schedules=1))


def run_case(case: Case, options: argparse.Namespace, programs: Path) -> list[Run]:
    """All policies of one seed, one after the other, every second time in reverse."""
    build = Simulated(case.draw(room_of(options.limit)), programs)
    return run_all(build, case, options, programs.parent, is_reversed=case.seed // len(options.jobs) % 2 == 1)


def run_all(build: Build, case: Case, options: argparse.Namespace, scratch: Path, is_reversed: bool) -> list[Run]:
    """All policies of one case, one after the other; memguard's second run follows its first."""
    ordered = [name for name in _policies(case, options) if name != "again"]
    ordered = ordered[::-1] if is_reversed else ordered
    if "again" in options.policies:
        ordered.insert(ordered.index("memguard") + 1, "again")
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        return [_announced(case, run_once(build, policy, case.jobs, options.limit, Path(place))) for policy in ordered]


def _announced(case: Case, run: Run) -> Run:
    """The run, after a line about it: hours that are broken off have told something all the same."""
    end = "built" if run.has_built else "not built"
    line = f"{case.scenario}, seed {case.seed}, {case.jobs} jobs: {run.policy} {end}, {run.wall_s:.1f} s"
    print(f"{line}, {run.oom_kills} killed by the kernel", file=sys.stderr, flush=True)
    return run


def rehearse_case(case: Case, options: argparse.Namespace) -> list[Run]:
    """All policies of one seed in simulated time."""
    room_bytes = room_of(options.limit)
    workload = case.draw(room_bytes)
    makes = len(workload.makes)
    before: dict[str, bytes] = {}
    found = []
    for policy in _policies(case, options):
        is_guarded = policy in GUARDED
        fixed_jobs, gate_bytes = None if is_guarded else case.jobs * makes, 0
        if policy == "static":
            fixed_jobs = safe_jobs(workload.heaviest_bytes, room_bytes, case.jobs)
        if policy == "gate":
            gate_bytes = int((1 - GATE_SHARE) * options.limit)
        rehearsal = Rehearsal(workload, options.limit, case.jobs, fixed_jobs, gate_bytes, before=before)
        came, before = rehearsal.run(), rehearsal.remembered() if policy == "memguard" else {}
        account = {"stopped": came.stopped, "killed": came.killed, "retried": 0} if is_guarded else {}
        found.append(Run(policy, came.wall_s, came.oom_kills, came.has_built, came.stalled_s, account))
    return found


def _policies(case: Case, options: argparse.Namespace) -> list[str]:
    """Those that are asked for of one seed: memguard of all, the others of the first ones."""
    wanted = [name for name in POLICIES if name in options.policies]
    return [name for name in wanted if name in GUARDED or case.seed < options.baseline_seeds]


def report(title: str, runs: list[tuple[Case, Run]], ideal: dict[Case, Ideal]) -> list[str]:
    """Print one row for each policy; returns what missed a target."""
    print(f"\n{title}")
    print(f"{'':>12} {'runs':>5} {'killed by':>9} {'built':>6}  {'wall, s':26} {'over clairvoyant':26}")
    print(f"{'':>12} {'':>5} {'the kernel':>9}")
    missed = []
    walls: dict[str, list[float]] = {}
    for policy in [name for name in POLICIES if any(run.policy == name for _, run in runs)]:
        mine = [(case, run) for case, run in runs if run.policy == policy]
        kills = sum(run.oom_kills for _, run in mine)
        built = [(case, run) for case, run in mine if run.has_built]
        walls[policy] = [run.wall_s for _, run in built]
        over = [run.wall_s / ideal[case].best_s for case, run in built if case in ideal]
        print(
            f"{policy:>12} {len(mine):5} {kills:9} {len(built):6}  "
            f"{spread(walls[policy], digits=1) if built else '':26} {spread(over) if over else '':26}{_acts(mine)}",
            flush=True,
        )
        if policy in GUARDED:
            missed += [f"{title}, {policy}: {kills} kernel OOM kills"] if kills else []
            missed += [f"{title}, {policy}: {len(mine) - len(built)} not built"] if len(built) < len(mine) else []
            stalled_s = max(run.stalled_s for _, run in mine)
            missed += [f"{title}, {policy}: stood still for {stalled_s:.0f} s"] if stalled_s > LONGEST_S else []
            if over and statistics.median(over) > MOST_OVER_CLAIRVOYANT:
                missed.append(f"{title}, {policy}: {statistics.median(over):.2f} x clairvoyant")
    if ideal:
        best = spread([found.best_s for found in ideal.values()], digits=1)
        print(f"{'clairvoyant':>12} {len(ideal):5} {'':9} {'':6}  {best}")
        in_order = spread([found.in_order_s for found in ideal.values()], digits=1)
        over = spread([found.in_order_s / found.best_s for found in ideal.values()])
        print(f"{'in order':>12} {len(ideal):5} {'':9} {'':6}  {in_order:26} {over}")
    return missed + _over_static(title, runs)


def _acts(runs: list[tuple[Case, Run]]) -> str:
    accounts = [run.account for _, run in runs if run.account]
    if not accounts:
        return ""
    words = [f"{name} {statistics.mean([found[name] for found in accounts]):.1f}" for name in ("stopped", "killed")]
    return f" a run: {', '.join(words)}, retried {statistics.mean([found['retried'] for found in accounts]):.2f}"


def _over_static(title: str, runs: list[tuple[Case, Run]]) -> list[str]:
    """Tell how much faster than the safe -j memguard is, seed by seed; what missed the target."""
    both: dict[Case, dict[str, float]] = {}
    for case, run in runs:
        if run.has_built:
            both.setdefault(case, {})[run.policy] = run.wall_s
    pairs = [found["static"] / found["memguard"] for found in both.values() if {"static", "memguard"} <= found.keys()]
    if not pairs:
        return []
    print(f"{'':12} static takes {spread(pairs)} times as long as memguard, seed by seed")
    least = min((LEAST_OVER_STATIC.get(case.scenario, 0.0) for case in both), default=0.0)
    middle = statistics.median(pairs)
    return [f"{title}: static only {middle:.2f} x as long"] if middle < least else []


def simulate(options: argparse.Namespace, scratch: Path) -> list[str]:
    """All seeds of all scenarios with simulated compilers."""
    cases = [
        Case(scenario, seed, options.jobs[seed % len(options.jobs)])
        for seed in range(options.seeds)
        for scenario in options.scenarios
    ]
    ideal: dict[Case, Ideal] = {}
    if options.schedules:
        with ProcessPoolExecutor() as pool:
            ideal = dict(zip(cases, pool.map(ideal_of, cases, [options.limit] * len(cases))))
    began_s = time.monotonic()
    if options.rehearse:
        with ProcessPoolExecutor() as pool:
            found = list(pool.map(rehearse_case, cases, [options] * len(cases)))
        print(f"{len(cases)} seeds of scenarios rehearsed in {time.monotonic() - began_s:.0f} s")
    else:
        programs = compilers.build(scratch)
        with (
            contextlib.closing(warm_memory(options.parallel * options.limit)),
            ThreadPoolExecutor(options.parallel) as threads,
        ):
            found = list(threads.map(lambda case: run_case(case, options, programs), cases))
        print(f"{len(cases)} seeds of scenarios in {time.monotonic() - began_s:.0f} s, {options.parallel} at a time")
    missed = []
    for scenario in options.scenarios:
        for jobs in options.jobs:
            chosen = [case for case in cases if (case.scenario, case.jobs) == (scenario, jobs)]
            if chosen:
                runs = [(case, run) for case, runs in zip(cases, found) if case in chosen for run in runs]
                title = f"{scenario} ({SCENARIOS[scenario][0]}), {jobs} jobs"
                missed += report(title, runs, {case: ideal[case] for case in chosen if case in ideal})
    return missed


def compile_really(options: argparse.Namespace, scratch: Path) -> list[str]:
    """The same with g++, one run at a time."""
    build = Compilers(units=12, heaviest_bytes=_measure_compiler(scratch))
    print(f"12 units of g++ on Boost.Spirit, {format_bytes(build.heaviest_bytes)} each")
    missed = []
    for jobs in options.jobs:
        runs = []
        for seed in range(options.seeds):
            case = Case("g++", seed, jobs)
            runs += [(case, run) for run in run_all(build, case, options, scratch, is_reversed=seed % 2 == 1)]
        missed += report(f"g++, {jobs} jobs", runs, {})
    return missed


def _measure_compiler(scratch: Path) -> int:
    """What one unit takes, by the kernel's own account."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    command = ["g++", "-O1", "-c", "-o", str(scratch / "unit.o"), str(SPIRIT / "part1.cpp")]
    return int(subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=True).stdout)


def _names(allowed: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]}: none of {','.join(allowed)}")
        return names

    return parse


def main(arguments: list[str]) -> int:
    """Print the tables; returns the exit status: 0, 1 where a target was missed, 2 where there is no container."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench feedback", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scenarios = tuple(SCENARIOS)
    parser.add_argument("--scenarios", type=_names(scenarios), default=list(scenarios), help=",".join(scenarios))
    parser.add_argument("--policies", type=_names(POLICIES), default=list(POLICIES), help=",".join(POLICIES))
    parser.add_argument("--seeds", type=int, help=f"of each scenario for memguard (default: {SEEDS}; --real: 3)")
    parser.add_argument("--baseline-seeds", type=int, default=BASELINE_SEEDS, help="of each scenario for the others")
    parser.add_argument("--jobs", help="most jobs at once, seeds in turn (default: 16,64; --real: 8)")
    parser.add_argument("--limit", type=parse_bytes, default=2 * GIB, help="of the container (default: 2G)")
    parser.add_argument("--parallel", type=int, default=1, help="seeds at a time; each wants a CPU or so (default: 1)")
    parser.add_argument("--no-clairvoyant", dest="schedules", action="store_false", help="do without its schedule")
    parser.add_argument("--rehearse", action="store_true", help="in simulated time: hundreds of builds a minute")
    parser.add_argument("--real", action="store_true", help="g++ instead of simulated compilers")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (3 if options.real else SEEDS)
    if "again" in options.policies and "memguard" not in options.policies:
        parser.error("--policies again: there is nothing to remember; a good value is --policies memguard,again")
    options.jobs = [int(count) for count in (options.jobs or ("8" if options.real else "16,64")).split(",")]
    print(
        f"limit {format_bytes(options.limit)}, {format_bytes(Policy().reserve_of(options.limit))} in reserve",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="memguard-bench-") as scratch:
        try:
            missed = (compile_really if options.real else simulate)(options, Path(scratch))
        except NoContainer as missing:
            print(missing, file=sys.stderr)
            return 2
    print("\nmissed: " + ("; ".join(missed) or "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
