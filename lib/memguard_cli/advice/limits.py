# SPDX-License-Identifier: MIT
"""What limits a build that has ended: memory, CPUs, or one task after the other, in a sentence.

Runs in: outside BitBake; pure.
Covers: the shares of its time in which tasks waited for memory, CPUs were busy, and one task ran alone; what a little
more would have saved, by a simulation of the build, or where there is none a bound.
Does not cover: what to change (build), the simulation (simulation/again).
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass

from memguard.units import format_bytes, format_duration
from memguard_cli.advice.waiting import WAITING_SHARE, limits_needed, round_up, union_s
from memguard_cli.builds.record import BuildRecord
from memguard_cli.simulation.again import Gains, LivesOf, gains_of, no_lives

# CPUs that are busy for this share of the time limit a build; the rest is what its beginning and its end leave idle.
BUSY_SHARE = 0.8
# A build in which one task runs alone for this share of the time is a chain.
ALONE_SHARE = 0.4
# In a shorter build BitBake's own start is most of the time.
_LEAST_S = 30.0
# Less than this share of a build's time is not worth having, and within what builds differ by anyway.
WORTH_SHARE = 0.05


class By(enum.Enum):
    """What limits a build. UNKNOWN: it has not ended, or was short."""

    MEMORY = "memory"
    CPUS = "cpus"
    CHAIN = "chain"
    NOTHING = "nothing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Limits:
    """What limits a build, and that in words with what more of it would gain, "" where it is unknown."""

    by: By
    sentence: str


@dataclass(frozen=True)
class Shares:
    """Of a build's time: in which a task was held or stopped for memory, CPUs were busy, and one task ran alone.

    alone_name, alone_s: the task that ran alone for the longest, "" for none.
    busy: None where CPU times are not known.
    """

    memory: float
    busy: float | None
    alone: float
    alone_name: str
    alone_s: float


def shares(record: BuildRecord) -> Shares:
    """What the time of a build went by."""
    wall_s = max(record.wall_s, 1e-9)
    waits = [(span.begin_s, span.end_s) for run in record.runs for span in (*run.holds, *run.stops)]
    cpus = record.start.cpus if record.start else None
    cpu_s = sum(run.cpu_s or 0.0 for run in record.runs)
    alone = _alone(record)
    name, alone_s = alone.most_common(1)[0] if alone else ("", 0.0)
    return Shares(
        memory=min(1.0, union_s(waits) / wall_s),
        busy=min(1.0, cpu_s / (wall_s * cpus)) if cpus and cpu_s else None,
        alone=min(1.0, sum(alone.values()) / wall_s),
        alone_name=name,
        alone_s=alone_s,
    )


def find_limits(record: BuildRecord, lives: LivesOf = no_lives) -> Limits:
    """What limits the build, and what more of it would gain. lives: as of gains_of()."""
    if record.end is None or record.wall_s < _LEAST_S:
        return Limits(By.UNKNOWN, "")
    found, gains = shares(record), gains_of(record, lives)
    by = _by_shares(found) if gains is None else _by_gains(gains, found, record.wall_s)
    more = _bound(by, found, record) if gains is None else _gained(gains, record)
    return Limits(by, f"{_WORDS[by].format(**_facts(found))} {more}".strip())


_WORDS = {
    By.CPUS: "CPUs limit this build: its tasks used {busy} of their time.",
    By.MEMORY: "Memory limits this build: for {memory} of its time a task waited or was stopped for it.",
    By.CHAIN: (
        "One task after the other limits this build: for {alone} of its time a single one ran, {name} for the longest "
        "({seconds})."
    ),
    By.NOTHING: (
        "No single thing limits this build: its tasks used {busy} of the CPUs' time, they waited for memory for "
        "{memory} of it, and one ran alone for {alone}."
    ),
}


def _facts(found: Shares) -> dict[str, str]:
    return {
        "busy": "an unknown part" if found.busy is None else f"{100 * found.busy:.0f} %",
        "memory": f"{100 * found.memory:.0f} %",
        "alone": f"{100 * found.alone:.0f} %",
        "name": found.alone_name,
        "seconds": format_duration(found.alone_s),
    }


def _by_gains(gains: Gains, found: Shares, wall_s: float) -> By:
    """What more of it saves most, if that is worth having."""
    if max(gains.memory_s, gains.cpus_s) < WORTH_SHARE * wall_s:
        return By.CHAIN if found.alone >= ALONE_SHARE else By.NOTHING
    return By.CPUS if gains.cpus_s >= gains.memory_s else By.MEMORY


def _by_shares(found: Shares) -> By:
    if found.busy is not None and found.busy >= BUSY_SHARE:
        return By.CPUS
    if found.memory >= WAITING_SHARE:
        return By.MEMORY
    return By.CHAIN if found.alone >= ALONE_SHARE else By.NOTHING


def _gained(gains: Gains, record: BuildRecord) -> str:
    """What a little more would have saved, as simulated: without disks, so it is the most."""
    cpus = record.start.cpus if record.start and record.start.cpus else 0.0
    memory = f"{format_bytes(gains.limit_bytes)} of memory instead of {format_bytes(record.limit_bytes or 0)}"
    more = [(gains.cpus_s, f"{gains.cpus} CPUs instead of {cpus:g}"), (gains.memory_s, memory)]
    (first_s, first), (second_s, second) = sorted(more, reverse=True)
    least_s = WORTH_SHARE * record.wall_s
    if first_s < least_s:
        return f"In a simulation of it neither {first} nor {second} saves more than {format_duration(least_s)}."
    rest = f"at most about {format_duration(second_s)}" if second_s >= least_s else "next to nothing"
    return f"In a simulation of it {first} would save at most about {format_duration(first_s)}, {second} {rest}."


def _bound(by: By, found: Shares, record: BuildRecord) -> str:
    """What more cannot save more than, where nothing is simulated."""
    if by is By.CPUS:
        half = format_duration(record.wall_s / 2)
        return f"Twice as many would save at most {half}; more memory would gain next to nothing."
    if by is By.MEMORY:
        saved = format_duration(found.memory * record.wall_s)
        enough = _enough(record)
        return f"{f'A limit of about {enough}' if enough else 'More'} would save at most {saved}."
    if by is By.CHAIN:
        return "More memory would gain nothing, and more CPUs only where that task has jobs for them."
    return ""


def _enough(record: BuildRecord) -> str:
    """The limit with which nothing would have waited, in words; "" where that is not known, or was there."""
    needed = limits_needed(record)
    if not needed or record.limit_bytes is None or needed[-1][0] <= record.limit_bytes:
        return ""
    return round_up(needed[-1][0])


def _alone(record: BuildRecord) -> Counter[str]:
    """Seconds in which each task ran with no other beside it."""
    ran = [run for run in record.runs if run.began_s is not None]
    steps = [(run.began_s or 0.0, 1, place) for place, run in enumerate(ran)]
    steps += [(run.ended_s if run.ended_s is not None else record.ended_s, -1, place) for place, run in enumerate(ran)]
    found: Counter[str] = Counter()
    running: set[int] = set()
    before_s = 0.0
    for time_s, step, place in sorted(steps):
        if len(running) == 1:
            (one,) = running
            found[ran[one].name] += time_s - before_s  # type: ignore[assignment]
        running.add(place) if step > 0 else running.discard(place)
        before_s = time_s
    return found
