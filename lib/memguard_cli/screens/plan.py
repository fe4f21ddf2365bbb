# SPDX-License-Identifier: MIT
"""What `memguard plan` found, as tables and sentences.

Runs in: outside BitBake.
Covers: how much of the build is known, a row for each number of CPUs, the time at each limit, several builds on nodes.
Does not cover: the picture (plan_picture), JSON (commands/plan).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from memguard.units import format_bytes
from memguard_cli.screens.text import count, format_minutes, make_console, make_table, plain
from memguard_cli.simulation.nodes import Node, Row, Shape, mix, until_done_s
from memguard_cli.simulation.planning import KNEE_SHARE
from memguard_cli.simulation.plans import Plan, Point
from memguard_cli.simulation.truth import Truth

SHOWN_RECIPES = 8


def show(plans: Sequence[Plan], truth: Truth, names: Sequence[str], unknown: Sequence[str]) -> None:
    """Print all that is known of one build's containers."""
    console = make_console()
    recipes = len({recipe for recipe, _ in truth.graph.names})
    console.print(
        plain(f"{count(len(truth.graph), 'task')} of {count(recipes, 'recipe')}, from {' and '.join(names)}", "bold")
    )
    for sentence in tell_known(truth, unknown):
        console.print(plain(sentence))
    console.print()
    table = make_table("CPUs", "smallest", "time", "knee", "time", "stock from", "stock at the knee", left=0)
    table.columns[-1].max_width = None
    for found in plans:
        table.add_row(*map(plain, cells_of(found)))
    console.print(table)
    console.print()
    times = make_table("limit", *(f"{found.cpus} CPUs" for found in plans))
    for limits, cells in fold(plans):
        times.add_row(plain(limits), *map(plain, cells))
    console.print(times)
    console.print()
    for sentence in explain(plans):
        console.print(plain(sentence))


def fold(plans: Sequence[Plan]) -> list[tuple[str, list[str]]]:
    """The times at each limit, one for each plan; limits in a row that give the same are one row."""
    rows: list[tuple[int, int, list[str]]] = []
    for columns in zip(*(found.points for found in plans)):
        limit, cells = columns[0].limit_bytes, [_time(point) for point in columns]
        first = rows.pop()[0] if rows and rows[-1][2] == cells else limit
        rows.append((first, limit, cells))
    return [
        (format_bytes(first) if first == last else f"{format_bytes(first)} to {format_bytes(last)}", cells)
        for first, last, cells in rows
    ]


def cells_of(found: Plan) -> list[str]:
    cells = [str(found.cpus)]
    for point in (found.smallest, found.knee):
        cells += [_limit(found, point.limit_bytes), _time(point)] if point is not None else ["-", "-"]
    cells.append(_limit(found, found.stock_bytes) if found.stock_bytes is not None else "-")
    stock = found.stock
    cells.append(f"{stock.threads} x -j {stock.jobs}: {format_minutes(stock.time_s)}" if stock is not None else "-")
    return cells


def _limit(found: Plan, limit_bytes: int) -> str:
    """A limit that is enough; of the lowest that was tried no more is known than that a lower one may be, too."""
    is_lowest = limit_bytes == found.points[0].limit_bytes
    return f"<={format_bytes(limit_bytes)}" if is_lowest else format_bytes(limit_bytes)


def _time(point: Point) -> str:
    if point.time_s is None:
        return "killed"
    return format_minutes(point.time_s) if point.is_safe else f"{point.finished} of {point.runs}"


def tell_known(truth: Truth, unknown: Sequence[str]) -> list[str]:
    """How much of the build is known, which is how much the answer is worth."""
    tasks = len(truth.graph)
    guessed = tasks - truth.known_footprints - truth.in_table
    if truth.known_durations == truth.known_footprints == tasks:
        return ["All of it is known from earlier builds.", tell_compilers(truth)]
    is_first = "The whole is" if not truth.known_durations else "What nobody has built is"
    sentences = [
        f"Known from earlier builds: memory of {_share(truth.known_footprints, tasks)}, durations of "
        f"{_share(truth.known_durations, tasks)}. The table of known footprints has {truth.in_table:,} more; "
        f"{guessed:,} are guessed by the kind of task. {is_first} simulated as a first build, whose predictions are "
        "often far off."
    ]
    if unknown:
        shown = ", ".join(unknown[:SHOWN_RECIPES])
        more = f" and {len(unknown) - SHOWN_RECIPES:,} more" if len(unknown) > SHOWN_RECIPES else ""
        sentences.append(
            f"Never seen: {count(len(unknown), 'recipe')} ({shown}{more}); a heavy one among them decides. Plan again "
            "with the history of the first build."
        )
    return [*sentences, tell_compilers(truth)]


