# SPDX-License-Identifier: MIT
"""A recorded build in a pod that grows while it builds, beside pods of one size: time won against memory asked for.

The build is that of bench replay. When, and for how much, the platform is asked is decided by the code that decides in
builds (decide/growth.py); the platform answers after some seconds, in steps, up to a most. What memory costs is the
limit over time: GiB x minutes that no neighbour can have. The patience of the decision is varied; so is the platform.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from unittest import mock

from memguard.decide import growth
from memguard.decide.growth import Growth
from memguard.decide.ledger import Ledger
from memguard.model import Policy
from memguard.units import GIB, format_bytes, parse_bytes
from memguard_cli.simulation.engine import Engine

from .oe import BUILDS
from .recording import read_recording
from .replay import RECORDED
from .replayed import Past, Replay, Replayed, ReplayedGuard

NAMES = ("first", "second")
# From the wish to a reading of the new limit: the command starts, the kubelet resizes, the server looks.
ANSWER_S = 5.0
PATIENCES_S = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True)
class Platform:
    """How a pod is resized. answer_s: seconds until the new limit is there; None for a platform that never does it."""

    least_bytes: int
    most_bytes: int
    step_bytes: int
    answer_s: float | None = ANSWER_S


@dataclass
class Pod:
    """One pod while it builds. asked: how often for more; byte_seconds: its limit, added up over time."""

    platform: Platform
    asked: int = 0
    byte_seconds: float = 0.0
    growth: Growth = field(default_factory=Growth)
    _coming: tuple[float, int] | None = None
    looked_s: float = 0.0

    def look(self, engine: Engine, ledger: Ledger) -> None:
        """Time has passed: take what was granted, and ask where it is time."""
        now_s, limit_bytes, platform = engine.now_s, engine.container.limit_bytes, self.platform
        self.byte_seconds += limit_bytes * (now_s - self.looked_s)
        self.looked_s = now_s
        if self._coming is not None and now_s >= self._coming[0]:
            limit_bytes, self._coming = self._coming[1], None
            engine.container = replace(engine.container, limit_bytes=limit_bytes)
        wish = self.growth.look(ledger, now_s)
        if wish is None or limit_bytes >= platform.most_bytes:
            return
        self.asked += 1
        if platform.answer_s is not None:
            steps = ceil(wish.wanted_bytes / platform.step_bytes)
            target = min(platform.most_bytes, limit_bytes + steps * platform.step_bytes)
            self._coming = (now_s + platform.answer_s, target)


class GrowingGuard(ReplayedGuard):
    """memguard's part of a build whose pod grows."""

    pod: Pod | None = None

    def choose(self) -> tuple[int, int] | None:
        """As in other builds; the server looks at what it wants, too."""
        chosen = super().choose()
        if chosen is None and self.pod is not None:
            self.pod.look(self.engine, self.ledger)
        return chosen


@dataclass(frozen=True)
class Row:
    """One build in one pod. gib_min: its limit over time."""

    build: Replayed
    last_bytes: int
    asked: int
    gib_min: float


@dataclass(frozen=True)
class Case:
    """What a pod is, and after how many seconds of idle CPUs more is asked for; None: never."""

    name: str
    platform: Platform
    patience_s: float | None


