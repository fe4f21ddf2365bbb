# SPDX-License-Identifier: MIT
"""The demo: one build under one memory limit: stock, which is killed, with memguard, and again with what it learned.

Run by scripts/demo. Exit status: 0 memguard's runs succeeded without a kernel OOM kill, 1 they did not, 2 no memory
cgroup can be made here or an argument is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from memguard.model import HISTORY_ORIGIN
from memguard.units import GIB, MIB, format_bytes, parse_bytes

from . import builddir
from .bitbake import BitBake, BitBakeMissing, locate
from .container import Container, NoContainer, clean_up_on_signals, container
from .events import read_events, read_readings

REPOSITORY = Path(__file__).resolve().parents[2]
META_HEAVY = REPOSITORY / "tests" / "bitbake" / "meta-heavy"
META_MEMGUARD = REPOSITORY / "meta-memguard"
TARGET = "heavy-image"
# A stock build that neither ends nor dies crawls at the limit; it is ended then, as a CI job would be.
TIMES_S = {"stock": 100, "memguard": 600, "memguard again": 600}

# What a CI pod's configuration says: as many tasks and compilers as the node seemed to allow.
STOCK_CONF = """\
BB_NUMBER_THREADS = "4"
PARALLEL_MAKE = "-j 4"
"""
# One line switches it on, and one keeps what is learned beyond the build directory.
MEMGUARD_CONF = (
    STOCK_CONF
    + """\
