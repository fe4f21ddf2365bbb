# SPDX-License-Identifier: MIT
"""A recorded build of real recipes, built again in simulated time, beside what the real builds took.

The ledger, the choice of the next task, the order, the predictions and the reflex are those of real builds; the tasks
and their compilers are those that were recorded (bench/recording.py), on CPUs that they share. A build takes seconds,
and the same each time, so rules are tried out here first; that it is like real builds is what this bench shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memguard.model import Policy
from memguard.units import GIB, MIB, format_bytes, parse_bytes

from .constants import BUILT, FACTORS, Result, find, read_constants, vary
from .oe import BUILDS
from .recording import Recording, read_recording
from .replayed import Past, Replay, Replayed, ReplayedGuard

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "bed" / "recording.json"
# In place of the name of a constant.
ALL = "all"
# What there is without a limit.
AMPLE_BYTES = 24 * GIB


# Those of bench oe, in this order.
NAMES = ("free", "crowded", "roomy", "stock", "first", "second", "third")


def replay_all(
    recording: Recording, limit_bytes: int, names: Sequence[str] = NAMES, seed: int = 0
) -> dict[str, Replayed]:
    """Replay these builds; each with memguard goes on with the history of the one before, unless it is to have none."""
    past = Past()
    found: dict[str, Replayed] = {}
    for name in names:
        setting, is_first = BUILDS[name].setting, BUILDS[name].is_first
        limit = AMPLE_BYTES if setting.limit_bytes is None else limit_bytes
        build = Replay(recording, limit, setting.threads, setting.jobs, seed=1000 * seed + len(found))
        past = Past() if is_first else past
        guard = ReplayedGuard(build.engine, recording, Policy(limit_bytes=limit), past) if setting.is_guarded else None
        found[name] = build.run(guard)
    return found


def main(arguments: list[str]) -> int:
    """Print a table of replayed and real builds, or what one constant makes of them; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recording", metavar="FILE", type=Path, default=RECORDED, help="what to build again")
    parser.add_argument("--real", metavar="FILE", type=Path, nargs="+", help="real builds: what bench oe --json wrote")
    parser.add_argument("--limit", default="1536M", help="of memory (default: 1536M)")
    parser.add_argument(
        "--vary", metavar="NAME", nargs="+", help=f"constants to try at half and double of their values ({ALL}: each)"
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="builds for each of these (default: 3)")
    options = parser.parse_args(arguments)
    try:
        recording, limit_bytes = read_recording(options.recording), parse_bytes(options.limit)
        real = [row for file in options.real or () for row in _read_real(file)]
    except (OSError, ValueError) as wrong:
        print(f"scripts/bench replay: {wrong}", file=sys.stderr)
        return 2
    if options.vary:
        return _vary(options.recording, limit_bytes, max(1, options.seeds), options.vary)
    compiled = sum(len(task.units) for task in recording.tasks)
    recorded_s = sum(task.cpu_s for task in recording.tasks)
    if real:
        # The same build takes more CPU seconds at one time than at another; that is not what is compared.
        recording = recording.slowed(statistics.median(row["cpu_s"] for row in real) / recorded_s)
    print(f"{recording.origin}; {len(recording.tasks)} tasks, {compiled} compilers; limit {format_bytes(limit_bytes)}")
    heading = f"{'':9}{'wall, s':>9}{'x free':>8}{'peak, MiB':>11}{'kernel':>8}{'killed':>8}{'stops':>7}{'held':>6}"
    beside = f"{'real wall, s':>14}{'off':>7}{'real peak':>11}{'off':>7}" if real else ""
    print(f"{heading}{'idle, s':>9}{beside}")
    found = replay_all(recording, limit_bytes)
    for name, replayed in found.items():
        print(_line(name, replayed, found["free"].wall_s, [row for row in real if row["build"] == name]))
    return 0


