# SPDX-License-Identifier: MIT
"""Time from a build's logs to a page that can be used, beside the plainest page with the same tasks.

The baseline is a table with a row for each task and no script, in the same browser in the same run, in turn.
"""

from __future__ import annotations

import argparse
import html
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser

from memguard.channels.build_directory import BuildDirectory
from memguard.units import MIB
from memguard_cli.advice.build import advise
from memguard_cli.advice.limits import find_limits
from memguard_cli.builds.assemble import read_build
from memguard_cli.builds.record import BuildRecord
from memguard_cli.report.page import render
from memguard_cli.report.words import Standing
from testbed import build_logs
from testbed.browser import DESKTOP, NoBrowser, browser

from .statistics import spread

TARGET_MIB, TARGET_S = 5, 2.0
# When what was loaded has been drawn: in the second frame after the load event.
_WATCH = """
window.drawn = new Promise(done => addEventListener("load",
  () => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))));
"""
# How long the last task takes to be chosen and drawn.
_KEY = """
() => new Promise(done => {
  const began = performance.now();
  document.getElementById("tasks").dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})
"""


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status: 2 where there is no browser."""
    parser = argparse.ArgumentParser(prog="scripts/bench report", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000", help="numbers of tasks")
    parser.add_argument("--repeats", type=int, default=9, help="how often each page is opened")
    options = parser.parse_args(arguments)
    try:
        with browser() as chromium, tempfile.TemporaryDirectory(prefix="memguard-bench-") as directory:
            print(f"Chromium {chromium.version}, {DESKTOP[0]} x {DESKTOP[1]}, a new profile for each opening")
            for size in map(int, options.sizes.split(",")):
                measure(chromium, Path(directory), size, options.repeats)
    except NoBrowser as missing:
        print(f"scripts/bench report: {missing}", file=sys.stderr)
        return 2
    print(f"target: 10,000 tasks below {TARGET_MIB} MiB, interactive within {1000 * TARGET_S:.0f} ms")
    print(f"medians of {options.repeats} (range)")
    return 0


def measure(chromium: Browser, directory: Path, size: int, repeats: int) -> None:
    """Measure and print one size."""
    events = build_logs.make(size).write(directory / str(size))
    began_s = time.perf_counter()
    record = read_build(events)
    read_s = time.perf_counter() - began_s
    pages = {"report": directory / "report.html", "plain table": directory / "plain.html"}
    began_s = time.perf_counter()
    limits = find_limits(record)
    pages["report"].write_text(render(record, Standing.ENDED, limits, advise(record, limits)), encoding="utf-8")
    render_s = time.perf_counter() - began_s
    pages["plain table"].write_text(plain(record), encoding="utf-8")
    logs = events.stat().st_size + (BuildDirectory(directory / str(size)).readings / events.name).stat().st_size
    print(f"{size:,} tasks, {logs / MIB:.1f} MiB of logs: read in {read_s:.2f} s, written in {render_s:.2f} s")
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in pages}
    for number in range(repeats):
        for name in list(pages) if number % 2 == 0 else list(reversed(pages)):
            times[name].append(open_once(chromium, pages[name]))
    for name, found in times.items():
        drawn, interactive, key = zip(*found)
        elements = f"{pages[name].stat().st_size / MIB:5.2f} MiB"
        line = f"{name:>12} {elements}: drawn after {spread(drawn, ' ms', 0)}"
        if name == "report":
            line += f", interactive after {spread(interactive, ' ms', 0)}, a key takes {spread(key, ' ms', 0)}"
        print(line)


def open_once(chromium: Browser, path: Path) -> tuple[float, float, float]:
    """Milliseconds from opening a page until it is drawn, until it answers, and that one key takes."""
    context = chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    try:
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.goto(path.as_uri())
        drawn = float(page.evaluate("window.drawn"))
        interactive = page.evaluate("document.documentElement.dataset.interactive")
        if interactive is None:
            return drawn, 0.0, 0.0
        return drawn, float(interactive), float(page.evaluate(_KEY))
    finally:
        context.close()


def plain(record: BuildRecord) -> str:
    """A table with a row for each task."""
    rows = "".join(
        f"<tr><td>{html.escape(run.name)}<td>{run.began_s}<td>{run.ended_s}<td>{run.peak_bytes}<td>{run.granted_bytes}"
        for run in record.runs
    )
    return f"<!doctype html><meta charset=utf-8><title>plain</title><table>{rows}</table>"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
