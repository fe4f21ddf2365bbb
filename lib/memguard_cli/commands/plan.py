# SPDX-License-Identifier: MIT
"""`memguard plan`: which container a build needs, what a smaller one costs in time, and how many fit on a cluster.

Runs in: outside BitBake.
Covers: arguments; how much of a build is known; JSON; the size that is written into a manifest.
Does not cover: the simulation itself (simulation.planning and below), tables and the picture (screens), the manifest's
text (cluster.manifest).
"""

from __future__ import annotations

import itertools
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from memguard.settings import LEAST_LIMIT_BYTES
from memguard.units import GIB, parse_bytes
from memguard_cli.builds import history_file
from memguard_cli.builds.plain_file import write_whole
from memguard_cli.cluster.manifest import Manifest, Room, room_words
from memguard_cli.commands.options import history_option
from memguard_cli.commands.simulate import parse_cpus, parse_limits, progress, write_json
from memguard_cli.errors import lacking
from memguard_cli.screens.plan import show, show_nodes
from memguard_cli.screens.text import format_minutes
from memguard_cli.simulation.graph import Graph, GraphError
from memguard_cli.simulation.nodes import Node, Row, Shape, best_of, fill, parse_nodes, shapes_of
from memguard_cli.simulation.planning import make_plan
from memguard_cli.simulation.plans import Plan, Point, within
from memguard_cli.simulation.scenario import LARGEST_BYTES, MOST_SEEDS
from memguard_cli.simulation.truth import Known, Truth, chains_of, find_truth, read_source

# Sizes between a limit and twice it.
STEPS_PER_DOUBLING = 4
CPUS = "4,8,16"
MOST_BUILDS = 100_000
_TIME = re.compile(r"(?=\d)(?:(\d{1,4}(?:\.\d+)?)h)?(?:(\d{1,6}(?:\.\d+)?)(?:m|min))?")


@dataclass(frozen=True)
class Build:
    """One build with its plans. names: what it was read from; unknown: recipes that nobody has built."""

    name: str
    names: tuple[str, ...]
    truth: Truth
    unknown: tuple[str, ...]
    plans: tuple[Plan, ...]


@click.command(
    epilog="Examples: memguard plan task-depends.dot --history history.db --cpus 4,8,16 --limits 8G..128G; "
    "memguard plan task-depends.dot --manifest build-job.yml --choose 90m; "
    "memguard plan minimal.dot sato.dot --nodes 4x64G/16 --builds 20"
)
@click.argument("sources", metavar="[GRAPH|HISTORY]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--cpus", metavar="N[,...]", help=f"Numbers of CPUs; else the manifest's, else {CPUS}.")
@click.option(
    "--limits",
    default="4G..128G",
    show_default=True,
    metavar="SIZE..SIZE",
    help="Limits to try, or a list: 8G,16G.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_SEEDS),
    default=3,
    show_default=True,
    metavar="N",
    help="Runs at each limit; each draws anew what is not known, and by how much predictions miss.",
)
@click.option(
    "--nodes",
    metavar="NxSIZE/CPUS[,...]",
    help="Say how many builds run at once on these nodes, such as 4x64G/16: what pods may use of each.",
)
@click.option(
    "--builds",
    type=click.IntRange(1, MOST_BUILDS),
    metavar="N",
    help="With --nodes: say when this many builds are done, one of each graph in turn.",
)
@click.option(
    "--manifest", metavar="FILE", help="Write the chosen container into the Job in FILE; -: from stdin to stdout."
)
@click.option(
    "--choose",
    show_default="knee",
    metavar="smallest|knee|TIME",
    help="The container for --manifest; with a TIME such as 90m or 1h30m, the smallest that is never slower.",
)
@click.option("--container", metavar="NAME", help="The manifest's container; else its default, or its only one.")
@click.option("--patch", metavar="FILE", help="Leave the manifest as it is; write a patch for its suspended Job.")
@click.option("--json", "json_file", metavar="FILE", help="Write all numbers to FILE, - for standard output, no table.")
@click.option("--picture", metavar="FILE", help="Draw time over memory into FILE.svg or FILE.png (needs matplotlib).")
@history_option
def plan(
    sources: tuple[Path, ...],
    cpus: str | None,
    limits: str,
    seeds: int,
    nodes: str | None,
    builds: int | None,
    manifest: str | None,
    choose: str | None,
    container: str | None,
    patch: str | None,
    json_file: str | None,
    picture: str | None,
    file: str | None,
) -> int:
    """Say which memory limit a build needs, for each number of CPUs, and how long it then takes.

    GRAPH is the task-depends.dot that `bitbake -g IMAGE` writes; what its tasks take comes from the history. With a
    history, or a directory of buildstats, instead of a graph the tasks in it are planned, as chains of their recipes.
    """
    check_picture(picture, len(sources))
    check_places(sources, manifest, patch, json_file, picture)
    there = _read_nodes(nodes, builds)
    job = _read_manifest(manifest, {"--choose": choose, "--container": container, "--patch": patch}, sources)
    choose = choose or "knee"
    sizes = parse_range(limits)
    numbers = sorted(set(parse_cpus(cpus or _cpus_of(job))))
    most_s = parse_choice(choose, numbers) if job is not None else None
    read = [read_build(source, file) for source in sources or (None,)]
    with progress(len(read) * len(numbers) * len(sizes) * (seeds + 1)) as tick:
        found = []
        for name, (graph, known, names) in zip(_names_of(read), read):
            truths = [find_truth(graph, known, (), random.Random(seed)) for seed in range(seeds)]
            plans = tuple(make_plan(truths, number, sizes, tick) for number in numbers)
            unknown = sorted({recipe for recipe, _ in graph.names} - {recipe for recipe, _ in known})
            found.append(Build(name, tuple(names), truths[0], tuple(unknown), plans))
    # Of each build.
    rows = [[fill(shape, there) for shape in shapes_of(build.name, build.plans)] for build in found] if there else []
    is_piped = "-" in (json_file, patch) or (manifest == "-" and patch is None)
    if json_file is not None:
        write_json(as_data(found, rows), json_file)
    if picture is not None:
        draw_picture(found[0].plans, picture)
    if not is_piped:
        for build in found:
            show(build.plans, build.truth, build.names, build.unknown)
        if there:
            show_nodes(list(itertools.chain(*rows)), _best(found, rows), there, builds)
    if job is not None and manifest is not None:
        chosen, point = pick(found[0].plans, choose, most_s)
        room = Room(chosen.cpus, point.limit_bytes, keeps_cpus=cpus is None and job.cpus is not None)
        _write_manifest(job, manifest, patch, room, point)
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
    sizes = {least, most}
    for step in range(math.ceil(STEPS_PER_DOUBLING * math.log2(most / least)) + 1):
        size = least * 2 ** (step / STEPS_PER_DOUBLING)
        sizes.add(round(size / GIB) * GIB if size >= 4 * GIB else int(size))
    return tuple(sorted(size for size in sizes if least <= size <= most))


