# SPDX-License-Identifier: MIT
"""The demo: one build under one memory limit, first stock, which is killed, then with memguard, which finishes.

Run by scripts/demo. Exit status: 0 memguard's run succeeded without a kernel OOM kill, 1 it did not, 2 no memory
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

from memguard.units import GIB, format_bytes, parse_bytes

from . import builddir
from .bitbake import BitBake, BitBakeMissing, locate
from .container import Container, NoContainer, container
from .events import read_events

REPOSITORY = Path(__file__).resolve().parents[2]
META_HEAVY = REPOSITORY / "tests" / "bitbake" / "meta-heavy"
META_MEMGUARD = REPOSITORY / "meta-memguard"
TARGET = "heavy-image"
# A stock build that neither ends nor dies crawls at the limit; it is ended then, as a CI job would be.
TIMES_S = {"stock": 100, "memguard": 600}

# What a CI pod's configuration says: as many tasks and compilers as the node seemed to allow.
STOCK_CONF = """\
BB_NUMBER_THREADS = "4"
PARALLEL_MAKE = "-j 4"
"""
# One line switches it on. The two footprints are what an owner of these recipes knows of them; the third heavy recipe
# is left to the default for its kind.
MEMGUARD_CONF = (
    STOCK_CONF
    + """\
INHERIT += "memguard"
MEMGUARD_FOOTPRINT:pn-heavy-make = "do_compile:base=64M,per_job=640M"
MEMGUARD_FOOTPRINT:pn-heavy-cmake = "do_compile:base=64M,per_job=640M"
"""
)


@dataclass(frozen=True)
class Run:
    """What one of the two builds did."""

    name: str
    succeeded: bool
    oom_kills: int
    peak_bytes: int
    wall_s: float
    held: int
    shrunk: int


def main(arguments: list[str]) -> int:
    """Run both builds and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result as JSON, too")
    parser.add_argument("--limit", default="2G", help="memory limit of the container (default: 2G)")
    parser.add_argument("--keep", action="store_true", help="keep the build directories and say where they are")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        limit = parse_bytes(options.limit)
    except ValueError:
        parser.error(f"--limit {options.limit}: not a size; a good value is 2G")
    if limit < GIB:
        parser.error(f"--limit {options.limit}: one compiler of this build takes 0.6 GiB; a good value is 2G")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its directory does not exist; a good value is demo.json")
    scratch = Path(tempfile.mkdtemp(prefix="memguard-demo-"))
    try:
        bitbake = locate()
        _warm_up(console, scratch)
        console.print(f"{bitbake}; 4 tasks of -j 4, compiling Boost.Spirit with g++")
        console.print(f"limit {format_bytes(limit)}; as in a Kubernetes pod, one OOM kill ends the whole container")
        runs = [
            _build(console, bitbake, scratch, "stock", STOCK_CONF, limit),
            _build(console, bitbake, scratch, "memguard", MEMGUARD_CONF, limit),
        ]
    except (NoContainer, BitBakeMissing) as missing:
        print(f"scripts/demo: {missing}", file=sys.stderr)
        return 2
    finally:
        if options.keep:
            console.print(f"build directories in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    console.print(_table(runs, limit))
    if options.json:
        result = {"bitbake": str(bitbake), "limit_bytes": limit, "runs": [asdict(run) for run in runs]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if runs[1].succeeded and runs[1].oom_kills == 0 else 1


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
    build = builddir.make(scratch / name, [builddir.META_TEST, META_HEAVY, META_MEMGUARD], conf)
    log = scratch / f"{name}.log"
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
    gone = (": events in", "more of this build:", " tasks remembered in")
    lines = [line for line in output.splitlines() if "memguard: " in line and not any(word in line for word in gone)]
    killed = [line.strip() for line in output.splitlines() if re.search(r"Killed|signal 9|exit code 137", line)]
    failed = [line for line in output.splitlines() if line.startswith("ERROR: Task (") or "Summary: There" in line]
    return lines + killed[:3] + failed[:3]


def _table(runs: list[Run], limit: int) -> Table:
    table = Table(title=f"The same build, the same limit of {format_bytes(limit)}")
    for heading in ("", "outcome", "OOM kills", "peak", "wall time", "held", "shrunk"):
        table.add_column(heading, justify="left" if heading in ("", "outcome") else "right")
    for run in runs:
        table.add_row(
            run.name,
            "succeeded" if run.succeeded else "failed" if run.oom_kills else "stalled",
            str(run.oom_kills),
            f"{format_bytes(run.peak_bytes)}, {100 * run.peak_bytes // limit} %",
            f"{run.wall_s:.0f} s",
            str(run.held),
            str(run.shrunk),
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
