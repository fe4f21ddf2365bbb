# SPDX-License-Identifier: MIT
"""Real builds of OE-core recipes under a memory limit: memguard's first, second and third, beside stock without one.

Nineteen native recipes from their own sources, offline (tests/testbed/oe_bed.py). In each round, one after the other:

free    stock without a limit, 2 tasks at once of -j 2: the reference
stock   stock under the limit, 4 tasks of -j 8; only with --stock
first   memguard under the limit, 4 tasks of -j 8, without a history
second  the same with the history of the first
third   the same with the history of both

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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memguard.units import MIB, format_bytes, parse_bytes
from testbed.checkouts import NotHere
from testbed.container import NoContainer
from testbed.oe_bed import RECIPES, Bed, Built, ParseFailed, Setting, bed

from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
# The bed stays with the virtual environment, as the BitBake of the tests does.
BED = REPOSITORY / ".venv" / "oe-bed"
LIMIT = "1536M"
FREE = Setting(is_guarded=False, limit_bytes=None, threads=2, jobs=2)
CROWDED = Setting(is_guarded=False, limit_bytes=parse_bytes(LIMIT), threads=4, jobs=8)
GUARDED = replace(CROWDED, is_guarded=True)
# What is built, in this order.
KINDS = {"free": FREE, "stock": CROWDED, "first": GUARDED, "second": GUARDED, "third": GUARDED}


@dataclass(frozen=True)
class Row:
    """One build of one kind."""

    round: int
    kind: str
    built: Built

    @property
    def idle_s(self) -> float | None:
        """CPU seconds that idled although a held task would have fit; None where nobody says."""
        return self.built.account.idle_s if self.built.account else None


def main(arguments: list[str]) -> int:
    """Print a line for each build, and the table; returns the exit status: 1 where memguard missed, 2 without a bed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench oe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bed", metavar="DIR", type=Path, default=BED, help="where the bed is, or is made")
    parser.add_argument("--repeats", metavar="N", type=_count, default=3, help="rounds (default: 3)")
    parser.add_argument("--limit", type=_size, default=parse_bytes(LIMIT), help=f"of memory (default: {LIMIT})")
    parser.add_argument("--recipes", type=_recipes, default=list(RECIPES), help=f"fewer of {','.join(RECIPES)}")
    parser.add_argument("--stock", action="store_true", help="build stock under the limit, too")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what every build came to as JSON, too")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no directory {options.json.parent}")
    # Whatever ends this ends with no cgroup left; a shell's background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds = [kind for kind in KINDS if kind != "stock" or options.stock]
    rows: list[Row] = []
    try:
        with bed(options.bed, options.recipes) as made:
            _measure(made, kinds, options, rows)
    except (NotHere, NoContainer) as missing:
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
            print_table(kinds, rows)
        if options.json and rows:
            options.json.write_text(json.dumps([_as_data(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    missed = find_missed(rows)
    print("\nmissed: " + ("; ".join(missed) or "none"))
    return 1 if missed else 0


def _measure(made: Bed, kinds: Sequence[str], options: argparse.Namespace, rows: list[Row]) -> None:
    """Build each kind, round by round, and add what each build came to."""
    print(
        f"{made.bitbake.name}, {made.oe.name}; {len(made.recipes)} recipes; limit {format_bytes(options.limit)}; "
        f"{len(os.sched_getaffinity(0))} CPUs; {options.repeats} rounds of {', '.join(kinds)}",
        flush=True,
    )
    for setting in (FREE, GUARDED):
        made.parse(setting)
    for number in range(1, options.repeats + 1):
        made.forget_history()
        for kind in kinds:
            setting = KINDS[kind]
            if setting.limit_bytes is not None:
                setting = replace(setting, limit_bytes=options.limit)
            row = Row(number, kind, made.build(f"{number}-{kind}", setting))
            rows.append(row)
            print(_line(row), flush=True)
            if kind == "free" and not row.built.is_built:
                # Nothing stood in its way: what follows would fail for the same reason.
                raise SystemExit(f"the build without a limit failed; {row.built.log} says why")


def _line(row: Row) -> str:
    built, account = row.built, row.built.account
    words = [
        f"round {row.round}, {row.kind}: {'built' if built.is_built else 'NOT BUILT'}, {built.wall_s:.1f} s wall",
        f"{built.cpu_s:.1f} s CPU",
        f"peak {built.peak_bytes / MIB:.0f} MiB",
        f"{built.kernel_kills} killed by the kernel",
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


def print_table(kinds: Sequence[str], rows: Sequence[Row]) -> None:
    """One line for each kind. Seconds are of builds that succeeded; peaks, kills and idle CPUs of all."""
    walls = [row.built.wall_s for row in rows if row.kind == "free" and row.built.is_built]
    reference_s = statistics.median(walls) if walls else None
    headings = ("", "built", "wall, s", "x free", "CPU, s", "peak, MiB", "kernel kills", "memguard's", "idle, s")
    table = [headings]
    for kind in kinds:
        mine = [row for row in rows if row.kind == kind]
        if not mine:
            continue
        well = [row.built for row in mine if row.built.is_built]
        accounts = [row.built.account for row in mine if row.built.account]
        ratios = [built.wall_s / reference_s for built in well] if reference_s else []
        table.append(
            (
                kind,
                f"{len(well)} of {len(mine)}",
                _spread([built.wall_s for built in well], 1),
                _spread(ratios, 2),
                _spread([built.cpu_s for built in well], 1),
                _spread([row.built.peak_bytes / MIB for row in mine], 0),
                str(sum(row.built.kernel_kills for row in mine)),
                str(sum(account.killed for account in accounts)) if accounts else "-",
                _spread([row.idle_s for row in mine if row.idle_s is not None], 1),
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
        name = f"round {row.round}, {row.kind}"
        missed += [] if row.built.is_built else [f"{name}: not built ({row.built.log})"]
        missed += [f"{name}: {row.built.kernel_kills} killed by the kernel"] if row.built.kernel_kills else []
        missed += [f"{name}: {row.built.account.faults} faults"] if row.built.account.faults else []
    return missed


def _as_data(row: Row) -> dict[str, Any]:
    return {"round": row.round, "kind": row.kind, **asdict(row.built)}


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


def _known(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(RECIPES):
        raise ValueError(text)
    return names


_count = _checked(_positive, "not a number of rounds; a good value is 3")
_size = _checked(parse_bytes, f"not a size; a good value is {LIMIT}")
_recipes = _checked(_known, f"none but {','.join(RECIPES)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