def parse_choice(text: str, numbers: Sequence[int]) -> float | None:
    """The seconds that "90m" or "1h30m" allows, None for the words smallest and knee. Raises UsageError."""
    if text in ("smallest", "knee"):
        if len(numbers) > 1:
            raise click.UsageError(f"--choose {text}: of one number of CPUs, as --cpus 8; a time chooses among several")
        return None
    found = _TIME.fullmatch(text)
    if found is None or not any(found.groups()):
        raise click.UsageError(f"--choose {text!r}: neither smallest nor knee nor a time; a good time is 90m or 1h30m")
    return 3600 * float(found[1] or 0) + 60 * float(found[2] or 0)


def pick(plans: Sequence[Plan], choice: str, most_s: float | None) -> tuple[Plan, Point]:
    """The container of that choice. Raises UsageError where there is none."""
    if most_s is not None:
        picked = within(plans, most_s)
        if picked is None:
            raise click.UsageError(f"--choose {choice}: no container that was tried is as fast; try more --cpus")
        return picked
    point = plans[0].smallest if choice == "smallest" else plans[0].knee
    if point is None:
        raise click.UsageError("no limit that was tried is enough; --limits tries others, as 64G..256G")
    return plans[0], point


def _read_nodes(text: str | None, builds: int | None) -> tuple[Node, ...]:
    if text is None:
        if builds is not None:
            raise click.UsageError("--builds is for --nodes; a good one is --nodes 4x64G/16")
        return ()
    try:
        return parse_nodes(text)
    except ValueError:
        raise click.UsageError(f"--nodes {text!r}: no nodes; good ones are 4x64G/16,128G/32") from None


