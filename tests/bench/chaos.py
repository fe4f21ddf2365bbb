# SPDX-License-Identifier: MIT
"""Builds under a real limit while everything goes wrong that memguard must survive, memguard beside stock.

Each seed is one disturbance of the same build: predictions wrong by a quarter to four times, and some of what
disturbances.py can do to it. Whatever happens, one job alone fits.

What must hold with memguard: the build succeeds; its outputs are those of a build that nobody disturbed; no object that
was finished is made again; no process of a task stays stopped while nothing else goes on, and none is left behind; the
kernel kills nothing where memory was short for half a second before, unless the sentinel was hindered.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from memguard.units import MIB, format_bytes
from testbed import builddir
from testbed.bitbake import BitBake, BitBakeMissing, locate
from testbed.builddir import META_TEST
from testbed.container import NoContainer, container
from testbed.liveness import LONGEST_S, watching

from .disturbances import (
    DISTURBANCES,
    HINDERING,
    LEAST_LIMIT_MIB,
    LIMIT_MIB,
    REFLEX_S,
    Chaos,
    choose,
    freezable_disk,
    own_disk,
    surroundings,
)
from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
META_CHAOS = REPOSITORY / "tests" / "bitbake" / "meta-chaos"
RECIPES = ("chaos-make", "chaos-ninja", "chaos-python", "chaos-install")
PER_JOB_MIB = 140
TIMEOUT_S = 900.0


@dataclass
class Outcome:
    """What became of one build under one seed."""

    seed: int
    name: str
    disturbances: list[str]
    succeeded: bool = False
    wall_s: float = 0.0
    kernel_kills: int = 0
    missed_kills: int = 0
    retries: int = 0
    sentinel_kills: int = 0
    begun: int = 0
    in_flight: int = 0
    rebuilt: int = 0
    stalled_s: float = 0.0
    left_behind: list[str] = field(default_factory=list)
    outputs_differ: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether everything held that must."""
        is_hindered = bool(HINDERING & set(self.disturbances))
        return (
            self.succeeded
            and not (self.outputs_differ or self.rebuilt or self.left_behind)
            and self.stalled_s <= LONGEST_S
            and (is_hindered or not self.missed_kills)
        )


