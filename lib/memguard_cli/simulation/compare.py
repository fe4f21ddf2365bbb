# SPDX-License-Identifier: MIT
"""Runs a build under several policies in several containers, and sums up what came of it.

Runs in: outside BitBake; pure but for the callback that tells of progress.
Covers: one summary per container and policy; memguard once per seed, each with other errors of its predictions.
Does not cover: the rules (policies), printing (simulate, plan).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from memguard.decide.chain import Chain
from memguard.decide.order import by_remaining_path, remaining_paths
from memguard.decide.pool_form import TASKS
from memguard.model import HISTORY_ORIGIN, Task
from memguard.model import Policy as Settings
from memguard.predict.durations import by_kind
from memguard_cli.simulation.beliefs import Beliefs
from memguard_cli.simulation.by_compiler import in_order
from memguard_cli.simulation.by_phase import MemguardByPhase
from memguard_cli.simulation.clairvoyant import SCHEDULES, best_schedule, lower_bound_s
from memguard_cli.simulation.engine import Container, Engine, Outcome, Policy
from memguard_cli.simulation.fewer_looks import FewerLooks
from memguard_cli.simulation.policies import OneHeavy, StaticCaps, Stock, TokenFloor, UsageGate
from memguard_cli.simulation.profiles import ERRORS, Error, misjudge, misjudge_duration
from memguard_cli.simulation.truth import KNOWN_ORIGIN, Truth

# Policies that know nothing of the tasks but their order.
RIVALS: dict[str, Callable[[Engine, Sequence[int]], Policy]] = {
    "stock": Stock,
    "usage-gate": UsageGate,
    "static-caps": StaticCaps,
    "one-heavy": OneHeavy,
    "token-floor": TokenFloor,
}
# memguard in a first build: BitBake's order, no durations, and footprints by kind.
COLD = "memguard-cold"
NAMES = ("memguard", COLD, *RIVALS, "clairvoyant")


@dataclass(frozen=True)
class Place:
    """A container to simulate in, with what memguard keeps free there."""

    container: Container
    settings: Settings

    @property
    def reserve_bytes(self) -> int:
        return self.settings.reserve_of(self.container.limit_bytes)


@dataclass(frozen=True)
class Summary:
    """What came of the runs of one policy in one container.

    bound_s:    what no schedule is shorter than.
    outcomes:   one per seed; rivals predict nothing, so theirs are all alike and there is one.
    """

    policy: str
    container: Container
    bound_s: float
    outcomes: tuple[Outcome, ...]

    @property
    def finished(self) -> float:
        """The share of runs that finished."""
        return sum(outcome.finished for outcome in self.outcomes) / len(self.outcomes)

    @property
    def makespan_s(self) -> float | None:
        """The median of those that finished, None where none did."""
        made = [outcome.makespan_s for outcome in self.outcomes if outcome.finished]
        return statistics.median(made) if made else None


def place_of(
    limit_bytes: int, cpus: int, threads: int | None, jobs: int | None, idle_bytes: int, reserve_bytes: int | None
) -> Place:
    """A container in which as many tasks of as many jobs run as there are CPUs, unless said otherwise."""
    container = Container(limit_bytes, cpus, threads or cpus, jobs or cpus, idle_bytes)
    return Place(container, Settings(limit_bytes=limit_bytes, reserve_bytes=reserve_bytes))


def simulate(truth: Truth, place: Place, policy: str, error: Error | None, seed: int) -> Outcome:
    """One run under the policy of that name. error: None for what predictions miss by in builds (see predict)."""
    engine = Engine(truth.graph, truth.profiles, place.container)
    order = truth.graph.stock_order()
    rival = RIVALS.get(policy)
    if rival is not None:
        return engine.run(rival(engine, order))
    is_first = policy == COLD or (error is None and not truth.known_durations)
    if is_first and engine.has_compilers:
        return engine.run(_first_by_compiler(engine, truth, place.settings))
    tasks = predict(truth, place.container.jobs, ERRORS["cold"] if policy == COLD else error, seed, not is_first)
    if is_first:
        return engine.run(MemguardByPhase(engine, order, tasks, place.settings, None))
    return run_known(engine, order, tasks, place, range(len(tasks)))


def _first_by_compiler(engine: Engine, truth: Truth, settings: Settings) -> FewerLooks:
    """memguard in a first build of single compilers, which thinks of each task as of its kind."""
    cpus = engine.container.cpus
    beliefs = Beliefs(truth.graph, lambda number: truth.kinds.get(number, ""), engine.container.jobs, {})
    seconds = {number: beliefs.seconds(number, cpus) for number in range(len(truth.graph))}
    order = in_order(engine, seconds, beliefs.__getitem__, settings, is_first=True)
    return FewerLooks(engine, order, beliefs, settings, None)


def run_known(
    engine: Engine, order: Sequence[int], tasks: Sequence[Task], place: Place, known: Collection[int]
) -> Outcome:
    """A build with memguard that knows how long its tasks take: the longest remaining path first, else BitBake's order.

    known: the tasks whose compilers were seen before. Raises Stuck.
    """
    seconds = expect_seconds(tasks, place.container.cpus)
    paths = remaining_paths(range(len(tasks)), engine.graph.depends.__getitem__, seconds)
    settings = place.settings
    chain = Chain(paths, seconds) if settings.gives_way else None
    if engine.has_compilers:
        order = in_order(engine, seconds, tasks.__getitem__, settings, is_first=False)
        return engine.run(FewerLooks(engine, order, tasks, settings, chain, known))
    return engine.run(MemguardByPhase(engine, by_remaining_path(order, paths), tasks, settings, chain))


def predict(truth: Truth, jobs: int, error: Error | None, seed: int, is_known: bool = True) -> list[Task]:
    """What memguard thinks of every task, with the errors of this seed.

    With error None that is as in builds: what was seen before is known as after three builds (warm); of what nobody
    has built there is the table's row, else the kind, as wrong as in a first build (cold), and no duration.
    """
    dice = random.Random(seed)
    tasks = []
    for number, (recipe, name) in enumerate(truth.graph.names):
        width = max((phase.width for phase in truth.profiles[number].phases), default=1)
        prior = truth.priors.get(number) if error is None else None
        usual = error or ERRORS["warm" if prior is None else "cold"]
        footprint = misjudge(truth.footprints[number], usual, dice)
        if truth.known_compilers and prior is None:
            # Whoever sees compilers counts without the margin.
            margin = max(0.0, usual.median - 1)
            footprint = replace(footprint, margin=margin, origin=HISTORY_ORIGIN)
        duration = misjudge_duration(truth.durations[number], usual, dice)
        if prior is not None and prior.origin == KNOWN_ORIGIN:
            footprint = prior
        wanted = jobs if width > 1 or (truth.known_compilers and name in TASKS) else 1
        has_duration = is_known and prior is None
        tasks.append(Task(str(number), "", recipe, name, footprint, wanted, duration if has_duration else None))
    return tasks


def expect_seconds(tasks: Sequence[Task], cpus: float) -> dict[int, float]:
    """How long each task takes with the jobs it wants and has CPUs for; of one that is not known, how long its kind."""
    return {
        number: (task.duration or by_kind(task.name)).seconds(max(1, min(task.wanted_jobs, int(cpus))))
        for number, task in enumerate(tasks)
    }


def compare(
    truth: Truth,
    places: Iterable[Place],
    policies: Sequence[str],
    error: Error | None,
    seeds: Sequence[int],
    tick: Callable[[], None] = lambda: None,
    schedules: int = SCHEDULES,
) -> Iterator[Summary]:
    """Every policy in every place. `tick` is called after each run (see count_runs)."""
    for place in places:
        bound_s = lower_bound_s(truth.graph, truth.profiles, place.container, place.reserve_bytes)
        for policy in policies:
            if policy == "clairvoyant":
                dice = random.Random(seeds[0])
                best = best_schedule(
                    truth.graph, truth.profiles, place.container, place.reserve_bytes, dice, schedules, tick
                )
                outcomes = [best] if best is not None else [Outcome(False, 0.0, 0.0, 0)]
            elif policy in RIVALS:
                outcomes = [simulate(truth, place, policy, error, seeds[0])]
                tick()
            else:
                outcomes = []
                for seed in seeds:
                    outcomes.append(simulate(truth, place, policy, error, seed))
                    tick()
            yield Summary(policy, place.container, bound_s, tuple(outcomes))


def count_runs(places: int, policies: Sequence[str], seeds: int, schedules: int = SCHEDULES) -> int:
    """How often compare() calls its `tick`."""
    runs = {"clairvoyant": schedules, **dict.fromkeys(RIVALS, 1)}
    return places * sum(runs.get(policy, seeds) for policy in policies)
