# SPDX-License-Identifier: MIT
"""`memguard simulate`: an imaginary build, under memguard and under other rules.

Runs in: outside BitBake.
Covers: the table, JSON, the progress bar; what the options say instead of the scenario.
Does not cover: reading scenarios (scenario), the simulation itself (simulation.compare and below).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from memguard.settings import LEAST_LIMIT_BYTES
from memguard.units import format_bytes, parse_bytes
from memguard_cli.builds.plain_file import write_whole
from memguard_cli.screens.plan import tell_compilers
from memguard_cli.screens.text import count, format_minutes, make_console, make_table, plain
from memguard_cli.simulation.clairvoyant import SCHEDULES
from memguard_cli.simulation.compare import NAMES, Place, Summary, compare, count_runs, place_of
from memguard_cli.simulation.scenario import (
    LARGEST_BYTES,
    MOST_CPUS,
    MOST_SEEDS,
    Scenario,
    ScenarioError,
    read_scenario,
)
from memguard_cli.simulation.truth import Truth, find_truth

DEFAULT_POLICIES = tuple(name for name in NAMES if name != "memguard-cold")


@click.command(
    epilog="Example: memguard simulate scenario.yml --policy memguard --policy stock --limit 8G,16G --cpus 8"
)
@click.argument("file", metavar="SCENARIO.yml", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help=f"A rule to run under, or several: {', '.join(NAMES)}.",
)
@click.option(
    "--limit", "limits", metavar="SIZE[,...]", help="Memory limits instead of the scenario's, such as 16G,32G."
)
@click.option("--cpus", metavar="N[,...]", help="CPUs instead of the scenario's, such as 8,64.")
@click.option(
    "--seeds", type=click.IntRange(1, MOST_SEEDS), metavar="N", help="Runs of memguard, each with other errors."
)
@click.option(
    "--schedules",
    type=click.IntRange(1, 100_000),
    default=SCHEDULES,
    show_default=True,
    help="Schedules that the clairvoyant policy draws.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write all numbers to FILE, - for standard output, no table.")
def simulate(
    file: Path,
    policies: tuple[str, ...],
    limits: str | None,
    cpus: str | None,
    seeds: int | None,
    schedules: int,
    json_file: str | None,
) -> int:
    """Simulate a build under memguard and under other rules: which would have finished, and when.

    The build, its containers and how well its tasks are predicted are in SCENARIO.yml; conf/scenarios has examples.
    memguard's decisions are made by the code that decides in builds. The same scenario gives the same numbers.
    """
    try:
        scenario = read_scenario(file)
    except ScenarioError as error:
        raise click.UsageError(str(error)) from None
    if limits is not None:
        scenario = replace(scenario, limits=parse_limits(limits, "--limit"))
    if cpus is not None:
        scenario = replace(scenario, cpus=parse_cpus(cpus))
    chosen = check_policies(policies or scenario.policies or DEFAULT_POLICIES)
    truth = find_truth(scenario.graph, scenario.known, scenario.overrides, random.Random(scenario.seed))
    numbers = [scenario.seed + number for number in range(seeds or scenario.seeds)]
    places = places_of(scenario)
    with progress(count_runs(len(places), chosen, len(numbers), schedules)) as tick:
        summaries = list(compare(truth, places, chosen, scenario.error, numbers, tick, schedules))
    if json_file is not None:
        counts = {"tasks": len(truth.graph), "known_compilers": truth.known_compilers}
        write_json({"scenario": str(file), **counts, "results": as_data(summaries)}, json_file)
    if json_file != "-":
        _show(truth, summaries)
    return 0


def places_of(scenario: Scenario) -> list[Place]:
    """Every container of a scenario."""
    return [
        place_of(limit, cpus, scenario.threads, scenario.jobs, scenario.idle_bytes, scenario.reserve_bytes)
        for cpus in scenario.cpus
        for limit in scenario.limits
    ]


def parse_limits(text: str, option: str) -> tuple[int, ...]:
    """Sizes of "16G,32G". Raises UsageError."""
    sizes = []
    for word in text.split(","):
        try:
            size = parse_bytes(word)
        except ValueError:
            size = 0
        if not LEAST_LIMIT_BYTES <= size <= LARGEST_BYTES:
            raise click.UsageError(f"{option} {text!r}: {word!r} is not the size of a container; good ones are 16G,32G")
        sizes.append(size)
    return tuple(sizes)


def parse_cpus(text: str) -> tuple[int, ...]:
    """Numbers of "8,64". Raises UsageError."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= MOST_CPUS for word in words):
        raise click.UsageError(f"--cpus {text!r}: whole numbers from 1 to {MOST_CPUS} are needed; good ones are 8,64")
    return tuple(map(int, words))