def _read_real(file: Path) -> list[dict[str, Any]]:
    """The builds in a file of bench oe that succeeded. Raises OSError, ValueError."""
    try:
        rows = [row for row in json.loads(file.read_text(encoding="utf-8")) if row["is_built"]]
        return [{key: row[key] for key in ("build", "wall_s", "cpu_s", "peak_bytes")} for row in rows]
    except (KeyError, TypeError, ValueError) as wrong:
        raise ValueError(f"{file}: not what scripts/bench oe --json FILE writes: {wrong!r}") from None


def _line(name: str, replayed: Replayed, free_s: float, real: Sequence[dict[str, Any]]) -> str:
    wall = f"{replayed.wall_s:9.1f}{replayed.wall_s / free_s:8.2f}" if replayed.has_built else f"{'-':>9}{'-':>8}"
    line = (
        f"{name:9}{wall}{replayed.peak_bytes / MIB:11.0f}{replayed.kernel_kills:8}{replayed.killed:8}"
        f"{replayed.stopped:7}{replayed.held:6}{replayed.idle_s:9.1f}"
    )
    if real and replayed.has_built:
        wall_s = statistics.median(row["wall_s"] for row in real)
        peak_bytes = statistics.median(row["peak_bytes"] for row in real)
        line += f"{wall_s:14.1f}{replayed.wall_s / wall_s - 1:+7.0%}"
        line += f"{peak_bytes / MIB:11.0f}{replayed.peak_bytes / peak_bytes - 1:+7.0%}"
    return line


def _vary(recording: Path, limit_bytes: int, seeds: int, names: Sequence[str]) -> int:
    """A table for each module, of its constants of these names."""
    known = read_constants()
    for name in names:
        if name != ALL and not find(known, name):
            print(f"scripts/bench replay: {name}: no constant of memguard; a good name is OVERCOMMIT", file=sys.stderr)
            return 2
    chosen = known if ALL in names else [constant for name in names for constant in find(known, name)]
    results = vary(chosen, limit_bytes, seeds, recording)
    _, _, base = next(results)
    if base is None or not all(map(all, base.wall_s)):
        print("scripts/bench replay: without another value the builds fail, too", file=sys.stderr)
        return 1
    print(f"As it is, over {seeds} seeds and with {format_bytes(limit_bytes)}: {_as_it_is(base)}.")
    module = ""
    for constant in chosen:
        cells = []
        for _ in FACTORS:
            _, _, result = next(results)
            cells.append(_difference(base, result))
            print(f"{constant.full_name}: {cells[-1]}", file=sys.stderr)
        if constant.module != module:
            module = constant.module
            print(f"\n## {module.partition('.')[2].replace('.', '/')}.py\n")
            print("| constant | value | half | double | evidence |")
            print("|---|---|---|---|---|")
        print(f"| `{constant.name}` | `{constant.value}` | {' | '.join(cells)} | {constant.evidence} |", flush=True)
    return 0


def _as_it_is(base: Result) -> str:
    """Seconds and kills of the builds with the constants as they are."""
    found = []
    for name, wall_s in zip(BUILT, zip(*base.wall_s)):
        seconds = [one for one in wall_s if one is not None]
        found.append(f"{name} {statistics.median(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f})")
    return f"{', '.join(found)}, {sum(map(sum, base.killed))} jobs killed by memguard"


def _difference(base: Result, result: Result | None) -> str:
    """What another value changes: seconds of each build in the median, and all jobs killed by memguard."""
    if result is None:
        return "an error"
    if result == base:
        return "same"
    found = []
    for name, before, after in zip(BUILT, zip(*base.wall_s), zip(*result.wall_s)):
        built = [one for one in after if one is not None]
        change = statistics.median(built) / statistics.median(before) - 1 if built else 0.0
        lost = "" if len(built) == len(after) else f", {len(built)} of {len(after)} built"
        found.append(f"{name} {change:+.0%}{lost}".replace("%", " %"))
    return f"{', '.join(found)}, {sum(map(sum, result.killed))} killed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
