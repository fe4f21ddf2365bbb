# SPDX-License-Identifier: MIT
"""Builds under a real limit while everything goes wrong that memguard must survive, memguard beside stock.

Each seed is one disturbance of the same build: predictions wrong by a quarter to four times, and some of these, at
random times: a neighbour that takes and frees memory, a limit that moves, compilers killed by SIGKILL, a sentinel
killed by SIGKILL, a locked history, a full disk below MEMGUARD_DIR. Whatever happens, one job alone fits.

What must hold with memguard: the build succeeds; its outputs are those of a build that nobody disturbed; no object that
was finished is made again; the kernel kills nothing where memory was short for half a second before, unless the
sentinel was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from memguard.model import Policy
from memguard.units import MIB, format_bytes
from testbed import builddir
from testbed.bitbake import BitBake, BitBakeMissing, locate
from testbed.builddir import META_TEST
from testbed.container import Container, NoContainer, container

from .statistics import spread

REPOSITORY = Path(__file__).resolve().parents[2]
META_CHAOS = REPOSITORY / "tests" / "bitbake" / "meta-chaos"
RECIPES = ("chaos-make", "chaos-ninja", "chaos-python", "chaos-install")
# What a compiler takes (meta-chaos), the largest of them, and a server with its workers.
PER_JOB_MIB, LARGEST_MIB, BITBAKE_MIB = 140, 200, 300
LIMIT_MIB, LEAST_LIMIT_MIB = 1024, 704
NEIGHBOUR_MOST_MIB = LEAST_LIMIT_MIB - LARGEST_MIB - BITBAKE_MIB
DISTURBANCES = ("neighbour", "limit", "compiler", "sentinel", "history", "disk")
SAMPLE_S = 0.05
# The time in which memory is short before the reflex must have done something.
REFLEX_S = 0.5
TIMEOUT_S = 900.0

# Holds as many MiB as the last line of its input says.
_NEIGHBOUR = """
import sys
held = []
for line in sys.stdin:
    while len(held) > int(line):
        held.pop()
    while len(held) < int(line):
        held.append(bytearray(b"x" * 2**20))
"""


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
    outputs_differ: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether everything held that must."""
        is_hindered = bool({"sentinel", "history", "disk"} & set(self.disturbances))
        return (
            self.succeeded and not self.outputs_differ and not self.rebuilt and (is_hindered or not self.missed_kills)
        )


