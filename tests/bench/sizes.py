# SPDX-License-Identifier: MIT
"""Images of OpenEmbedded in 8, 16 and 32 GiB: simulated builds with memguard, with static caps and of stock BitBake.

Graphs and durations are those of bench schedule (captures.py). A seed draws what is not known of the tasks, for all
rules alike, and by how much memguard's predictions miss: in a first build as much as docs/prediction.md measured before
the first, in a second one as after three. In a build with sstate a drawn tenth of the recipes is built, and the image;
what sstate covers costs nothing here. --bed holds the same simulation against real builds of nineteen recipes.
All times are simulated, so a busy machine changes none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from memguard.model import Duration, Footprint
from memguard.predict.job_lives import Life
from memguard.units import GIB, MIB
from memguard_cli.simulation.compare import COLD, place_of, simulate
from memguard_cli.simulation.engine import Outcome
from memguard_cli.simulation.graph import Graph, generate
from memguard_cli.simulation.planning import IDLE_BYTES
from memguard_cli.simulation.profiles import ERRORS, draw_profile, units_of
from memguard_cli.simulation.truth import Figures, Truth, find_truth

from . import captures
from .recording import RecordedTask, Recording, read_recording
from .replay import RECORDED, replay_all

IMAGES = ("core-image-minimal", "core-image-sato")
# Of the recipes; the others come from sstate.
CHANGED_SHARE = 0.1
# Row, whether sstate is there, policy.
RULES = (
    ("memguard, first", False, COLD),
    ("memguard, second", False, "memguard"),
    ("static caps", False, "static-caps"),
    ("stock", False, "stock"),
    ("memguard, sstate", True, "memguard"),
    ("static caps, sstate", True, "static-caps"),
    ("stock, sstate", True, "stock"),
)

# Builds of the bed (docs/benchmarks.md, "The replay beside real builds"): limit, threads, jobs, policy, and the medians
# of wall seconds of the second sitting; None where no real build ends, so that the replay stands beside it.
BED = {
    "free": (24 * GIB, 2, 2, "stock", 362.4),
    "first": (3 * GIB // 2, 4, 8, COLD, 361.1),
    "second": (3 * GIB // 2, 4, 8, "memguard", 321.8),
    "first, 1.0 GiB": (GIB, 4, 8, COLD, None),
    "second, 1.0 GiB": (GIB, 4, 8, "memguard", None),
}
BED_CPU_S, BED_CPUS = 629.0, 2


@dataclass(frozen=True)
class Case:
    """One image in one container."""

    image: str
    gib: int
    cpus: int


@dataclass(frozen=True)
class Cell:
    """What one rule made of a case: the seconds of each run, None for one that was killed."""

    case: Case
    rule: str
    times: tuple[float | None, ...]

    @property
    def built(self) -> list[float]:
        return [time_s for time_s in self.times if time_s is not None]

    def __str__(self) -> str:
        """Median and range in minutes; how many were built, where not all were."""
        built = [time_s / 60 for time_s in self.built]
        if not built:
            return "killed"
        words = f"{statistics.median(built):.0f} ({min(built):.0f} to {max(built):.0f})"
        return words if len(built) == len(self.times) else f"{words}, {len(built)} of {len(self.times)}"


def main(arguments: list[str]) -> int:
    """Print a table, and draw a picture; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default=",".join(IMAGES), help=f"of {', '.join(captures.GRAPHS)}")
    parser.add_argument("--limits", default="8,16,32", help="in GiB")
    parser.add_argument("--cpus", default="4,8,16")
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="builds of each (default: 5)")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="draw the table, as .svg")
    parser.add_argument("--bed", action="store_true", help="simulate the builds of the bed, beside the real ones")
    parser.add_argument("--large", metavar="TASKS", type=int, help="time simulations of a build of so many tasks")
    parser.add_argument("--processes", metavar="N", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    seeds = max(1, options.seeds)
    if options.bed:
        show_bed(bed_recording(), seeds)
        return 0
    if options.large:
        show_large(options.large)
        return 0
    unknown = set(options.images.split(",")) - set(captures.GRAPHS)
    if unknown:
        print(f"scripts/bench sizes: {unknown.pop()}: none of {', '.join(captures.GRAPHS)}", file=sys.stderr)
        return 2
    cases = [
        Case(image, int(gib), int(cpus))
        for image in options.images.split(",")
        for cpus in options.cpus.split(",")
        for gib in options.limits.split(",")
    ]
    tasks = [(case, seed) for seed in range(seeds) for case in cases]
    times: dict[tuple[str, Case], list[float | None]] = {}
    with ProcessPoolExecutor(max(1, options.processes)) as pool:
        for (case, seed), found in zip(tasks, pool.map(run_case, *zip(*tasks))):
            for rule, time_s in found.items():
                times.setdefault((rule, case), []).append(time_s)
            print(f"seed {seed}: {json.dumps([vars(case), found])}", file=sys.stderr, flush=True)
    cells = [Cell(case, rule, tuple(found)) for (rule, case), found in times.items()]
    for image in options.images.split(","):
        print(f"\n{image}, {seeds} seeds, minutes: median (range)\n")
        print(table_of([cell for cell in cells if cell.case.image == image]))
    if options.picture is not None:
        draw(cells, options.picture)
    return 0


def run_case(case: Case, seed: int) -> dict[str, float | None]:
    """The seconds of every rule in one container, with one seed; None for a build that was killed."""
    found: dict[str, float | None] = {}
    place = place_of(case.gib * GIB, case.cpus, None, None, IDLE_BYTES, None)
    whole = truth_of(case.image, seed)
    truths = {False: whole, True: changed(whole, random.Random(f"{case.image} sstate {seed}"))}
    for rule, has_sstate, policy in RULES:
        outcome = simulate(truths[has_sstate], place, policy, ERRORS["warm"], seed)
        found[rule] = outcome.makespan_s if outcome.finished else None
    return found


def truth_of(image: str, seed: int) -> Truth:
    """A graph of captures as that seed draws what is not known of it."""
    found = captures.find_truth(image, seed)
    dice = random.Random(seed)
    profiles = tuple(draw_profile(*figures, dice) for figures in zip(found.durations, found.footprints))
    return Truth(found.graph, profiles, found.durations, found.footprints, len(found.graph), 0)


def changed(truth: Truth, dice: random.Random) -> Truth:
    """The build in which a drawn share of the recipes has changed, and with them the image; sstate has all else."""
    graph = truth.graph
    recipes = sorted({recipe for recipe, _ in graph.names})
    ends = {graph.names[task][0] for task, followers in enumerate(graph.followers) if not followers}
    built = ends | set(dice.sample(recipes, max(1, round(CHANGED_SHARE * len(recipes)))))
    kept = [task for task, (recipe, _) in enumerate(graph.names) if recipe in built]
    places = {task: place for place, task in enumerate(kept)}
    # Of each task the tasks that are built and that it waits for, also by way of such as are not.
    behind: list[set[int]] = [set() for _ in graph.names]
    for task in graph.topological:
        for needed in graph.depends[task]:
            behind[task] |= {places[needed]} if needed in places else behind[needed]
    picked = Graph(tuple(graph.names[task] for task in kept), tuple(tuple(sorted(behind[task])) for task in kept))
    columns = (truth.profiles, truth.durations, truth.footprints)
    profiles, durations, footprints = (tuple(column[task] for task in kept) for column in columns)
    return replace(
        truth,
        graph=picked,
        profiles=profiles,
        durations=durations,
        footprints=footprints,
        known_durations=len(kept),
    )


def table_of(cells: Iterable[Cell]) -> str:
    """A row for each rule, a column for each container."""
    found = {(cell.rule, cell.case): cell for cell in cells}
    cases = list(dict.fromkeys(case for _, case in found))
    lines = [
        f"| | {' | '.join(f'{case.cpus} CPUs, {case.gib} GiB' for case in cases)} |",
        f"|{'---|' * (len(cases) + 1)}",
    ]
    for rule, _, _ in RULES:
        lines.append(f"| {rule} | {' | '.join(str(found[rule, case]) for case in cases)} |")
    return "\n".join(lines)


def draw(cells: Sequence[Cell], path: Path) -> None:
    """A panel for each image and number of CPUs: time over memory, with the range of the seeds; a cross is a kill."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "sizes", "svg.fonttype": "none"})
    from matplotlib.figure import Figure

    images = list(dict.fromkeys(cell.case.image for cell in cells))
    numbers = list(dict.fromkeys(cell.case.cpus for cell in cells))
    figure = Figure(figsize=(3.2 * len(numbers), 2.8 * len(images) + 0.6))
    axes = figure.subplots(len(images), len(numbers), sharey="row", sharex=True, squeeze=False)
    rules = [rule for rule, has_sstate, _ in RULES if not has_sstate]
    for row, image in enumerate(images):
        for column, cpus in enumerate(numbers):
            panel = axes[row][column]
            own = [cell for cell in cells if (cell.case.image, cell.case.cpus) == (image, cpus)]
            sizes = list(dict.fromkeys(cell.case.gib for cell in own))
            for place, rule in enumerate(rules):
                several = [cell for cell in own if cell.rule == rule]
                shift = 0.15 * (place - (len(rules) - 1) / 2)
                whole = [cell for cell in several if len(cell.built) == len(cell.times)]
                middles = [statistics.median(cell.built) / 3600 for cell in whole]
                panel.errorbar(
                    [sizes.index(cell.case.gib) + shift for cell in whole],
                    middles,
                    yerr=[
                        [middle - min(cell.built) / 3600 for cell, middle in zip(whole, middles)],
                        [max(cell.built) / 3600 - middle for cell, middle in zip(whole, middles)],
                    ],
                    fmt="o",
                    markersize=4,
                    color=f"C{place}",
                    label=rule,
                )
                lost = [sizes.index(cell.case.gib) + shift for cell in several if cell not in whole]
                panel.plot(lost, [0.0] * len(lost), "x", color=f"C{place}", clip_on=False)
            panel.set_xticks(range(len(sizes)), [f"{gib} GiB" for gib in sizes])
            panel.set_xlim(-0.5, len(sizes) - 0.5)
            panel.set_ylim(bottom=0)
            panel.set_title(f"{image}, {cpus} CPUs", fontsize=9)
            panel.grid(visible=True, axis="y", alpha=0.3)
        axes[row][0].set_ylabel("hours")
    figure.subplots_adjust(left=0.07, right=0.99, top=0.95, bottom=0.13, wspace=0.05, hspace=0.25)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncol=len(rules), fontsize=9)
    figure.savefig(path, metadata={"Date": None})


# -- the bed ----------------------------------------------------------------------------------------------------------


def bed_recording() -> Recording:
    """The bed on CPUs as slow as in those builds."""
    recording = read_recording(RECORDED)
    return recording.slowed(BED_CPU_S / sum(task.cpu_s for task in recording.tasks))


def show_bed(recording: Recording, seeds: int) -> None:
    """Print what the simulation makes of the bed's builds, beside what they really took."""
    print("| build | simulated wall, s (range) | built | beside it, s | off |")
    print("|---|---|---|---|---|")
    for name, (limit_bytes, _, _, _, real_s) in BED.items():
        outcomes = [simulate_bed(recording, name, seed) for seed in range(seeds)]
        walls = [outcome.makespan_s + recording.around_s for outcome in outcomes if outcome.finished]
        beside_s = replayed_s(recording, limit_bytes, name, seeds) if real_s is None else real_s
        beside = f"{beside_s:.0f}, {'replayed' if real_s is None else 'real'}"
        if walls:
            wall_s = statistics.median(walls)
            words = f"{wall_s:.0f} ({min(walls):.0f} to {max(walls):.0f}) | {len(walls)} of {seeds}"
            print(f"| {name} | {words} | {beside} | {wall_s / beside_s - 1:+.0%} |")
        else:
            print(f"| {name} | - | 0 of {seeds} | {beside} | - |")


def replayed_s(recording: Recording, limit_bytes: int, name: str, seeds: int) -> float:
    """The median of replays of a build that ended well, in seconds."""
    build = name.partition(",")[0]
    found = [replay_all(recording, limit_bytes, ("first", "second"), seed)[build] for seed in range(seeds)]
    return statistics.median(replayed.wall_s for replayed in found if replayed.has_built)


def simulate_bed(recording: Recording, name: str, seed: int) -> Outcome:
    """One build of the bed, out of what a history would know of its tasks."""
    limit_bytes, threads, jobs, policy, _ = BED[name]
    place = place_of(limit_bytes, BED_CPUS, threads, jobs, recording.idle_bytes, None)
    return simulate(bed_truth(recording, seed), place, policy, ERRORS["warm"], seed)


def bed_truth(recording: Recording, seed: int) -> Truth:
    """The graph of the recording, and of each task what a history knows."""
    names = tuple((task.recipe, task.task) for task in recording.tasks)
    graph = Graph(names, tuple(task.needs for task in recording.tasks))
    known = {name: _figures(task) for name, task in zip(names, recording.tasks) if task.kind}
    return find_truth(graph, known, (), random.Random(seed))


def _figures(task: RecordedTask) -> Figures:
    largest_bytes = max((unit.peak_bytes for unit in task.units), default=0)
    if not largest_bytes:
        duration = Duration(max(task.wall_s, task.cpu_s), 0.0, task.cpu_s)
        return Figures(duration, Footprint(0, 0, max(8 * MIB, task.peak_bytes), "recorded"), kind=task.kind)
    parallel_s = min(task.cpu_s, sum(unit.wall_s for unit in task.units))
    base_bytes = max(8 * MIB, task.peak_bytes - largest_bytes)
    duration = Duration(task.cpu_s - parallel_s, parallel_s, task.cpu_s)
    footprint, units = Footprint(base_bytes, largest_bytes, 0, "recorded"), units_of(task.units, task.cpu_s)
    return Figures(duration, footprint, None, units, base_bytes, task.kind)


# -- a large build ----------------------------------------------------------------------------------------------------

# Memory is short in the first, and never in the last.
LARGE_GIB, LARGE_CPUS = (4, 6, 8, 16), 8


def show_large(tasks: int) -> None:
    """Print how long one build of that many tasks takes to simulate, by phases and by single compilers."""
    print("| limit | by phases: built in, min | CPU, s | by compilers: built in, min | CPU, s |")
    print("|---|---|---|---|---|")
    truths = [large_truth(tasks, has_lives) for has_lives in (False, True)]
    for gib in LARGE_GIB:
        place = place_of(gib * GIB, LARGE_CPUS, None, None, IDLE_BYTES, None)
        cells = [f"{gib} GiB"]
        for truth in truths:
            begun_s = time.process_time()
            outcome = simulate(truth, place, "memguard", ERRORS["warm"], 1)
            spent_s = time.process_time() - begun_s
            cells += [f"{outcome.makespan_s / 60:.0f}" if outcome.finished else "lost", f"{spent_s:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def large_truth(tasks: int, has_lives: bool) -> Truth:
    """A generated build; with lives each compile has a compiler for every three seconds of its work."""
    graph = generate(tasks, random.Random(1))
    drawn = find_truth(graph, {}, (), random.Random(1))
    if not has_lives:
        return drawn
    dice, known = random.Random(2), {}
    for name, duration, footprint in zip(graph.names, drawn.durations, drawn.footprints):
        cpu_s, lives = duration.serial_s + duration.parallel_s, []
        if name[1] == "do_compile":
            wall_s = duration.parallel_s / max(1, round(duration.parallel_s / 3))
            sizes = [dice.lognormvariate(-0.7, 0.7) for _ in range(round(duration.parallel_s / wall_s))]
            lives = [Life(int(size * footprint.per_job_bytes), wall_s, 0.6 * wall_s, 0.1) for size in sizes]
        units, base_bytes = units_of(lives, cpu_s), footprint.base_bytes
        known[name] = Figures(replace(duration, cpu_s=cpu_s), footprint, None, units, base_bytes)
    return find_truth(graph, known, (), random.Random(1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