def tell_compilers(truth: Truth) -> str:
    """Whether jobs are simulated as they were seen, and what it means if not (docs/benchmarks.md, "8 GB again")."""
    if truth.known_compilers:
        return f"Simulated with the single compilers that were seen of {count(truth.known_compilers, 'task')}."
    return (
        "No single compilers were seen, so all jobs of a task are alike: where memory is short, a build with memguard "
        "takes about three quarters of the time that is said here."
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {count(whole, 'task')} ({100 * part / whole:.0f} %)"


def explain(plans: Sequence[Plan]) -> list[str]:
    """What the columns mean, and how sure they are."""
    runs = plans[0].points[0].runs
    wide = [
        (point.most_s - point.least_s) / point.time_s
        for found in plans
        for point in found.points
        if point.time_s and point.most_s is not None and point.least_s is not None
    ]
    finish = "the run finishes" if runs == 1 else f"all {runs} runs finish"
    sentences = [
        f"smallest: from here on {finish}. knee: more memory gains less than {100 * KNEE_SHARE:.0f} %. stock from: "
        "where BitBake alone finishes with as many tasks and jobs as CPUs. stock at the knee: its fastest "
        "BB_NUMBER_THREADS x PARALLEL_MAKE that finishes there.",
    ]
    if any(_limit(found, size).startswith("<=") for found in plans for size in _answers(found)):
        lowest = format_bytes(plans[0].points[0].limit_bytes)
        sentences.append(f"<={lowest}: at most {lowest} (the lowest tried); less may do; --limits tries lower ones.")
    if runs == 1:
        sentences.append("One run at each limit says nothing of the spread; --seeds 5 does.")
    elif wide:
        sentences.append(f"Times of the runs at one limit differ by up to {100 * max(wide):.0f} %.")
    if any(found.smallest is None for found in plans):
        sentences.append("A dash: no limit of those tried is enough.")
    return sentences


def _answers(found: Plan) -> list[int]:
    sizes = [point.limit_bytes for point in (found.smallest, found.knee) if point is not None]
    return sizes if found.stock_bytes is None else [*sizes, found.stock_bytes]


def show_nodes(
    rows: Sequence[Row], best: Sequence[tuple[str, Shape | None]], nodes: Sequence[Node], builds: int | None
) -> None:
    """Print how many builds run at once on nodes. best: each build's name and its container for the queue of all."""
    console = make_console()
    console.print()
    console.print(plain(f"{count(len(nodes), 'node')}: {nodes_words(nodes)}", "bold"))
    table = make_table("build", "CPUs", "memory", "time", "at once", "an hour", left=1)
    for row in rows:
        shape = row.shape
        cells = [shape.name, str(shape.cpus), format_bytes(shape.limit_bytes), format_minutes(shape.time_s)]
        table.add_row(*map(plain, [*cells, str(row.at_once), f"{row.an_hour:.2f}"]))
    console.print(table)
    console.print()
    for sentence in nodes_sentences(best, nodes, builds):
        console.print(plain(sentence))


def nodes_words(nodes: Sequence[Node]) -> str:
    """The kinds of nodes, as "4 of 64.0 GiB and 16 CPUs"."""
    kinds = Counter(nodes)
    return ", ".join(
        f"{number} of {format_bytes(node.memory_bytes)} and {node.cpus} CPUs" for node, number in kinds.items()
    )


def nodes_sentences(best: Sequence[tuple[str, Shape | None]], nodes: Sequence[Node], builds: int | None) -> list[str]:
    """Which containers get most builds done, how many run at once where all kinds are mixed, and when all are done.

    The last two only where each build fits on a node.
    """
    sentences = [
        "an hour: builds that end in an hour while nodes are full of them; they share no disk and no network here."
    ]
    shapes = [shape for _, shape in best if shape is not None]
    if shapes:
        sizes = "; ".join(f"{shape.name} {shape.cpus} CPUs and {format_bytes(shape.limit_bytes)}" for shape in shapes)
        sentences.append(f"Most builds an hour: {sizes}.")
    if len(shapes) < len(best):
        return sentences + [f"No container for {name} fits on these nodes." for name, shape in best if shape is None]
    counts = mix(shapes, nodes)
    if len(shapes) > 1:
        parts = " and ".join(f"{number} of {shape.name}" for number, shape in zip(counts, shapes))
        sentences.append(f"One of each in turn: {sum(counts)} at once ({parts}).")
    if builds is not None and (done_s := until_done_s(shapes, nodes, builds)) is not None:
        fit = "all at once" if sum(counts) >= builds else f"{sum(counts)} at once"
        sentences.append(f"{count(builds, 'build')}: {fit}, and all are done after {format_minutes(done_s)}.")
    return sentences