def check_policies(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. Raises UsageError for one that nobody knows."""
    for name in names:
        if name not in NAMES:
            raise click.UsageError(f"{name!r} is not a policy; choose from {', '.join(NAMES)}")
    return tuple(dict.fromkeys(names))


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def write_json(data: Any, file: str) -> None:
    """Write to a file, or for "-" to standard output. Raises UsageError."""
    text = json.dumps(data, indent=2) + "\n"
    if file == "-":
        sys.stdout.write(text)
        return
    try:
        write_whole(Path(file), [text])
    except OSError as error:
        raise click.UsageError(f"--json {file}: {error.strerror}") from None


def as_data(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """All numbers of all runs, for machines."""
    return [
        {
            "policy": summary.policy,
            "limit_bytes": summary.container.limit_bytes,
            "cpus": summary.container.cpus,
            "bound_s": round(summary.bound_s, 3),
            "finished": summary.finished,
            "makespan_s": summary.makespan_s,
            "runs": [vars(outcome) for outcome in summary.outcomes],
        }
        for summary in summaries
    ]


def _show(truth: Truth, summaries: Sequence[Summary]) -> None:
    console = make_console()
    tasks = len(truth.graph)
    hours = sum(profile.work_s for profile in truth.profiles) / 3600
    console.print(
        plain(
            f"{count(tasks, 'task')}, {hours:,.1f} CPU hours; durations known of {truth.known_durations:,}, "
            f"footprints of {truth.known_footprints:,} and in the table of {truth.in_table:,}, the others drawn by kind"
        )
    )
    console.print(plain(tell_compilers(truth)))
    for container, found in itertools.groupby(summaries, lambda summary: summary.container):
        several = list(found)
        console.print()
        console.print(
            plain(
                f"{format_bytes(container.limit_bytes)}, {container.cpus:g} CPUs, "
                f"{count(container.threads, 'task')} of -j {container.jobs} at once; "
                f"no schedule is shorter than {format_minutes(several[0].bound_s)}",
                "bold",
            )
        )
        table = make_table("policy", "finished", "done", "time", "of bound", "peak", "held")
        for names, cells in fold(several):
            table.add_row(plain(names), *map(plain, cells))
        console.print(table)
    if any(summary.policy.startswith("memguard") and len(summary.outcomes) == 1 for summary in summaries):
        console.print()
        console.print(plain("One run of memguard says nothing of the spread; --seeds 5 does."))


def fold(summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """A row for each policy; those of which the same came are one."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for summary in summaries:
        rows.setdefault(tuple(_cells(summary)), []).append(summary.policy)
    return [(", ".join(names), list(cells)) for cells, names in rows.items()]


def _cells(summary: Summary) -> list[str]:
    outcomes = summary.outcomes
    finished = sum(outcome.finished for outcome in outcomes)
    makespan_s = summary.makespan_s
    bound_s = summary.bound_s
    done = statistics.mean(outcome.share_done for outcome in outcomes)
    peak = max(outcome.peak_bytes for outcome in outcomes)
    held_s = statistics.median(outcome.held_s for outcome in outcomes)
    return [
        f"{finished} of {len(outcomes)}",
        f"{100 * done:.0f} %",
        format_minutes(makespan_s) if makespan_s is not None else "-",
        f"{makespan_s / bound_s:.2f}" if makespan_s is not None and 0 < bound_s < float("inf") else "-",
        format_bytes(peak) if peak else "-",
        format_minutes(held_s) if held_s else "-",
    ]