def main(arguments: list[str]) -> int:
    """Print a line for each build, and the sums; returns the exit status, 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="scripts/bench chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many disturbed builds of each")
    parser.add_argument("--first", type=int, default=1, help="the first seed: a build is repeated by its number")
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
                outcome = _build(bitbake, scratch / name, seed, name, expected, options.logs)
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
        f"{sum(len(outcome.outputs_differ) for outcome in outcomes)} outputs differ"
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
    bitbake: BitBake, directory: Path, seed: int, name: str, expected: dict[str, str], logs: Path | None
) -> Outcome:
    """One disturbed build, in a directory whose parse cache stays."""
    dice = random.Random(seed)
    chosen = [disturbance for disturbance in DISTURBANCES if dice.random() < 0.5]
    outcome = Outcome(seed, name, chosen)
    for left in ("tmp/work", "tmp/stamps"):
        shutil.rmtree(directory / left, ignore_errors=True)
    (directory / "chaos.log").unlink(missing_ok=True)
    ours = directory / "memguard"
    builddir.make(directory, [META_TEST, META_CHAOS, REPOSITORY / "meta-memguard"], _conf(name, seed, ours))
    with _own_disk(ours) if "disk" in chosen else contextlib.nullcontext():
        ours.mkdir(exist_ok=True)
        with container(LIMIT_MIB * MIB, "memguard-chaos") as box:
            chaos = Chaos(box, directory, chosen, dice)
            chaos.start()
            try:
                result = builddir.run(bitbake, directory, *RECIPES, prefix=box.prefix, timeout=TIMEOUT_S)
            finally:
                chaos.end()
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


@contextlib.contextmanager
def _own_disk(directory: Path) -> Iterator[None]:
    """A file system of 4 MiB at `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "memguard-chaos", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise NoContainer(f"no disk of its own can be mounted ({done.stderr.strip()}); run this as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


class Chaos(threading.Thread):
    """Disturbs one build until it is ended, and watches its memory. `dice` decides what happens when."""

    def __init__(self, box: Container, directory: Path, chosen: list[str], dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.missed_kills = 0
        # What was done and seen, with the time of day, for whoever must find out why something failed.
        self.story: list[str] = []
        self._box = box
        self._directory = directory
        self._ended = threading.Event()
        self._dice = dice
        # When each disturbance strikes, in seconds after the build's start; several have a next time.
        self._due_s = {name: dice.uniform(2, 12) for name in chosen}
        self._compilers_left = 2
        self._limit_bytes = LIMIT_MIB * MIB
        self._neighbour: subprocess.Popen[str] | None = None
        self._lock: sqlite3.Connection | None = None

    def end(self) -> None:
        """Stop, and leave nothing."""
        self._ended.set()
        self.join()
        if self._lock is not None:
            self._lock.close()
        if self._neighbour is not None:
            self._neighbour.kill()
            self._neighbour.communicate()

    def run(self) -> None:
        started_s = time.monotonic()
        short_since_s: float | None = None
        kills = 0
        while not self._ended.wait(SAMPLE_S):
            now_s = time.monotonic()
            reserve_bytes = Policy().reserve_of(self._limit_bytes)
            is_short = self._limit_bytes - self._box.used_bytes < reserve_bytes // 2
            now_kills = self._box.oom_kills
            if now_kills > kills:
                self._note(f"{now_kills - kills} kernel kills at {format_bytes(self._box.used_bytes)}")
            if now_kills > kills and short_since_s is not None and now_s - short_since_s >= REFLEX_S:
                self.missed_kills += now_kills - kills
            kills = now_kills
            short_since_s = (short_since_s or now_s) if is_short else None
            for name, due_s in list(self._due_s.items()):
                if now_s - started_s >= due_s:
                    del self._due_s[name]
                    pause_s = getattr(self, f"_strike_{name}")()
                    self._note(f"{name}, again in {pause_s:.1f} s")
                    if pause_s:
                        self._due_s[name] = now_s - started_s + pause_s

    def _note(self, what: str) -> None:
        self.story.append(f"{time.time():.2f} {what}, limit {format_bytes(self._limit_bytes)}")

    def _strike_neighbour(self) -> float:
        """Take, or free, memory inside the container."""
        if self._neighbour is None:
            self._neighbour = subprocess.Popen(
                [*self._box.prefix, sys.executable, "-S", "-c", _NEIGHBOUR], stdin=subprocess.PIPE, text=True
            )
        with contextlib.suppress(OSError):
            assert self._neighbour.stdin is not None
            self._neighbour.stdin.write(f"{self._dice.randint(0, NEIGHBOUR_MOST_MIB)}\n")
            self._neighbour.stdin.flush()
        return self._dice.uniform(0.5, 4)

    def _strike_limit(self) -> float:
        """Move the limit; the kernel refuses one that is below what is in use."""
        limit_bytes = self._dice.randint(LEAST_LIMIT_MIB, LIMIT_MIB) * MIB
        v1, v2 = self._box.directory / "memory.limit_in_bytes", self._box.directory / "memory.max"
        # Below what is used on v2 the kernel would kill at once, with no time for anybody.
        if v1.exists() or self._box.used_bytes < limit_bytes:
            with contextlib.suppress(OSError):
                if v1.exists() and limit_bytes > self._limit_bytes:
                    # Beside swap, the larger of the two comes first.
                    with contextlib.suppress(OSError):
                        (self._box.directory / "memory.memsw.limit_in_bytes").write_text(str(LIMIT_MIB * MIB))
                (v1 if v1.exists() else v2).write_text(str(limit_bytes))
                self._limit_bytes = limit_bytes
        return self._dice.uniform(2, 8)

    def _strike_compiler(self) -> float:
        """Kill a compiler that runs, if one does."""
        running = [pid for pid in self._pids() if _comm(pid) == "cc1"]
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._dice.choice(running), signal.SIGKILL)
            self._compilers_left -= 1
        return self._dice.uniform(1, 8) if self._compilers_left else 0.0

    def _strike_sentinel(self) -> float:
        """Kill the sentinel; try again while there is none."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"memguard.sentinel.process" in words:
                    os.kill(pid, signal.SIGKILL)
                    return 0.0
        return 1.0

    def _strike_history(self) -> float:
        """Lock the history, or let it go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            return self._dice.uniform(3, 8)
        database = self._directory / "memguard" / "history.db"
        with contextlib.suppress(sqlite3.Error):
            if database.exists():
                self._lock = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
                self._lock.execute("BEGIN EXCLUSIVE")
                return self._dice.uniform(2, 6)
        return 1.0

    def _strike_disk(self) -> float:
        """Fill the disk that memguard writes to, or make room."""
        filler = self._directory / "memguard" / "filler"
        if filler.exists():
            filler.unlink()
            return self._dice.uniform(3, 8)
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        return self._dice.uniform(3, 10)

    def _pids(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(pid) for pid in (self._box.directory / "cgroup.procs").read_text().split()]
        return []


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
