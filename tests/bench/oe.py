# SPDX-License-Identifier: MIT
"""Real builds of OE-core recipes under a memory limit: memguard's first, second and third, beside stock without one.

Nineteen native recipes from their own sources, offline (tests/testbed/oe_bed.py). In each round, one after the other:

free     stock without a limit, 2 tasks at once of -j 2: the reference
first    memguard under the limit, 4 tasks of -j 8, without a history
second   the same with the history of the first
third    the same with the history of both

and where --builds names them:

stock    stock under the limit, 4 tasks of -j 8
crowded  stock without a limit, 4 tasks of -j 8: the reference of the next one
roomy    memguard without a limit, 4 tasks of -j 8, without a history
unparked as first, with MEMGUARD_PARKING at off

With --swap the containers may swap to compressed memory. With --forced the last build, which has to be one of
memguard's, is followed by `-c compile -f` of all recipes: predictions may move by less than 5 %.

Nothing else should run on the machine. The first run of all prepares the bed, which takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memguard.units import MIB, format_bytes, parse_bytes
from testbed.checkouts import NotHere
from testbed.container import NoContainer
from testbed.oe_bed import MISSING, RECIPES, Bed, Built, Kind, ParseFailed, Setting, bed
from testbed.oe_host import NINJA
from testbed.zram import NoSwap, zram

from . import forced
from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
# The bed stays with the virtual environment, as the BitBake of the tests does.
BED = REPOSITORY / ".venv" / "oe-bed"
LIMIT = "1536M"


@dataclass(frozen=True)
class Build:
    """How one build of a round runs. over: the one its wall time is a multiple of; is_first: it has no history."""

    setting: Setting
    over: str = "free"
    is_first: bool = False


_CROWDED = Setting(is_guarded=False, limit_bytes=None, threads=4, jobs=8)
_GUARDED = replace(_CROWDED, is_guarded=True, limit_bytes=parse_bytes(LIMIT))
BUILDS = {
    "free": Build(Setting(is_guarded=False, limit_bytes=None, threads=2, jobs=2)),
    "stock": Build(replace(_GUARDED, is_guarded=False)),
    "first": Build(_GUARDED, is_first=True),
    "second": Build(_GUARDED),
    "third": Build(_GUARDED),
    "crowded": Build(_CROWDED, over="crowded"),
    "unparked": Build(replace(_GUARDED, parks=False), is_first=True),
    "roomy": Build(replace(_CROWDED, is_guarded=True), over="crowded", is_first=True),
}
USUAL = ["free", "first", "second", "third"]


@dataclass(frozen=True)
class Row:
    """One of the builds of a round, and what it came to."""

    round: int
    name: str
    built: Built


def main(arguments: list[str]) -> int:
    """Print a line for each build, and the table; returns the exit status: 1 where memguard missed, 2 without a bed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench oe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bed", metavar="DIR", type=Path, default=BED, help="where the bed is, or is made")
    parser.add_argument("--repeats", metavar="N", type=_count, default=3, help="rounds (default: 3)")
    parser.add_argument("--limit", type=_size, default=parse_bytes(LIMIT), help=f"of memory (default: {LIMIT})")
    parser.add_argument("--builds", type=_builds, default=USUAL, help=f"in this order (default: {','.join(USUAL)})")
    parser.add_argument("--series", choices=MISSING, default="wrynose", help="of OE-core (default: wrynose)")
    parser.add_argument("--recipes", type=_recipes, default=list(RECIPES), help=f"fewer of {','.join(RECIPES)}")
    parser.add_argument("--gmock", action="store_true", help="with gmock's tests, whose largest compiler takes 1.4 GB")
    parser.add_argument("--ninja", metavar="VERSION", default=NINJA, help=f"another one than {NINJA}, as 1.11.1.4")
    parser.add_argument("--conf", metavar="LINE", action="append", default=[], help="one more line of local.conf")
    parser.add_argument(
        "--swap", type=_size, default=0, help="on zram, for each container with a limit (default: none)"
    )
    parser.add_argument("--forced", action="store_true", help="at the end do_compile again, with nothing to do")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what every build came to as JSON, too")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no directory {options.json.parent}")
    if options.forced and not BUILDS[options.builds[-1]].setting.is_guarded:
        parser.error(f"--forced: {options.builds[-1]} is stock, which predicts nothing; a good value is --builds first")
    # Whatever ends this ends with no cgroup left; a shell's background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    recipes = [recipe for recipe in options.recipes if recipe not in MISSING[options.series]]
    rows: list[Row] = []
    try:
        with contextlib.ExitStack() as closing:
            kind = Kind(options.series, recipes, options.ninja, options.gmock, options.conf)
            made = closing.enter_context(bed(options.bed, kind))
            if options.swap:
                closing.enter_context(zram(options.swap))
            _measure(made, options, rows)
    except (NotHere, NoContainer, NoSwap) as missing:
        print(f"scripts/bench oe: {missing}", file=sys.stderr)
        return 2
    except ParseFailed as failed:
        print(f"scripts/bench oe: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/bench oe: broken off; this is what was built until then", file=sys.stderr)
        return 130
    finally:
        if rows:
            print_table(options.builds, rows)
        if options.json and rows:
            options.json.write_text(json.dumps([_as_data(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    missed = find_missed(rows)
    print("\nmissed: " + ("; ".join(missed) or "none"))
    return 1 if missed else 0


def _measure(made: Bed, options: argparse.Namespace, rows: list[Row]) -> None:
    """Build each of the builds, round by round, and add what it came to."""
    print(
        f"{made.bitbake.name}, {made.oe.name}; {len(made.kind.recipes)} recipes; limit {format_bytes(options.limit)}, "
        f"swap {format_bytes(options.swap)}; "
        f"{len(os.sched_getaffinity(0))} CPUs; {options.repeats} rounds of {', '.join(options.builds)}",
        flush=True,
    )
    for is_guarded in sorted({BUILDS[name].setting.is_guarded for name in options.builds}):
        made.parse(next(build.setting for build in BUILDS.values() if build.setting.is_guarded == is_guarded))
    for number in range(1, options.repeats + 1):
        for name in options.builds:
            setting = BUILDS[name].setting
            if setting.limit_bytes is not None:
                setting = replace(setting, limit_bytes=options.limit, swap_bytes=options.swap)
            if BUILDS[name].is_first:
                made.forget_history()
            row = Row(number, name, made.build(f"{number}-{name}", setting))
            rows.append(row)
            print(_line(row), flush=True)
            if name == "free" and not row.built.is_built:
                # Nothing stood in its way: what follows would fail for the same reason.
                raise SystemExit(f"the build without a limit failed; {row.built.log} says why")
    if options.forced:
        print(forced.line(*forced.measure(made, setting)), flush=True)


def _line(row: Row) -> str:
    built, account = row.built, row.built.account
    words = [
        f"round {row.round}, {row.name}: {'built' if built.is_built else 'NOT BUILT'}, {built.wall_s:.1f} s wall",
        f"{built.cpu_s:.1f} s CPU",
        f"peak {built.peak_bytes / MIB:.0f} MiB",
        f"{built.kernel_kills} killed by the kernel",
        f"stood still for {built.still_s:.1f} s at most",
    ]
    if account:
        idle = "?" if account.idle_s is None else f"{account.idle_s:.1f}"
        words += [
            f"{account.killed} by memguard",
            f"{account.retried} retries",
            f"{account.stopped} stops",
            f"{account.held} holds",
            f"{idle} s idle",
        ]
        words += [f"{account.faults} FAULTS"] if account.faults else []
    return ", ".join(words)


def print_table(names: Sequence[str], rows: Sequence[Row]) -> None:
    """One line for each build. Seconds are of those that succeeded; peaks, kills, idle CPUs and standstills of all."""
    headings = (
        "",
        "built",
        "wall, s",
        "x",
        "of",
        "CPU, s",
        "busy, %",
        "peak, MiB",
        "kernel kills",
        "memguard's",
        "idle, s",
        "still, s",
    )
    table = [headings]
    cpus = len(os.sched_getaffinity(0))
    for name in names:
        mine = [row.built for row in rows if row.name == name]
        if not mine:
            continue
        walls = [built.wall_s for built in mine if built.is_built]
        over_s = [row.built.wall_s for row in rows if row.name == BUILDS[name].over and row.built.is_built]
        accounts = [built.account for built in mine if built.account]
        table.append(
            (
                name,
                f"{len(walls)} of {len(mine)}",
                _spread(walls, 1),
                _spread([wall_s / statistics.median(over_s) for wall_s in walls] if over_s else [], 2),
                BUILDS[name].over,
                _spread([built.cpu_s for built in mine if built.is_built], 1),
                _spread([100 * built.cpu_s / built.wall_s / cpus for built in mine if built.is_built], 0),
                _spread([built.peak_bytes / MIB for built in mine], 0),
                str(sum(built.kernel_kills for built in mine)),
                str(sum(account.killed for account in accounts)) if accounts else "-",
                _spread([account.idle_s for account in accounts if account.idle_s is not None], 1),
                _spread([built.still_s for built in mine], 1),
            )
        )
    widths = [max(len(cells[column]) for cells in table) for column in range(len(headings))]
    print("\nmedian (range); kills are sums")
    for cells in table:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)))


def _spread(values: Sequence[float], digits: int) -> str:
    return spread(values, digits=digits) if values else "-"


def find_missed(rows: Sequence[Row]) -> list[str]:
    """What memguard did not do that it must, in words."""
    missed = []
    for row in rows:
        if row.built.account is None:
            continue
        name = f"round {row.round}, {row.name}"
        missed += [] if row.built.is_built else [f"{name}: not built ({row.built.log})"]
        missed += [f"{name}: {row.built.kernel_kills} killed by the kernel"] if row.built.kernel_kills else []
        missed += [f"{name}: {row.built.account.faults} faults"] if row.built.account.faults else []
    return missed


def _as_data(row: Row) -> dict[str, Any]:
    return {"round": row.round, "build": row.name, **asdict(row.built)}


def _checked(parse: Callable[[str], Any], says: str) -> Callable[[str], Any]:
    """A type for argparse that says in words what it wants."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            return parse(text)
        raise argparse.ArgumentTypeError(f"{text}: {says}")

    return read


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads names of these, with commas between them."""

    def read(text: str) -> list[str]:
        if not set(text.split(",")) <= set(known):
            raise ValueError(text)
        return text.split(",")

    return read


_count = _checked(_positive, "not a number of rounds; a good value is 3")
_size = _checked(parse_bytes, f"not a size; a good value is {LIMIT}")
_recipes = _checked(_some_of(RECIPES), f"none but {','.join(RECIPES)}")
_builds = _checked(_some_of(BUILDS), f"none but {','.join(BUILDS)}; a good value is {','.join(USUAL)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