def _read_manifest(name: str | None, others: Mapping[str, str | None], sources: Sequence[Path]) -> Manifest | None:
    """others: options that are for a manifest."""
    if name is None:
        for option, value in others.items():
            if value is not None:
                raise click.UsageError(f"{option} is for --manifest; a good one is --manifest build-job.yml")
        return None
    if len(sources) > 1:
        raise click.UsageError("--manifest is for one build; give one graph, or none")
    try:
        # Bytes: the ends of lines stay as they are.
        given = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = given.decode("utf-8")
    except OSError as error:
        raise click.UsageError(f"--manifest {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"--manifest {name} is not text in UTF-8") from None
    return Manifest(text, others["--container"])


def _cpus_of(job: Manifest | None) -> str:
    cpus = None if job is None else job.cpus
    return CPUS if cpus is None else str(cpus)


def _write_manifest(job: Manifest, name: str, patch: str | None, room: Room, point: Point) -> None:
    """Write the manifest, or the patch, and say on standard error what it asks for."""
    text, target = (job.resized(room), name) if patch is None else (job.patch(room), patch)
    if target == "-":
        sys.stdout.write(text)
    else:
        try:
            write_whole(Path(target), [text])
        except OSError as error:
            raise click.UsageError(f"{target}: {error.strerror}") from None
    click.echo(f"{job.words}: {room_words(room)}, in which it takes {format_minutes(point.time_s or 0.0)}", err=True)
    for warning in job.warnings(room, patch is not None):
        click.echo(f"memguard: {warning}", err=True)


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
            raise click.UsageError(f"{path} is a graph, not a history")
        return graph, known, [str(source), str(path)]
    except GraphError as error:
        raise click.UsageError(str(error)) from None


def _name_of(graph: Graph, file: str) -> str:
    """What was asked of bitbake -g, where that is one recipe, else the file."""
    ends = {graph.names[task][0] for task, followers in enumerate(graph.followers) if not followers}
    return ends.pop() if len(ends) == 1 else Path(file).name


def _names_of(read: Sequence[tuple[Graph, Known, list[str]]]) -> list[str]:
    """A name for each build; where several are called the same, with the directory of its file."""
    names = [_name_of(graph, files[0]) for graph, _, files in read]
    times = Counter(names)
    return [
        name if times[name] == 1 else f"{name} in {Path(files[0]).parent}" for name, (_, _, files) in zip(names, read)
    ]


def _best(found: Sequence[Build], rows: Sequence[Sequence[Row]]) -> list[tuple[str, Shape | None]]:
    """Of each build its name and the container for the queue of all, None where none fits."""
    best = [best_of(of_build) for of_build in rows]
    return [(build.name, None if row is None else row.shape) for build, row in zip(found, best)]


def as_data(found: Sequence[Build], rows: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """All that was found, for machines: one build as an object, several as a list of them."""
    data = [
        {
            "name": build.name,
            "sources": list(build.names),
            "tasks": len(build.truth.graph),
            "known_durations": build.truth.known_durations,
            "known_footprints": build.truth.known_footprints,
            "footprints_in_table": build.truth.in_table,
            "known_compilers": build.truth.known_compilers,
            "is_first_build": not build.truth.known_durations,
            "unknown_recipes": list(build.unknown),
            "plans": [asdict(plan) for plan in build.plans],
        }
        for build in found
    ]
    whole: dict[str, Any] = data[0] if len(data) == 1 else {"builds": data}
    if rows:
        whole["nodes"] = [
            {**asdict(row.shape), "at_once": row.at_once, "an_hour": row.an_hour} for row in itertools.chain(*rows)
        ]
    return whole


def check_picture(picture: str | None, sources: int) -> None:
    """Raises UsageError for a picture of another kind, before anything is simulated."""
    if picture is not None and Path(picture).suffix not in (".svg", ".png"):
        raise click.UsageError(f"--picture {picture}: neither .svg nor .png; a good name is plan.svg")
    if picture is not None and sources > 1:
        raise click.UsageError("--picture shows one build; give one graph, or none")


def check_places(
    sources: Sequence[Path], manifest: str | None, patch: str | None, json_file: str | None, picture: str | None
) -> None:
    """Raises UsageError where two things would be written to one place, or one over what is read."""
    written = {"--manifest": manifest, "--patch": patch, "--json": json_file, "--picture": picture}
    if manifest == "-" and patch is not None:
        del written["--manifest"]  # it is only read, from standard input
    taken = {str(source.resolve()): "what is planned" for source in sources}
    for option, name in written.items():
        if name is None:
            continue
        place = name if name == "-" else str(Path(name).resolve())
        if place in taken:
            both = "standard output" if name == "-" else name
            raise click.UsageError(f"{taken[place]} and {option} are both {both}; give each a file of its own")
        taken[place] = option


def draw_picture(plans: Sequence[Plan], picture: str) -> None:
    """Raises UsageError where it cannot be drawn or written."""
    try:
        from memguard_cli.screens.plan_picture import draw
    except ImportError:
        raise click.UsageError(lacking("--picture", "matplotlib")) from None
    try:
        draw(plans, Path(picture))
    except OSError as error:
        raise click.UsageError(f"--picture {picture}: {error.strerror}") from None
