# SPDX-License-Identifier: MIT
"""Simulated builds of real graphs: memguard, its rivals and a clairvoyant schedule in one table.

Graphs and durations are real or mapped from real captures (captures.py). Limits go from "barely", in which the
heaviest task fits alone with a quarter of its jobs as predicted on a bad day, to "ample", which is never short.
memguard runs once per seed, each with other errors of its predictions, distributed as docs/prediction.md measured
them; the rivals predict nothing. The clairvoyant schedule is the best of drawn list schedules that know every
duration and profile, with the same reserve. All times are simulated, so a busy machine changes none of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from memguard.model import Duration
from memguard.units import GIB, MIB, format_bytes
from memguard_cli.simulation.clairvoyant import best_schedule, lower_bound_s
from memguard_cli.simulation.compare import RIVALS, Place, place_of, simulate
from memguard_cli.simulation.graph import generate
from memguard_cli.simulation.profiles import ERRORS, draw_profile
from memguard_cli.simulation.truth import Truth, find_truth

from . import captures

# Times the least in which the heaviest task fits.
LEVELS = {"barely": 1.0, "short": 1.5, "enough": 3.0, "ample": 1000.0}
SHORT = ("barely", "short")
IDLE_BYTES = 300 * MIB
# The heaviest task may be predicted this much too high: two sigma of the distribution.
BAD_DAY = ERRORS["warm"].median * math.exp(2 * ERRORS["warm"].sigma)

# What the schedule is to keep to, times the clairvoyant schedule, and times the fastest rival that finishes.
MOST_AMPLE, MOST_SHORT, MOST_RIVAL, LEAST_GAIN = 1.10, 1.25, 1.02, 0.10


@dataclass(frozen=True)
class Case:
    """One container for one graph."""

    graph: str
    cpus: int
    level: str
    seeds: int
    schedules: int
    error: str


@dataclass(frozen=True)
class Row:
    """What one policy made of a case: the runs that finished, their times in seconds, and the most memory used."""

    case: Case
    limit_bytes: int
    bound_s: float
    policy: str
    runs: int
    times: tuple[float, ...]
    peak_bytes: int
    done: float

    @property
    def time_s(self) -> float | None:
        return statistics.median(self.times) if self.times else None


def main(arguments: list[str]) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench schedule", description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", default=",".join(captures.GRAPHS))
    parser.add_argument("--cpus", default="8,32,128")
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--seeds", type=int, default=20, help="runs of memguard in each container")
    parser.add_argument("--schedules", type=int, default=200, help="list schedules the clairvoyant one is the best of")
    parser.add_argument("--error", default="warm", choices=sorted(ERRORS))
    parser.add_argument("--chains", type=int, default=20, help="drawn chains of the second table")
    parser.add_argument("--large", type=int, default=100_000, help="tasks of the graph whose simulation is timed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    options = parser.parse_args(arguments)
    graphs = options.graphs.split(",")
    cpus = [int(number) for number in options.cpus.split(",")]
    cases = [
        Case(graph, count, level, options.seeds, options.schedules, options.error)
        for graph in graphs
        for count in cpus
        for level in options.levels.split(",")
    ]
    for graph in graphs:
        _tell_graph(graph)
    error = ERRORS[options.error]
    print(
        f"predictions: the truth times a lognormal factor of median {error.median} and sigma {error.sigma} (memory), "
        f"median 1 and sigma {error.duration_sigma} (durations); {options.seeds} seeds, {options.schedules} schedules"
    )
    rows: list[Row] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for found in pool.map(run_case, cases):
            rows += found
            _show_case(found)
        gains = list(pool.map(run_chain, [(graph, seed) for graph in graphs for seed in range(options.chains)]))
    _show_chains(graphs, gains)
    _judge(rows, gains)
    if options.large:
        _time_large(options.large)
    if options.json:
        options.json.write_text(json.dumps([{**vars(row), "case": vars(row.case)} for row in rows]), encoding="utf-8")
    return 0


def truth_of(name: str) -> Truth:
    """A graph of captures with its profiles; the same each time."""
    found = captures.find_truth(name)
    dice = random.Random(5)
    profiles = tuple(draw_profile(*figures, dice) for figures in zip(found.durations, found.footprints))
    known = len(found.graph) - found.sources.get("kind", 0)
    return Truth(found.graph, profiles, found.durations, found.footprints, known, 0)


def place_in(truth: Truth, cpus: int, factor: float) -> Place:
    """A container of that many CPUs, and of so many times the least memory."""
    heaviest = max(profile.peak_bytes(max(1, cpus // 4)) for profile in truth.profiles) * BAD_DAY
    # The reserve is 5 %, at least 256 MiB and at most 2 GiB.
    least = max(heaviest + 256 * MIB, min(heaviest / 0.95, heaviest + 2 * GIB)) + IDLE_BYTES
    return place_of(int(least * factor), cpus, None, None, IDLE_BYTES, None)


def run_case(case: Case) -> list[Row]:
    """Every policy in one container."""
    truth = truth_of(case.graph)
    place = place_in(truth, case.cpus, LEVELS[case.level])
    container = place.container
    bound_s = lower_bound_s(truth.graph, truth.profiles, container, place.reserve_bytes)

    def row(policy: str, outcomes: Sequence[object]) -> Row:
        runs = [vars(outcome) for outcome in outcomes]
        times = tuple(run["makespan_s"] for run in runs if run["finished"])
        peak_bytes = max((run["peak_bytes"] for run in runs), default=0)
        done = statistics.mean(run["share_done"] for run in runs) if runs else 0.0
        return Row(case, container.limit_bytes, bound_s, policy, max(1, len(runs)), times, peak_bytes, done)

    error = ERRORS[case.error]
    best = best_schedule(truth.graph, truth.profiles, container, place.reserve_bytes, random.Random(1), case.schedules)
    rows = [row("clairvoyant", [best] if best else [])]
    seeds = range(case.seeds)
    rows.append(row("memguard", [simulate(truth, place, "memguard", error, seed) for seed in seeds]))
    rows.append(row("memguard-cold", [simulate(truth, place, "memguard-cold", error, seed) for seed in seeds[:3]]))
    return rows + [row(rival, [simulate(truth, place, rival, error, 0)]) for rival in RIVALS]


def run_chain(drawn: tuple[str, int]) -> tuple[str, float, float]:
    """By how much memguard's order is faster than BitBake's where one drawn chain dominates, memory being ample.

    The second number is the most that any order could gain: stock's time down to the bound.
    """
    name, seed = drawn
    truth = dominate(truth_of(name), random.Random(f"{name}{seed}"), 8)
    place = place_in(truth, 8, LEVELS["ample"])
    ours = simulate(truth, place, "memguard", ERRORS["warm"], seed).makespan_s
    stock = simulate(truth, place, "stock", ERRORS["warm"], seed).makespan_s
    bound = lower_bound_s(truth.graph, truth.profiles, place.container, place.reserve_bytes)
    return name, 1 - ours / stock, 1 - bound / stock


def dominate(truth: Truth, dice: random.Random, cpus: int) -> Truth:
    """The same build, but the tasks of one drawn chain take so long that it is as long as all work on all CPUs.

    The chain goes from an end of the graph back by drawn tasks that each needs.
    """
    graph = truth.graph
    chain = [dice.choice([task for task in range(len(graph)) if not graph.followers[task]])]
    while graph.depends[chain[-1]]:
        chain.append(dice.choice(graph.depends[chain[-1]]))
    others_s = sum(profile.work_s for profile in truth.profiles) / cpus
    factor = max(1.0, others_s / sum(truth.durations[task].seconds(cpus) for task in chain))
    durations, profiles = list(truth.durations), list(truth.profiles)
    for task in chain:
        # A chain of single jobs: more CPUs would not shorten it.
        durations[task] = Duration(durations[task].seconds(cpus) * factor, 0.0)
        profiles[task] = draw_profile(durations[task], truth.footprints[task], random.Random(task))
    return replace(truth, durations=tuple(durations), profiles=tuple(profiles))


def _tell_graph(name: str) -> None:
    found = captures.find_truth(name)
    work_h = sum(duration.serial_s + duration.parallel_s for duration in found.durations) / 3600
    sources = ", ".join(f"{count:,} {source}" for source, count in sorted(found.sources.items()))
    print(f"{name}: {len(found.graph):,} tasks, {work_h:.1f} CPU hours; durations: {sources}")


def _show_case(rows: Sequence[Row]) -> None:
    case, best = rows[0].case, rows[0].time_s
    limit = "never short" if case.level == "ample" else format_bytes(rows[0].limit_bytes)
    print(f"\n{case.graph}, {case.cpus} CPUs, {case.level} ({limit}); bound {rows[0].bound_s:,.0f} s")
    for row in rows:
        finished = f"{len(row.times)} of {row.runs}"
        if row.time_s is None:
            print(f"  {row.policy:14} {finished:>8}   killed at {100 * row.done:.0f} % of the work", flush=True)
            continue
        ratio = f"{row.time_s / best:.3f}" if best else "-"
        spread = f"({min(row.times):,.0f} to {max(row.times):,.0f})" if len(row.times) > 1 else ""
        print(
            f"  {row.policy:14} {finished:>8} {row.time_s:10,.0f} s {ratio:>7} "
            f"{format_bytes(row.peak_bytes):>10} {spread}",
            flush=True,
        )


def _show_chains(graphs: Sequence[str], gains: Sequence[tuple[str, float, float]]) -> None:
    print("\none dominating chain, 8 CPUs, ample memory: time below stock's, median (range) of drawn chains")
    for graph in graphs:
        own = [100 * gain for name, gain, _ in gains if name == graph]
        most = [100 * gain for name, _, gain in gains if name == graph]
        if own:
            print(
                f"  {graph:20} {statistics.median(own):5.1f} % ({min(own):.1f} to {max(own):.1f}), {len(own)} chains; "
                f"the bound: {statistics.median(most):.1f} % ({min(most):.1f} to {max(most):.1f})"
            )


def _judge(rows: Sequence[Row], gains: Sequence[tuple[str, float, float]]) -> None:
    """What was asked for, and whether it was reached."""
    ours = [row for row in rows if row.policy == "memguard"]
    best = {row.case: row.time_s for row in rows if row.policy == "clairvoyant"}
    finished, runs = sum(len(row.times) for row in ours), sum(row.runs for row in ours)
    print(f"\nfinished without a kill: {finished} of {runs} runs; target all: {_verdict(finished == runs)}")
    for name, levels, most in (("ample", ("enough", "ample"), MOST_AMPLE), ("short", SHORT, MOST_SHORT)):
        ratios = [
            row.time_s / time_s
            for row in ours
            if row.case.level in levels and row.time_s is not None and (time_s := best[row.case])
        ]
        if ratios:
            mean = statistics.geometric_mean(ratios)
            print(
                f"memory {name}: geometric mean {mean:.3f} x the clairvoyant schedule ({min(ratios):.3f} to "
                f"{max(ratios):.3f}, {len(ratios)} containers); target {most}: {_verdict(mean <= most)}"
            )
    worse = list(_slower(rows))
    print(f"slower than a rival that finished by more than 2 %: {len(worse)} of {len(ours)}: {_verdict(not worse)}")
    for row, rival, ratio in worse:
        print(f"  {row.case.graph}, {row.case.cpus} CPUs, {row.case.level}: {ratio:.3f} x {rival}")
    anomalies = list(_anomalies(ours))
    print(f"more memory, and slower by more than 2 %: {len(anomalies)} of {len(ours)}: {_verdict(not anomalies)}")
    for fewer, more, ratio in anomalies:
        case = more.case
        print(f"  {case.graph}, {case.cpus} CPUs, {case.level}: {ratio:.3f} x what {fewer.case.level} takes")
    if gains:
        graphs = {name for name, _, _ in gains}
        least = min(statistics.median(gain for name, gain, _ in gains if name == graph) for graph in graphs)
        verdict = _verdict(least >= LEAST_GAIN)
        print(f"one dominating chain: {100 * least:.1f} % faster on the worst graph; target 10 %: {verdict}")


def _slower(rows: Sequence[Row]) -> Iterator[tuple[Row, str, float]]:
    for row in rows:
        rivals = {r.policy: r.time_s for r in rows if r.case == row.case and r.policy in RIVALS and r.time_s}
        if row.policy == "memguard" and row.time_s and rivals:
            name = min(rivals, key=lambda policy: rivals[policy] or math.inf)
            ratio = row.time_s / (rivals[name] or math.inf)
            if ratio > MOST_RIVAL:
                yield row, name, ratio


def _anomalies(ours: Sequence[Row]) -> Iterator[tuple[Row, Row, float]]:
    """Where a build takes longer than with less memory, with the faster and the slower row and their ratio."""
    levels = list(LEVELS)
    for more in ours:
        for fewer in ours:
            is_same = (fewer.case.graph, fewer.case.cpus) == (more.case.graph, more.case.cpus)
            if is_same and levels.index(fewer.case.level) + 1 == levels.index(more.case.level):
                ratio = (more.time_s or math.inf) / (fewer.time_s or math.inf)
                if ratio > MOST_RIVAL:
                    yield fewer, more, ratio


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _time_large(tasks: int) -> None:
    """CPU time of one simulation of a very large build, calm and tight."""
    dice = random.Random(1)
    truth = find_truth(generate(tasks, dice), {}, (), dice)
    for name, gib in (("calm", 512), ("tight", 32)):
        place = place_of(gib * GIB, 32, None, None, IDLE_BYTES, None)
        started_s = time.process_time()
        outcome = simulate(truth, place, "memguard", ERRORS["warm"], 1)
        spent_s = time.process_time() - started_s
        print(
            f"{len(truth.graph):,} tasks, {name}: {spent_s:.1f} s of CPU to simulate ({outcome.held:,} held, "
            f"{100 * outcome.share_done:.0f} % done); target 60 s: {_verdict(spent_s < 60)}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
