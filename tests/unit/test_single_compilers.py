# SPDX-License-Identifier: MIT
"""Simulated builds of single compilers: sums done by hand, what a history knows, and looks that are left out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from memguard.decide.moment import Act
from memguard.model import Duration, Footprint, Outcome, Record
from memguard.predict.job_lives import Life
from memguard.predict.remembered_lives import Lives
from memguard.record.history.store import History
from memguard.units import GIB, MIB
from memguard_cli.simulation import compare
from memguard_cli.simulation.by_compiler import MemguardByCompiler
from memguard_cli.simulation.compare import place_of, simulate
from memguard_cli.simulation.engine import Container, Engine
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.policies import Stock
from memguard_cli.simulation.profiles import Phase, Profile, Unit, draw_compilers, units_of
from memguard_cli.simulation.running import PROCESS_BYTES
from memguard_cli.simulation.truth import Figures, Known, Truth, find_truth, read_source

# Ten seconds of one CPU, of which the size rises for five.
GROWS = Life(GIB, 10.0, 5.0)


def compiling(lives: Sequence[Life], base_bytes: int = 0) -> Profile:
    """A task of these compilers alone."""
    units = tuple(Unit(place, life) for place, life in enumerate(lives, start=1))
    return Profile((Phase(sum(life.wall_s for life in lives), len(lives), base_bytes, 0, units),))


def engine_of(profiles: Sequence[Profile], cpus: float, jobs: int, limit_bytes: int = 64 * GIB) -> Engine:
    """Tasks that wait for nothing."""
    names = tuple((f"r{place}", "do_compile") for place in range(len(profiles)))
    return Engine(Graph(names, ((),) * len(names)), profiles, Container(limit_bytes, cpus, len(profiles), jobs, 0))


def stock(engine: Engine) -> Stock:
    return Stock(engine, range(len(engine.graph)))


@pytest.mark.parametrize(
    ("compilers", "cpus", "jobs", "seconds"),
    [
        (1, 4, 4, 10.0),
        (4, 4, 4, 10.0),
        (4, 4, 2, 20.0),
        (4, 2, 4, 20.0),  # four share two CPUs
        (5, 4, 4, 20.0),  # the fifth begins when the others have ended
    ],
)
def test_compilers_share_cpus(compilers: int, cpus: int, jobs: int, seconds: float) -> None:
    """As many run as the task has jobs, each at the speed that CPUs leave it; the sums are done by hand."""
    engine = engine_of([compiling([GROWS] * compilers)], cpus, jobs)
    assert engine.run(stock(engine)).makespan_s == pytest.approx(seconds)


def test_compilers_hold_what_their_lives_say() -> None:
    """Two that begin at once have their peaks at once; one after the other they have one peak after the other."""
    for jobs, compilers in ((2, 2), (1, 1)):
        engine = engine_of([compiling([GROWS, GROWS], 30 * MIB)], 2, jobs)
        assert engine.run(stock(engine)).peak_bytes == 30 * MIB + compilers * (GIB + PROCESS_BYTES)


def test_a_build_is_lost_where_its_compilers_pass_the_limit() -> None:
    """Two of 1 GiB do not fit into 1.5; alone each does."""
    engine = engine_of([compiling([GROWS, GROWS])], 2, 2, 3 * GIB // 2)
    assert not engine.run(stock(engine)).finished
    engine = engine_of([compiling([GROWS, GROWS])], 2, 1, 3 * GIB // 2)
    assert engine.run(stock(engine)).finished


def test_a_task_that_waits_takes_its_share_of_a_cpu() -> None:
    """One that computes for half of its ten seconds leaves half of the CPU to another, which computes for five."""
    engine = engine_of([Profile((Phase(5.0, 1, 0, 0, share=0.5),)), Profile((Phase(5.0, 1, 0, 0),))], 1, 1)
    # Together they want 1.5 CPUs: the second has 2/3 of one and ends at 7.5 s, when the first has done 5 of its 10 s.
    assert engine.run(stock(engine)).makespan_s == pytest.approx(12.5)


def test_what_is_done_to_one_compiler() -> None:
    """One that is stopped holds what it held, and takes as long as it was stopped; one that is killed begins anew."""
    engine = engine_of([compiling([GROWS, GROWS])], 2, 2)

    class Acting(Stock):
        moments: Iterator[float] = iter((2.5, 7.5, 9.5))
        due_s: float | None = next(moments)

        def wakes_in_s(self) -> float | None:
            return None if self.due_s is None else max(0.0, self.due_s - engine.now_s)

        def before_time_passes(self) -> None:
            if self.due_s is None or engine.now_s < self.due_s:
                return
            first, *others = engine.runs[0].compilers
            if engine.now_s == 2.5:
                engine.compilers.signal(Act.STOP, others[0].target)
            elif engine.now_s == 7.5:
                assert engine.used_bytes == GIB + GIB // 2 + 2 * PROCESS_BYTES
                engine.compilers.signal(Act.WAKE, others[0].target)
                engine.compilers.signal(Act.KILL, first.target)
                assert engine.runs[0].is_halted
            else:
                engine.compilers.resume(0, 2, engine.now_s)
            self.due_s = next(self.moments, None)

    # The second ends at 15 s, the first begins again at 9.5 s.
    assert engine.run(Acting(engine, [0])).makespan_s == pytest.approx(19.5)


def test_what_runs_nothing_is_done_at_once() -> None:
    """Tasks without phases take no time and no thread, and what needs them goes on."""
    graph = Graph((("a", "do_build"), ("a", "do_compile")), ((), (0,)))
    engine = Engine(graph, [Profile(()), compiling([GROWS])], Container(GIB * 2, 1, 1, 1, 0))
    outcome = engine.run(Stock(engine, [0, 1]))
    assert outcome.finished
    assert outcome.makespan_s == pytest.approx(10.0)


def test_many_compilers_become_fewer_that_take_as_long_and_as_much() -> None:
    """The largest stay as they are; of the others some stand for several, one after the other."""
    dice = random.Random(1)
    lives = [Life(int(MIB * dice.uniform(10, 600)), dice.uniform(1, 20), 0.5) for _ in range(300)]
    units = [Unit(place, life) for place, life in enumerate(lives, start=1)]
    work_s = sum(life.wall_s for life in lives)
    drawn = draw_compilers(work_s, units, 64 * MIB, dice, most=40)
    (phase,) = (phase for phase in drawn.phases if phase.units)
    assert len(phase.units) == 40
    assert phase.work_s == pytest.approx(work_s)
    assert phase.peaks[:20] == tuple(sorted((life.peak_bytes for life in lives), reverse=True))[:20]
    held = sum(unit.life.mean_bytes * unit.life.wall_s for unit in phase.units)
    assert held == pytest.approx(sum(life.mean_bytes * life.wall_s for life in lives), rel=0.05)


def test_what_nobody_saw_of_a_compile_are_short_compilers() -> None:
    """All of its CPU time is there, whatever was seen of it."""
    profile = draw_compilers(60.0, units_of([GROWS], 60.0), 0, random.Random(1))
    assert profile.work_s == pytest.approx(60.0)
    assert profile.units == (Unit(1, GROWS),)
    assert sum(len(phase.units) for phase in profile.phases) > 100


def test_lives_that_shared_cpus_are_as_long_as_their_cpu_time() -> None:
    """Four of ten seconds in a task of twenty CPU seconds took twice as long as they computed."""
    assert [unit.life for unit in units_of([GROWS] * 4, 20.0)] == [Life(GIB, 5.0, 2.5)] * 4
    assert [unit.life for unit in units_of([GROWS], 20.0)] == [GROWS]


def known_build() -> tuple[Graph, Known]:
    """Six recipes, each configured and compiled; four compile eight files of C++ of up to 700 MiB."""
    names, depends, known, dice = [], [], {}, random.Random(3)
    for number in range(6):
        recipe = f"r{number}"
        names += [(recipe, "do_configure"), (recipe, "do_compile"), (recipe, "do_build")]
        depends += [(), (3 * number,), (3 * number + 1,)]
        known[recipe, "do_configure"] = Figures(Duration(4.0, 0.0, 3.0), Footprint(0, 0, 50 * MIB, "t"))
        sizes = [int(MIB * dice.uniform(200, 700)) for _ in range(8 if number < 4 else 0)]
        lives = [Life(size, dice.uniform(3, 12), 2.5) for size in sizes]
        cpu_s = sum(life.wall_s for life in lives) + 5.0
        footprint = Footprint(64 * MIB, 700 * MIB, 0, "t") if lives else Footprint(60 * MIB, 0, 60 * MIB, "t")
        known[recipe, "do_compile"] = Figures(
            Duration(5.0, cpu_s - 5.0, cpu_s), footprint, None, units_of(lives, cpu_s), 50 * MIB, "a build"
        )
    return Graph(tuple(names), tuple(depends)), known


@pytest.fixture
def truth() -> Truth:
    return find_truth(*known_build(), (), random.Random(0))


def test_a_task_that_a_built_recipe_never_ran_runs_nothing(truth: Truth) -> None:
    """A history has each task that ran, so what it does not have of a recipe is none."""
    assert truth.known_compilers == 4
    assert [name for name, profile in zip(truth.graph.names, truth.profiles) if not profile.phases] == [
        (f"r{number}", "do_build") for number in range(6)
    ]


@pytest.mark.parametrize("policy", ["memguard", "memguard-cold"])
def test_memguard_builds_what_stock_loses_and_wastes_little_time(truth: Truth, policy: str) -> None:
    """Four tasks of four jobs do not fit into 2 GiB; memguard keeps both CPUs busy there all the same."""
    where = place_of(2 * GIB, 2, 4, 4, 250 * MIB, None)
    assert not simulate(truth, where, "stock", None, 0).finished
    outcome = simulate(truth, where, policy, None, 0)
    assert outcome.finished
    assert outcome.peak_bytes <= 2 * GIB
    free = simulate(truth, place_of(64 * GIB, 2, 4, 4, 250 * MIB, None), "stock", None, 0)
    assert outcome.makespan_s < 1.25 * free.makespan_s


@pytest.mark.parametrize("limit_bytes", [3 * GIB // 2, 2 * GIB, 4 * GIB])
def test_looks_that_are_left_out_change_little(truth: Truth, limit_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes as long as with a sentinel that looks as often as a real one, give or take a tenth."""
    where = place_of(limit_bytes, 2, 4, 4, 250 * MIB, None)
    fewer = [simulate(truth, where, "memguard", None, seed) for seed in range(3)]
    monkeypatch.setattr(compare, "FewerLooks", MemguardByCompiler)
    every = [simulate(truth, where, "memguard", None, seed) for seed in range(3)]
    assert all(outcome.finished for outcome in (*fewer, *every))
    seconds = [sum(outcome.makespan_s for outcome in outcomes) for outcomes in (fewer, every)]
    assert seconds[0] == pytest.approx(seconds[1], rel=0.1)


def test_a_history_with_lives_gives_compilers(tmp_path: Path) -> None:
    """Their lives are scaled to the CPU time of the task; beside them is what make takes in a task of that kind."""
    history = History(tmp_path / "history.db", warn=pytest.fail)
    record = Record("1", "zlib", "1", "do_compile", "", 2, 900 * MIB, 512 * MIB, 30.0, 20.0, Outcome.OK)
    history.add([record, Record("1", "zlib", "1", "do_fetch", "", 1, None, 0, 1.0, 0.1, Outcome.OK)])
    lives = Lives()
    for unit in range(1, 5):
        lives.add(unit, Life(512 * MIB, 10.0, 4.0))
    history.remember_lives("zlib", "do_compile", lives.packed())
    history.close()
    _, known = read_source(tmp_path / "history.db")
    figures = known["zlib", "do_compile"]
    assert [unit.life.wall_s for unit in figures.units] == [pytest.approx(5.0)] * 4
    assert figures.base_bytes == 64 * MIB
    assert known["zlib", "do_fetch"].units == ()