def main(arguments: list[str]) -> int:
    """Print a table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench grow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recording", metavar="FILE", type=Path, default=RECORDED, help="what to build again")
    parser.add_argument("--least", default="1G", help="what the pod begins with (default: 1G)")
    parser.add_argument("--most", default="2G", help="how far it may grow (default: 2G)")
    parser.add_argument("--step", default="256M", help="in steps of this (default: 256M)")
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="builds of each row (default: 5)")
    parser.add_argument("--processes", metavar="N", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    try:
        sizes = [parse_bytes(text) for text in (options.least, options.most, options.step)]
        recording = read_recording(options.recording)
    except (OSError, ValueError) as wrong:
        print(f"scripts/bench grow: {wrong}", file=sys.stderr)
        return 2
    cases = cases_of(*sizes)
    print(f"{recording.origin}; {format_bytes(sizes[0])} to {format_bytes(sizes[1])}, {options.seeds} seeds")
    print("| pod | build | built | wall, s (range) | x fixed | asked | at the end | GiB x min | x fixed |")
    print("|---|---|---|---|---|---|---|---|---|")
    tasks = [(options.recording, case, seed) for case in cases for seed in range(max(1, options.seeds))]
    fixed: list[list[Row]] = []
    with ProcessPoolExecutor(max(1, options.processes)) as pool:
        found = iter(pool.map(_build_all, tasks))
        for case in cases:
            seeds = [next(found) for _ in range(max(1, options.seeds))]
            builds = [list(rows) for rows in zip(*seeds)]
            fixed = fixed or builds
            for name, rows, base in zip(NAMES, builds, fixed):
                print(f"| {case.name} | {name} | {_line(rows, base)} |", flush=True)
    return 0


def cases_of(least_bytes: int, most_bytes: int, step_bytes: int) -> list[Case]:
    """Pods of one size, then those that grow."""
    half = (least_bytes + most_bytes) // 2
    cases = [
        Case(f"fixed, {format_bytes(size)}", Platform(size, size, step_bytes), None)
        for size in (least_bytes, half, most_bytes)
    ]
    grows = Platform(least_bytes, most_bytes, step_bytes)
    for patience_s in PATIENCES_S:
        note = ", as it is" if patience_s == growth.PATIENCE_S else ""
        cases.append(Case(f"grows after {patience_s:g} s{note}", grows, patience_s))
    slow, never = (Platform(least_bytes, most_bytes, step_bytes, answer_s) for answer_s in (60.0, None))
    own_s = growth.PATIENCE_S
    return [*cases, Case("the platform takes 60 s", slow, own_s), Case("the platform never does it", never, own_s)]


def _build_all(task: tuple[Path, Case, int]) -> list[Row]:
    return list(build_all(*task))


def build_all(file: Path, case: Case, seed: int) -> Iterator[Row]:
    """A first and a second build in pods of that case."""
    recording = read_recording(file)
    past = Past()
    patience_s = growth.PATIENCE_S if case.patience_s is None else case.patience_s
    with mock.patch.object(growth, "PATIENCE_S", patience_s):
        for number, name in enumerate(NAMES):
            setting = BUILDS[name].setting
            build = Replay(
                recording, case.platform.least_bytes, setting.threads, setting.jobs, seed=1000 * seed + number
            )
            guard = GrowingGuard(build.engine, recording, Policy(), past)
            pod = guard.pod = None if case.patience_s is None else Pod(case.platform)
            replayed = build.run(guard)
            # The pod is there before the first task and after the last, too.
            around_s = replayed.wall_s - (pod.looked_s if pod else 0.0)
            last_bytes = build.engine.container.limit_bytes
            held = (pod.byte_seconds if pod else 0.0) + last_bytes * around_s
            yield Row(replayed, last_bytes, pod.asked if pod else 0, held / GIB / 60)


def _line(rows: Sequence[Row], fixed: Sequence[Row]) -> str:
    """Medians of those that were built."""
    built, base = ([row for row in some if row.build.has_built] for some in (rows, fixed))
    share = f"{len(built)} of {len(rows)}"
    if not built:
        return f"{share} | | | | | |"
    walls = [row.build.wall_s for row in built]
    wall_s, gib_min = statistics.median(walls), statistics.median(row.gib_min for row in built)
    wall = f"{wall_s:.0f} ({min(walls):.0f} to {max(walls):.0f})"
    asked = statistics.median(row.asked for row in built)
    last = format_bytes(statistics.median(row.last_bytes for row in built))
    if not base:
        return f"{share} | {wall} | | {asked:g} | {last} | {gib_min:.2f} |"
    times = wall_s / statistics.median(row.build.wall_s for row in base)
    memory = gib_min / statistics.median(row.gib_min for row in base)
    return f"{share} | {wall} | {times:.2f} | {asked:g} | {last} | {gib_min:.2f} | {memory:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