def main(arguments: list[str]) -> int:
    """Print a line for each build, and the sums; returns the exit status, 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="scripts/bench chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many disturbed builds of each")
    parser.add_argument("--first", type=int, default=1, help="the first seed: a build is repeated by its number")
    parser.add_argument("--only", nargs="*", choices=DISTURBANCES, help="disturb by these, whatever the seed says")
    parser.add_argument("--no-stock", action="store_true", help="build with memguard only")
    parser.add_argument("--logs", metavar="DIRECTORY", type=Path, help="keep the logs of builds where something failed")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what every build did as JSON, too")
    options = parser.parse_args(arguments)
    scratch = Path(tempfile.mkdtemp(prefix="memguard-chaos-"))
    outcomes: list[Outcome] = []
    try:
        bitbake = locate()
        print(
            f"{bitbake}; limit {format_bytes(LIMIT_MIB * MIB)}, down to {format_bytes(LEAST_LIMIT_MIB * MIB)} where it "
            f"moves; {len(RECIPES)} recipes of 6 compilers, 4 tasks of -j 4",
            flush=True,
        )
        expected = _reference(bitbake, scratch / "reference")
        for seed in range(options.first, options.first + options.seeds):
            for name in ("memguard",) if options.no_stock else ("memguard", "stock"):
                outcome = _build(bitbake, scratch / name, seed, name, expected, options.logs, options.only)
                outcomes.append(outcome)
                print(_line(outcome), flush=True)
    except (NoContainer, BitBakeMissing) as missing:
        print(f"scripts/bench chaos: {missing}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if options.json and outcomes:
            options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    for name in ("memguard", "stock"):
        _sum_up(name, [outcome for outcome in outcomes if outcome.name == name])
    return 0 if all(outcome.holds for outcome in outcomes if outcome.name == "memguard") else 1


def _line(outcome: Outcome) -> str:
    verdict = "ok" if outcome.holds else "succeeded, BUT" if outcome.succeeded else "FAILED"
    return (
        f"seed {outcome.seed:3} {outcome.name:8} {verdict}: {outcome.wall_s:.0f} s; kills: {outcome.kernel_kills} of "
        f"the kernel's ({outcome.missed_kills} after {REFLEX_S:g} s), {outcome.sentinel_kills} of the sentinel's; "
        f"{outcome.retries} retries; compilers: {outcome.begun} begun, {outcome.in_flight} in flight when killed; "
        f"{outcome.rebuilt} finished objects made again; {len(outcome.outputs_differ)} outputs differ; "
        f"{outcome.stalled_s:.0f} s stood still; {len(outcome.left_behind)} processes left; "
        f"disturbed by: {' '.join(outcome.disturbances) or 'nobody'}" + (f"; {outcome.error}" if outcome.error else "")
    )


def _sum_up(name: str, outcomes: list[Outcome]) -> None:
    if not outcomes:
        return
    well = [outcome for outcome in outcomes if outcome.succeeded]
    print(
        f"\n{name}: {len(well)} of {len(outcomes)} builds succeeded, "
        f"{sum(outcome.holds for outcome in outcomes)} of them in every respect; "
        f"{sum(outcome.kernel_kills for outcome in outcomes)} kernel kills, "
        f"{sum(outcome.missed_kills for outcome in outcomes)} of them after {REFLEX_S:g} s of short memory; "
        f"{sum(outcome.retries for outcome in outcomes)} retries; "
        f"{sum(outcome.rebuilt for outcome in outcomes)} finished objects made again, "
        f"{sum(outcome.in_flight for outcome in outcomes)} in flight when killed; "
        f"{sum(len(outcome.outputs_differ) for outcome in outcomes)} outputs differ; "
        f"at most {max(outcome.stalled_s for outcome in outcomes):.0f} s stood still; "
        f"{sum(len(outcome.left_behind) for outcome in outcomes)} processes left behind"
    )
    if well:
        print(f"{name}: wall time of those that succeeded {spread([outcome.wall_s for outcome in well], ' s', 0)}")


def _conf(name: str, seed: int, directory: Path) -> str:
    """The configuration of one build; predictions are wrong by what the seed says."""
    conf = 'BB_NUMBER_THREADS = "4"\nPARALLEL_MAKE = "-j 4"\n'
    if name == "stock":
        return conf
    dice = random.Random(f"predictions {seed}")
    conf += f'INHERIT += "memguard"\nMEMGUARD_DIR = "{directory}"\n'
    for recipe in RECIPES:
        factor = 2 ** dice.uniform(-2, 2)
        footprint = f"base={int(16 * factor)}M,per_job={int(PER_JOB_MIB * factor)}M"
        conf += f'MEMGUARD_FOOTPRINT:pn-{recipe} = "do_compile:{footprint} do_install:{footprint}"\n'
    return conf


def _reference(bitbake: BitBake, directory: Path) -> dict[str, str]:
    """The outputs of a build that nobody disturbs."""
    builddir.make(directory, [META_TEST, META_CHAOS], _conf("stock", 0, directory))
    result = builddir.run(bitbake, directory, *RECIPES, timeout=TIMEOUT_S)
    if result.returncode:
        raise SystemExit(f"the undisturbed build failed:\n{result.output[-4000:]}")
    return _outputs(directory)


def _outputs(directory: Path) -> dict[str, str]:
    """Every object of a build by its path: a hash of its content."""
    work = directory / "tmp" / "work"
    objects = sorted(work.glob("*/*/image/*.o"))
    return {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in objects}


def _build(
    bitbake: BitBake,
    directory: Path,
    seed: int,
    name: str,
    expected: dict[str, str],
    logs: Path | None,
    only: list[str] | None,
) -> Outcome:
    """One disturbed build, in a directory whose parse cache stays."""
    dice = random.Random(seed)
    chosen = choose(dice) if only is None else list(only)
    outcome = Outcome(seed, name, chosen)
    for left in ("tmp/work", "tmp/stamps"):
        shutil.rmtree(directory / left, ignore_errors=True)
    (directory / "chaos.log").unlink(missing_ok=True)
    lock = directory / "chaos.log.lock"
    lock.unlink(missing_ok=True)
    ours = directory / "memguard"
    builddir.make(directory, [META_TEST, META_CHAOS, REPOSITORY / "meta-memguard"], _conf(name, seed, ours))
    if "lock" in chosen:
        lock.touch()
    disk = own_disk(ours) if "disk" in chosen else freezable_disk(ours) if "frozen" in chosen else None
    with disk or contextlib.nullcontext():
        ours.mkdir(exist_ok=True)
        with container(LIMIT_MIB * MIB, "memguard-chaos") as box:
            chaos = Chaos(box, directory, chosen, dice)
            chaos.start()
            prefix = (*box.prefix, *surroundings(chosen))
            try:
                with watching(lambda: box.pids) as liveness:
                    result = builddir.run(bitbake, directory, *RECIPES, prefix=prefix, timeout=TIMEOUT_S)
            finally:
                chaos.end()
            outcome.stalled_s, outcome.left_behind = round(liveness.longest_s, 1), list(result.leftover)
            outcome.kernel_kills, outcome.missed_kills = box.oom_kills, chaos.missed_kills
        kept = [path for path in ours.rglob("*.jsonl") if path.is_file()]
        records = {path.parent.name + ".jsonl": path.read_bytes() for path in kept}
    shutil.rmtree(ours, ignore_errors=True)
    outcome.succeeded = result.returncode == 0
    outcome.wall_s = round(result.wall_s, 1)
    outcome.retries = len(re.findall(r"WARNING: .*memguard: .*; runs again with", result.output))
    outcome.sentinel_kills = len(re.findall(r"WARNING: .*was killed for memory at .*; runs again with", result.output))
    outcome.begun, outcome.in_flight, outcome.rebuilt = _count(directory / "chaos.log")
    if outcome.succeeded:
        found = _outputs(directory)
        outcome.outputs_differ = sorted(
            path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)
        )
    else:
        errors = [line for line in result.output.splitlines() if line.startswith("ERROR") or "killed after" in line]
        outcome.error = " | ".join(errors[:2])[:300]
    if logs is not None and name == "memguard" and (outcome.missed_kills or not outcome.holds):
        _keep(logs / f"seed-{seed}", directory, result.output, chaos.story, records)
    return outcome


def _keep(kept: Path, directory: Path, output: str, story: list[str], records: dict[str, bytes]) -> None:
    """Keep what tells why something did not hold: BitBake's output, what was done to it, our logs, and the tasks'."""
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "output.txt").write_text(output, encoding="utf-8")
    (kept / "story.txt").write_text("\n".join(story) + "\n", encoding="utf-8")
    for name, content in records.items():
        (kept / name).write_bytes(content)
    for log in directory.glob("tmp/work/*/*/temp/log.do_*"):
        if not log.is_symlink():
            shutil.copy(log, kept / f"{log.parents[2].name}-{log.name}")


def _count(log: Path) -> tuple[int, int, int]:
    """Compilers that began; those that ended without an object, which was begun again; finished objects begun again."""
    begun, in_flight, rebuilt = 0, 0, 0
    finished: set[str] = set()
    open_now: set[str] = set()
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        what, _, name = line.partition(" ")
        if what == "end":
            open_now.discard(name)
            finished.add(name)
            continue
        begun += 1
        in_flight += name in open_now
        rebuilt += name in finished
        open_now.add(name)
    return begun, in_flight, rebuilt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