INHERIT += "memguard"
MEMGUARD_HISTORY = "{history}"
"""
)
# What an owner of these recipes knows of two of them; the third heavy recipe is left to the default for its kind. The
# next build does without: it knows all three from their runs.
FOOTPRINTS = """\
MEMGUARD_FOOTPRINT:pn-heavy-make = "do_compile:base=64M,per_job=640M"
MEMGUARD_FOOTPRINT:pn-heavy-cmake = "do_compile:base=64M,per_job=640M"
"""
# A task that takes less is no news of either build.
HEAVY_BYTES = 256 * MIB


@dataclass(frozen=True)
class Run:
    """What one of the builds did."""

    name: str
    succeeded: bool
    oom_kills: int
    peak_bytes: int
    wall_s: float
    held: int
    shrunk: int


def main(arguments: list[str]) -> int:
    """Run the builds and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result as JSON, too")
    parser.add_argument("--limit", default="2G", help="memory limit of the container (default: 2G)")
    parser.add_argument("--keep", action="store_true", help="keep the build directories and say where they are")
    options = parser.parse_args(arguments)
    # A log has room for the table in one piece.
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        limit = parse_bytes(options.limit)
    except ValueError:
        parser.error(f"--limit {options.limit}: not a size; a good value is 2G")
    if limit < GIB:
        parser.error(f"--limit {options.limit}: one compiler of this build takes 0.6 GiB; a good value is 2G")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its directory does not exist; a good value is demo.json")
    clean_up_on_signals()
    scratch = Path(tempfile.mkdtemp(prefix="memguard-demo-"))
    try:
        bitbake = locate()
        _warm_up(console, scratch)
        console.print(f"{bitbake}; 4 tasks of -j 4, compiling Boost.Spirit with g++")
        console.print(f"limit {format_bytes(limit)}; as in a Kubernetes pod, one OOM kill ends the whole container")
        conf = MEMGUARD_CONF.format(history=scratch / "history.db")
        runs = [
            _build(console, bitbake, scratch, "stock", STOCK_CONF, limit),
            _build(console, bitbake, scratch, "memguard", conf + FOOTPRINTS, limit),
            _build(console, bitbake, scratch, "memguard again", conf, limit),
        ]
        known = [_count_known(_place(scratch, run.name)) for run in runs]
    except (NoContainer, BitBakeMissing) as missing:
        print(f"scripts/demo: {missing}", file=sys.stderr)
        return 2
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    console.print(_table(runs, known, limit))
    for line in _next_steps(scratch if options.keep else None):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if options.json:
        result = {"bitbake": str(bitbake), "limit_bytes": limit, "runs": [asdict(run) for run in runs]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(run.succeeded and run.oom_kills == 0 for run in runs[1:]) else 1


def _place(scratch: Path, name: str) -> Path:
    """Where a build lies: no recipe expects a space in its path."""
    return scratch / name.replace(" ", "-")


def _warm_up(console: Console, scratch: Path) -> None:
    """Compile once outside any container, so that compiler and headers are cached at nobody's expense.

    Charged to the container, their pages would be evicted and read again without end once the compilers fill it: at its
    limit a cgroup may crawl like that for minutes before the kernel kills.
    """
    with console.status("compiling once, outside the container"):
        source = META_HEAVY / "recipes-heavy" / "heavy" / "files" / "part1.cpp"
        subprocess.run(["g++", "-O1", "-c", "-o", str(scratch / "part1.o"), str(source)], check=True)


def _build(console: Console, bitbake: BitBake, scratch: Path, name: str, conf: str, limit: int) -> Run:
    """One build in a fresh build directory inside a fresh container, which dies as a Kubernetes pod does."""
    build = builddir.make(_place(scratch, name), [builddir.META_TEST, META_HEAVY, META_MEMGUARD], conf)
    log = build.with_suffix(".log")
    with container(limit, "memguard-demo", dies_whole=True) as box:
        done = threading.Event()
        with console.status(f"{name}: starting") as status:
            follower = threading.Thread(target=_follow, args=(console, status, name, log, box, limit, done))
            follower.start()
            try:
                result = builddir.run(bitbake, build, TARGET, prefix=box.prefix, log=log, timeout=TIMES_S[name])
            finally:
                done.set()
                follower.join()
        totals = next((event for event in read_events(build) if event["event"] == "build_end"), {})
        run = Run(
            name=name,
            succeeded=result.returncode == 0,
            oom_kills=box.oom_kills,
            peak_bytes=box.peak_bytes,
            wall_s=round(result.wall_s, 1),
            held=totals.get("held", 0),
            shrunk=totals.get("shrunk", 0),
        )
    for line in _telling_lines(result.output):
        console.print(f"  {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
    return run


def _follow(
    console: Console, status: Status, name: str, log: Path, box: Container, limit: int, done: threading.Event
) -> None:
    """Show how far the build is; without a terminal, a plain line every few seconds."""
    started, last_line_s = time.monotonic(), 0.0
    while not done.wait(0.3):
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        tasks = re.findall(r"Running (?:noexec )?task (\d+ of \d+)", text)
        now_s = time.monotonic() - started
        line = (
            f"{name}: {now_s:3.0f} s, task {tasks[-1] if tasks else '-'}, memory {format_bytes(box.used_bytes)} of "
            f"{format_bytes(limit)}, {box.oom_kills} OOM kills"
        )
        status.update(line)
        if not console.is_terminal and now_s - last_line_s >= 5:
            last_line_s = now_s
            console.print(line, highlight=False)


def _telling_lines(output: str) -> list[str]:
    """The lines of a build's output that say what happened."""
    # Events and history go with the build directory.
    gone = (": events in", "more of this build:", " remembered in ")
    lines = [line for line in output.splitlines() if "memguard: " in line and not any(word in line for word in gone)]
    killed = [line.strip() for line in output.splitlines() if re.search(r"Killed|signal 9|exit code 137", line)]
    failed = [line for line in output.splitlines() if line.startswith("ERROR: Task (") or "Summary: There" in line]
    return lines + killed[:3] + failed[:3]


def _count_known(build: Path) -> str:
    """Of how many of the heavy tasks the build knew from runs of their own what they take; "-" without memguard."""
    peaks = {(event["recipe"], event["task"]): event["peak_bytes"] or 0 for event in read_readings(build)}
    granted = [event for event in read_events(build) if event["event"] == "grant"]
    heavy = [event for event in granted if peaks.get((event["recipe"], event["task"]), 0) >= HEAVY_BYTES]
    return f"{sum(event['origin'] == HISTORY_ORIGIN for event in heavy)} of {len(heavy)}" if granted else "-"


def _next_steps(kept: Path | None) -> list[str]:
    """What to do after the demo, with the build directories that were kept."""
    build = f"{kept}/memguard-again" if kept else "BUILD-DIRECTORY"
    first = f"the builds are in {kept}" if kept else "scripts/demo --keep keeps the build directories, for these:"
    return [
        f"Next: {first}",
        f"  scripts/memguard report {build}    one page on what the build did with its memory",
        f"  scripts/memguard top {build}       the same while a build runs",
        f"In a build of yours: bitbake-layers add-layer {META_MEMGUARD}",
        '  and INHERIT += "memguard" in conf/local.conf; docs/install.md has other ways.',
    ]


def _table(runs: list[Run], known: list[str], limit: int) -> Table:
    table = Table(title=f"The same build, the same limit of {format_bytes(limit)}")
    for heading in ("", "outcome", "OOM kills", "peak", "wall time", "held", "shrunk", "known from runs"):
        table.add_column(heading, justify="left" if heading in ("", "outcome") else "right")
    for run, heavy_known in zip(runs, known):
        table.add_row(
            run.name,
            "succeeded" if run.succeeded else "failed" if run.oom_kills else "stalled",
            str(run.oom_kills),
            f"{format_bytes(run.peak_bytes)}, {100 * run.peak_bytes // limit} %",
            f"{run.wall_s:.0f} s",
            str(run.held),
            str(run.shrunk),
            heavy_known,
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
