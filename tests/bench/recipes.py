# SPDX-License-Identifier: MIT
"""Generated recipes whose memory is known: what `bench predict` judges predictions by.

The parameters were chosen from sources before any method was measured, and are not to be tuned to the methods:
- sizes: largest processes of heavy compiles in published buildstats have a log-normal spread of 0.74 (55 tasks, median
  536 MiB); ordinary recipes lie lower, so the median of a job here is 200 MiB with a spread of 0.8.
- a typical job to the largest: 0.41 to 0.69 in four published figures (webkitgtk, circt, qtwebengine, flang).
- noise: which compilers meet at the peak differs from run to run (4 % in a simulated make of 60 units, see `fleet`);
  one process alone repeats within 2 % (cmake-native, gcc-runtime, perl, vala on two hosts differ by 1 to 3 %).
- versions: the same task in two releases differs by a log-normal spread of 0.26, half of them by less than 7 %.
- grants: some machines always give all jobs; others give what fits, powers of two here.
- outcomes: one run in ten does not end well; what is measured of it is less than it would have taken.
- CPU time goes with the work: a light build takes as much less of it as of memory, and it varies by 10 %.

Of some builds it is told what an oracle would reserve, who knows all that drives the recipe and its version, and not
how the dice fall: whether this build is light, its noise, how far a new version is from the last. It reserves what one
such build in fifty exceeds; nobody who does not know more can reserve less and be exceeded as seldom.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from memguard.model import Footprint, Outcome, Record
from memguard.predict.kinds import by_kind
from memguard.units import MIB

KINDS_OF_BUILD = (frozenset({"cmake"}), frozenset({"autotools"}), frozenset({"cargo"}), frozenset({"go"}))
UNITS = 60
ORACLE_DRAWS = 100
ORACLE_ABOVE = 2  # of so many draws lie at or above what it reserves, so one more exceeds it with 2 in 101


@dataclass(frozen=True)
class Run:
    """One build of a recipe: what was recorded, what it takes undisturbed, and what an oracle would have reserved.

    The last two are None where that is not known.
    """

    record: Record
    true_bytes: int | None
    oracle_bytes: int | None = None


@dataclass(frozen=True)
class Series:
    """The builds of one task in order, and what was thought of it before the first.

    kind: of which kind it was taken to be, "" where that was not asked.
    """

    name: str
    prior: Footprint
    runs: tuple[Run, ...]
    kind: str = ""


@dataclass
class Truth:
    """What drives one generated recipe; sizes in MiB."""

    base: float
    per_job: float
    serial: float
    noise: float = 0.04
    outliers: float = 0.0
    upgrades: float = 0.05
    light_share: float = 1.0
    light_chance: float = 0.0
    units: tuple[float, ...] = ()


def _size(dice: random.Random) -> float:
    return 200 * dice.lognormvariate(0, 0.8)


def _linear(dice: random.Random) -> Truth:
    per_job = _size(dice)
    return Truth(dice.uniform(64, 256), per_job, 0)


def _serial(dice: random.Random) -> Truth:
    per_job = _size(dice)
    return Truth(dice.uniform(64, 256), per_job, per_job * dice.uniform(4, 12))


def _noisy(dice: random.Random) -> Truth:
    per_job = _size(dice)
    return Truth(dice.uniform(64, 256), per_job, per_job * dice.uniform(1, 2.5), noise=0.12, outliers=0.02)


def _drifting(dice: random.Random) -> Truth:
    per_job = _size(dice)
    return Truth(dice.uniform(64, 256), per_job, per_job * dice.uniform(1, 2.5), upgrades=0.25)


def _bimodal(dice: random.Random) -> Truth:
    per_job = _size(dice)
    share, chance = dice.uniform(0.3, 0.7), dice.uniform(0.3, 0.7)
    return Truth(dice.uniform(64, 256), per_job, per_job * dice.uniform(1, 2.5), light_share=share, light_chance=chance)


def _fleet(dice: random.Random) -> Truth:
    mean = _size(dice)
    units = tuple(mean * dice.lognormvariate(-0.125, 0.5) for _ in range(UNITS))
    return Truth(dice.uniform(64, 256), mean, mean * dice.uniform(1, 8), units=units)


def _few(dice: random.Random) -> Truth:
    mean = _size(dice)
    units = tuple(mean * dice.lognormvariate(-0.125, 0.5) for _ in range(dice.randint(2, 12)))
    return Truth(dice.uniform(64, 256), mean, mean * dice.uniform(1, 2.5), units=units)


# "fleet" is no formula: a make that runs units of its own sizes one after another, with a link at its end. "few" is
# the same of 2 to 12 units, often fewer than there are jobs.
# No parameter of the method was chosen by looking at it, nor on seeds below 101.
CLASSES: dict[str, Callable[[random.Random], Truth]] = {
    "linear": _linear,
    "serial": _serial,
    "noisy": _noisy,
    "drifting": _drifting,
    "bimodal": _bimodal,
    "fleet": _fleet,
    "few": _few,
}

HELD_OUT = "fleet"


def generate(name: str, count: int, builds: int, seed: int, oracle_builds: Collection[int] = ()) -> Iterator[Series]:
    """`count` series of the class `name`, each of `builds` builds; the same for the same seed.

    oracle_builds: those of which it is told what the oracle would have reserved.
    """
    for number in range(count):
        dice = random.Random(f"{seed} {name} {number}")
        truth = CLASSES[name](dice)
        prior = _prior(truth, dice)
        # Another dice, so that what is thrown beside changes no recipe.
        beside = random.Random(f"beside {seed} {name} {number}")
        yield Series(f"{name}-{number}", prior, tuple(_builds(truth, builds, dice, beside, oracle_builds)))


def _prior(truth: Truth, dice: random.Random) -> Footprint:
    """A row of the table, off by what such rows are, or the default of a kind that knows nothing of the recipe."""
    if dice.random() < 0.5:
        return by_kind("do_compile", dice.choice(KINDS_OF_BUILD))
    per_job = truth.per_job * dice.lognormvariate(0, 0.4)
    serial = max(truth.serial, truth.per_job) * dice.lognormvariate(0, 0.3)
    return Footprint(64 * MIB, int(per_job * MIB), int(serial * MIB), "known")


def _builds(
    truth: Truth, builds: int, dice: random.Random, beside: random.Random, oracle_builds: Collection[int]
) -> Iterator[Run]:
    most = dice.choice((4, 8, 16))
    is_always_the_same = dice.random() < 0.4
    grants = [jobs for jobs in (1, 2, 4, 8, 16) if jobs <= most]
    tells_processes = dice.random() < 0.8  # what was imported tells of the largest process only
    median_share = dice.uniform(0.75, 1.0)
    version, scale = [1, 0], 1.0
    for build in range(builds):
        last_scale, step = scale, 0.0
        if dice.random() < truth.upgrades:
            is_major = dice.random() < 1 / 3
            version = [version[0] + 1, 0] if is_major else [version[0], version[1] + 1]
            step = 0.26 if is_major else 0.03
            scale *= dice.lognormvariate(0, step)
        jobs = most if is_always_the_same or dice.random() < 0.5 else dice.choice(grants)
        share = truth.light_share if dice.random() < truth.light_chance else 1.0
        size = scale * share
        true, largest, serial = _run(truth, jobs, dice)
        if dice.random() < truth.outliers:
            true *= dice.uniform(1.3, 1.8)
        outcome, seen = _end(dice)
        per_job = size * truth.per_job * median_share * dice.lognormvariate(0, 0.05)
        peak = int(size * true * seen * MIB)
        record = Record(
            build=f"b{build}",
            recipe="generated",
            version=".".join(map(str, version)),
            task="do_compile",
            machine="",
            jobs=jobs,
            peak_bytes=peak,
            largest_process_bytes=min(peak, int(size * largest * MIB)),
            wall_s=60.0,
            cpu_s=60.0 * share * beside.lognormvariate(0, 0.1),
            outcome=outcome,
            per_job_bytes=int(per_job * MIB) if tells_processes and jobs > 1 else None,
            serial_bytes=min(peak, int(size * serial * MIB)) if tells_processes else None,
        )
        oracle = _ask_oracle(truth, last_scale, step, jobs, beside) if build in oracle_builds else None
        yield Run(record, int(size * true * MIB), oracle)


def _ask_oracle(truth: Truth, scale: float, step: float, jobs: int, dice: random.Random) -> int:
    """What one build in fifty exceeds, of a version that is a spread of `step` from one of size `scale`."""
    draws = []
    for _ in range(ORACLE_DRAWS):
        share = truth.light_share if dice.random() < truth.light_chance else 1.0
        peak, _, _ = _run(truth, jobs, dice)
        if dice.random() < truth.outliers:
            peak *= dice.uniform(1.3, 1.8)
        draws.append(scale * dice.lognormvariate(0, step) * share * peak)
    return int(sorted(draws)[-ORACLE_ABOVE] * MIB)


def _run(truth: Truth, jobs: int, dice: random.Random) -> tuple[float, float, float]:
    """Peak, largest process and serial peak of one undisturbed run, in MiB."""
    if truth.units:
        return _make(truth, jobs, dice)
    noise = dice.lognormvariate(0, truth.noise)
    parallel = (truth.base + truth.per_job * jobs) * noise
    largest = max(truth.serial, truth.per_job * dice.uniform(1, 1.1)) * dice.lognormvariate(0, 0.02)
    alone = largest + truth.base if jobs == 1 else truth.base + largest * dice.uniform(0.5, 1)
    if truth.serial > truth.per_job:
        alone = largest
    peak = max(parallel, largest)
    return peak, min(peak, largest), peak if jobs == 1 else min(peak, alone)


def _make(truth: Truth, jobs: int, dice: random.Random) -> tuple[float, float, float]:
    """A make of units in order, each as long as it is large give or take a tenth, and the link when all are done."""
    ends: list[tuple[float, float]] = []
    now = used = peak = 0.0
    for unit in truth.units:
        if len(ends) == jobs:
            now, size = heapq.heappop(ends)
            used -= size
        heapq.heappush(ends, (now + unit * dice.lognormvariate(0, 0.1), unit))
        used += unit
        peak = max(peak, used)
    link = truth.serial * dice.lognormvariate(0, 0.02)
    last = max(unit for unit in truth.units[-1:])
    serial = truth.base + max(link, last if jobs > 1 else peak)
    return truth.base + max(peak, link), max(link, *truth.units), serial


def _end(dice: random.Random) -> tuple[Outcome, float]:
    """How a run ends, and the share of its memory that is seen of it."""
    chance = dice.random()
    if chance < 0.06:
        return Outcome.THROTTLED, dice.uniform(0.6, 1)
    if chance < 0.09:
        return Outcome.FAILED, dice.uniform(0.1, 1)
    if chance < 0.10:
        return Outcome.MEMORY_KILL, dice.uniform(0.5, 1)
    return Outcome.OK, 1.0
