# SPDX-License-Identifier: MIT
"""`memguard plan`: which container a build needs, and what a smaller one costs in time.

Runs in: outside BitBake.
Covers: the smallest limit that finishes for each number of CPUs, times at every limit, the knee, what stock BitBake
would need; as a table, JSON and a picture; what all that does not know.
Does not cover: the simulation itself (simulation.compare and below), drawing (plan_picture).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from memguard.settings import LEAST_LIMIT_BYTES
from memguard.units import GIB, MIB, format_bytes, parse_bytes
from memguard_cli.builds import history_file
from memguard_cli.commands.options import history_option
from memguard_cli.commands.simulate import format_minutes, parse_cpus, parse_limits, progress, write_json
from memguard_cli.screens.text import count, make_console, make_table, plain
from memguard_cli.simulation.compare import place_of, simulate
from memguard_cli.simulation.graph import Graph, GraphError
from memguard_cli.simulation.plans import Plan, Point, Stock
from memguard_cli.simulation.profiles import ERRORS
from memguard_cli.simulation.scenario import LARGEST_BYTES, MOST_SEEDS
from memguard_cli.simulation.truth import Known, Truth, chains_of, find_truth, read_source

IDLE_BYTES = 300 * MIB
# Sizes between a limit and twice it.
STEPS_PER_DOUBLING = 4
# The knee: from here on more memory gains less than this.
KNEE_SHARE = 0.05
SHOWN_RECIPES = 8


@click.command(epilog="Example: memguard plan task-depends.dot --history history.db --cpus 4,8,16 --limits 8G..128G")
@click.argument("source", metavar="[GRAPH|HISTORY]", required=False, type=click.Path(path_type=Path))
@click.option("--cpus", default="4,8,16", show_default=True, metavar="N[,...]", help="Numbers of CPUs.")
@click.option(
    "--limits", default="4G..128G", show_default=True, metavar="SIZE..SIZE", help="Limits to try, or some: 8G,16G."
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_SEEDS),
    default=3,
    show_default=True,
    metavar="N",
    help="Runs at each limit; each draws anew what is not known, and by how much predictions miss.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write all numbers to FILE, - for standard output, no table.")
@click.option("--picture", metavar="FILE", help="Draw time over memory into FILE.svg or FILE.png (needs matplotlib).")
@history_option
def plan(
    source: Path | None,
    cpus: str,
    limits: str,
    seeds: int,
    json_file: str | None,
    picture: str | None,
    file: str | None,
) -> int:
    """Tell which memory limit a build needs, for each number of CPUs, and how long it then takes.

    GRAPH is the task-depends.dot that `bitbake -g IMAGE` writes; what its tasks take comes from the history. With a
    history, or a directory of buildstats, instead of a graph the tasks in it are planned, as chains of their recipes.
    """
    numbers, sizes = sorted(set(parse_cpus(cpus))), parse_range(limits)
    check_picture(picture)
    graph, known, names = read_build(source, file)
    truths = [find_truth(graph, known, (), random.Random(seed)) for seed in range(seeds)]
    with progress(len(numbers) * (len(sizes) * (seeds + 1))) as tick:
        plans = [make_plan(truths, number, sizes, tick) for number in numbers]
    unknown = sorted({recipe for recipe, _ in graph.names} - {recipe for recipe, _ in known})
    if json_file is not None:
        write_json(as_data(plans, truths[0], names, unknown), json_file)
    if picture is not None:
        draw_picture(plans, picture)
    if json_file != "-":
        _show(plans, truths[0], names, unknown)
    return 0


def parse_range(text: str) -> tuple[int, ...]:
    """The limits of "8G..128G", four to a doubling and whole GiB where they are large, or of "8G,16G"."""
    if ".." not in text:
        return tuple(sorted(set(parse_limits(text, "--limits"))))
    first, _, last = text.partition("..")
    try:
        least, most = parse_bytes(first), parse_bytes(last)
    except ValueError:
        least = most = 0
    if not LEAST_LIMIT_BYTES <= least <= most <= LARGEST_BYTES:
        raise click.UsageError(f"--limits {text!r}: no range of limits; a good one is 8G..128G")
    sizes = {most}
    for step in range(math.ceil(STEPS_PER_DOUBLING * math.log2(most / least)) + 1):
        size = least * 2 ** (step / STEPS_PER_DOUBLING)
        sizes.add(round(size / GIB) * GIB if size >= 4 * GIB else int(size))
    return tuple(sorted(size for size in sizes if least <= size <= most))


def read_build(source: Path | None, file: str | None) -> tuple[Graph, Known, list[str]]:
    """The graph to plan, what is known of its tasks, and what both were read from. Raises UsageError."""
    try:
        if source is None:
            path = history_file.find(file)
            history_file.require(path)
            _, known = read_source(path)
            return chains_of(known), known, [str(path)]
        graph, known = read_source(source)
        if graph is None:
            return chains_of(known), known, [str(source)]
        path = history_file.find(file)
        if file is None and not history_file.is_there(path):
            return graph, {}, [str(source)]
        history_file.require(path)
        other, known = read_source(path)
        if other is not None:
            raise click.UsageError(f"{path} is a graph; a history is due there")
        return graph, known, [str(source), str(path)]
    except GraphError as error:
        raise click.UsageError(str(error)) from None


def make_plan(
    truths: Sequence[Truth], cpus: int, sizes: Sequence[int], tick: Callable[[], None] = lambda: None
) -> Plan:
    """Simulate every size, and search what stock would need. `tick` is called seeds + 1 times for each size."""
    points: list[Point] = []
    for size in sizes:
        if points and points[-1].is_never_short:
            before = points[-1]
            points.append(Point(size, *list(vars(before).values())[1:]))
            for _ in truths:
                tick()
        else:
            points.append(_try(truths, cpus, size, tick))
    smallest = next((point for point in points if all(p.is_safe for p in points[points.index(point) :])), None)
    knee = None
    if smallest is not None:
        safe = points[points.index(smallest) :]
        best_s = min(point.time_s or math.inf for point in safe)
        knee = next(point for point in safe if (point.time_s or math.inf) <= best_s * (1 + KNEE_SHARE))
    stock_bytes = None
    for size in reversed(sizes):
        if _stock_time(truths, cpus, size, cpus, cpus) is None:
            break
        stock_bytes = size
        tick()
    stock = _find_stock(truths, cpus, knee.limit_bytes) if knee is not None else None
    return Plan(cpus, tuple(points), smallest, knee, stock_bytes, stock)


def _try(truths: Sequence[Truth], cpus: int, limit_bytes: int, tick: Callable[[], None]) -> Point:
    place = place_of(limit_bytes, cpus, None, None, IDLE_BYTES, None)
    outcomes = []
    for seed, truth in enumerate(truths):
        outcomes.append(simulate(truth, place, "memguard", ERRORS["warm"], seed))
        tick()
    times = [outcome.makespan_s for outcome in outcomes if outcome.finished]
    is_never_short = all(outcome.finished and not outcome.held and not outcome.shrunk for outcome in outcomes)
    return Point(
        limit_bytes,
        len(times),
        len(outcomes),
        statistics.median(times) if times else None,
        min(times, default=None),
        max(times, default=None),
        is_never_short,
    )


def _stock_time(truths: Sequence[Truth], cpus: int, limit_bytes: int, threads: int, jobs: int) -> float | None:
    """The median time of stock BitBake, None where one of the builds is killed."""
    place = place_of(limit_bytes, cpus, threads, jobs, IDLE_BYTES, None)
    times = []
    for truth in truths:
        outcome = simulate(truth, place, "stock", ERRORS["exact"], 0)
        if not outcome.finished:
            return None
        times.append(outcome.makespan_s)
    return statistics.median(times)


def _find_stock(truths: Sequence[Truth], cpus: int, limit_bytes: int) -> Stock | None:
    """The fastest configuration of stock BitBake that finishes, of all that halve the number of CPUs some times."""
    halves = [max(1, cpus >> step) for step in range(cpus.bit_length())]
    found = [
        Stock(threads, jobs, time_s)
        for threads in halves
        for jobs in halves
        if (time_s := _stock_time(truths, cpus, limit_bytes, threads, jobs)) is not None
    ]
    return min(found, key=lambda stock: stock.time_s, default=None)


def as_data(plans: Sequence[Plan], truth: Truth, names: Sequence[str], unknown: Sequence[str]) -> dict[str, Any]:
    """All that was found, for machines."""
    return {
        "sources": list(names),
        "tasks": len(truth.graph),
        "known_durations": truth.known_durations,
        "known_footprints": truth.known_footprints,
        "unknown_recipes": list(unknown),
        "plans": [asdict(plan) for plan in plans],
    }


def check_picture(picture: str | None) -> None:
    """Raises UsageError for a picture of another kind, before anything is simulated."""
    if picture is not None and Path(picture).suffix not in (".svg", ".png"):
        raise click.UsageError(f"--picture {picture}: neither .svg nor .png; a good name is plan.svg")


def draw_picture(plans: Sequence[Plan], picture: str) -> None:
    """Raises UsageError where it cannot be drawn or written."""
    try:
        from memguard_cli.screens.plan_picture import draw
    except ImportError:
        raise click.UsageError("--picture needs matplotlib: pip install 'meta-memguard[picture]'") from None
    try:
        draw(plans, Path(picture))
    except OSError as error:
        raise click.UsageError(f"--picture {picture}: {error.strerror}") from None


def _show(plans: Sequence[Plan], truth: Truth, names: Sequence[str], unknown: Sequence[str]) -> None:
    console = make_console()
    recipes = len({recipe for recipe, _ in truth.graph.names})
    console.print(
        plain(f"{count(len(truth.graph), 'task')} of {count(recipes, 'recipe')}, from {' and '.join(names)}", "bold")
    )
    table = make_table("CPUs", "smallest", "time", "knee", "time", "stock from", "stock at the knee", left=0)
    table.columns[-1].max_width = None
    for found in plans:
        table.add_row(*map(plain, _cells(found)))
    console.print(table)
    console.print()
    times = make_table("limit", *(f"{found.cpus} CPUs" for found in plans))
    for columns in zip(*(found.points for found in plans)):
        times.add_row(plain(format_bytes(columns[0].limit_bytes)), *(plain(_time(point)) for point in columns))
    console.print(times)
    console.print()
    for sentence in explain(plans, truth, unknown):
        console.print(plain(sentence))


def _cells(found: Plan) -> list[str]:
    cells = [str(found.cpus)]
    for point in (found.smallest, found.knee):
        cells += [format_bytes(point.limit_bytes), _time(point)] if point is not None else ["-", "-"]
    cells.append(format_bytes(found.stock_bytes) if found.stock_bytes is not None else "-")
    stock = found.stock
    cells.append(f"{stock.threads} x -j {stock.jobs}: {format_minutes(stock.time_s)}" if stock is not None else "-")
    return cells


def _time(point: Point) -> str:
    if point.time_s is None:
        return "killed"
    return format_minutes(point.time_s) if point.is_safe else f"{point.finished} of {point.runs}"


def explain(plans: Sequence[Plan], truth: Truth, unknown: Sequence[str]) -> list[str]:
    """What the columns mean, how sure they are, and what they rest on."""
    runs = plans[0].points[0].runs
    wide = [
        (point.most_s - point.least_s) / point.time_s
        for found in plans
        for point in found.points
        if point.time_s and point.most_s is not None and point.least_s is not None
    ]
    sentences = [
        f"smallest: from here on all {count(runs, 'run')} finish. knee: more memory gains less than "
        f"{100 * KNEE_SHARE:.0f} %. stock from: where BitBake alone finishes with as many tasks and jobs as CPUs. "
        "stock at the knee: its fastest BB_NUMBER_THREADS x PARALLEL_MAKE that finishes there.",
        f"Durations are known of {truth.known_durations:,} and memory of {truth.known_footprints:,} of "
        f"{len(truth.graph):,} tasks; the others are drawn by kind of task, anew for each run. Predictions are taken "
        "to miss as after three builds.",
    ]
    if wide:
        sentences.append(f"Times of the runs at one limit differ by up to {100 * max(wide):.0f} %.")
    if unknown:
        shown = ", ".join(unknown[:SHOWN_RECIPES])
        more = f" and {len(unknown) - SHOWN_RECIPES:,} more" if len(unknown) > SHOWN_RECIPES else ""
        sentences.append(
            f"Never seen: {count(len(unknown), 'recipe')} ({shown}{more}); a heavy one among them decides."
        )
    if any(found.smallest is None for found in plans):
        sentences.append("A dash: no limit of those tried is enough.")
    return sentences
