# SPDX-License-Identifier: MIT
"""A build's report as plain text of 80 columns.

Runs in: outside BitBake.
Covers: what the page tells, with memory over time as a drawing of characters.
See also: page, the same in HTML.
"""

from __future__ import annotations

import textwrap

from rich.console import Console

from memguard.model import Outcome
from memguard.units import format_bytes, format_duration
from memguard_cli.advice.build import Advice
from memguard_cli.advice.limits import Limits
from memguard_cli.builds.record import BuildRecord
from memguard_cli.report.words import (
    Standing,
    deviation,
    figures,
    heaviest_jobs,
    heaviest_runs,
    held_tasks,
    jobs,
    local_time,
    measured,
    outcome,
    verdict,
)
from memguard_cli.screens.text import count, make_table, plain, printable

WIDTH = 80
SHOWN = 15
_CHART_ROWS, _LABEL = 8, 10


def show(console: Console, record: BuildRecord, standing: Standing, limits: Limits, advice: list[Advice]) -> None:
    """Print the whole report."""
    console.width = WIDTH
    console.print(plain(f"Build {record.stamp}, begun {local_time(record.began_s)}", "bold"))
    console.print(plain(verdict(record, standing)))
    if limits.sentence:
        console.print(plain(limits.sentence))
    for remark in record.remarks:
        console.print(plain(f"Note: {remark}.", "yellow"))
    console.print()
    facts = make_table("", "", "", left=1)
    facts.show_header = False
    facts.columns[2].justify = "left"
    facts.columns[2].max_width = None
    for name, value, note in figures(record):
        facts.add_row(plain(name, "bold"), plain(value), plain(note))
    console.print(facts)
    _show_memory(console, record)
    _show_advice(console, advice)
    _show_heaviest(console, record)
    _show_jobs(console, record)
    _show_held(console, record)


def _show_memory(console: Console, record: BuildRecord) -> None:
    lines = chart(record, not console.options.ascii_only)
    if lines:
        _heading(console, "Memory over time")
        for line in lines:
            console.print(plain(line))


def chart(record: BuildRecord, has_blocks: bool = True) -> list[str]:
    """Memory over time as lines of characters; none where there are no readings."""
    width = WIDTH - _LABEL - 1
    if len(record.sights) < 2:
        return []
    began_s, length_s = record.sights[0].time_s, record.sights[-1].time_s - record.sights[0].time_s
    heights: list[int] = [0] * width
    for sight in record.sights:
        column = min(width - 1, int((sight.time_s - began_s) * width / max(1e-9, length_s)))
        heights[column] = max(heights[column], sight.used_bytes)
    for column in range(1, width):
        heights[column] = heights[column] or heights[column - 1]
    top = max(record.limit_bytes or 0, *heights, 1)
    limit_row = None if record.limit_bytes is None else _CHART_ROWS - record.limit_bytes * _CHART_ROWS // (top + 1) - 1
    blocks = " ▁▂▃▄▅▆▇█" if has_blocks else "    ####"
    steps = len(blocks) - 1
    lines = []
    for row in range(_CHART_ROWS):
        floor = _CHART_ROWS - 1 - row
        cells = []
        for height in heights:
            part = max(0, min(steps, height * _CHART_ROWS * steps // top - floor * steps))
            cell = blocks[part]
            cells.append("-" if cell == " " and row == limit_row else cell)
        label = format_bytes(top * (floor + 1) // _CHART_ROWS) if row % 2 == 0 else ""
        lines.append(f"{label:>{_LABEL}} {''.join(cells)}".rstrip())
    end = format_duration(length_s)
    lines.append(" " * (_LABEL + 1) + "0 s" + end.rjust(width - 3))
    if record.limit_bytes is not None:
        lines.append(" " * (_LABEL + 1) + f"--- the limit, {format_bytes(record.limit_bytes)}")
    return lines


def _show_advice(console: Console, advice: list[Advice]) -> None:
    _heading(console, "What to change")
    if not advice:
        console.print("Nothing.")
    for said in advice:
        words = printable(f"{said.finding} {said.remedy}")
        for line in textwrap.wrap(words, WIDTH, initial_indent="- ", subsequent_indent="  "):
            console.print(plain(line))
        for line in said.lines.splitlines():
            console.print(plain(f"      {line}"), soft_wrap=True)


def _show_heaviest(console: Console, record: BuildRecord) -> None:
    heaviest = heaviest_runs(record, SHOWN)
    if not heaviest:
        return
    _heading(console, "The heaviest tasks")
    table = make_table("task", "jobs", "predicted", "measured", "off", "time")
    table.columns[0].no_wrap, table.columns[0].overflow = True, "ellipsis"
    for run in heaviest:
        table.add_row(
            plain(run.name),
            jobs(run),
            "-" if run.granted_bytes is None else format_bytes(run.granted_bytes),
            plain(measured(run)),
            deviation(run),
            "-" if run.wall_s is None else format_duration(run.wall_s),
        )
    console.print(table)
    if any(run.is_bound for run in heaviest):
        console.print(plain("> at least: the task did not end, or not well", "dim"))
    for run in heaviest:
        if run.outcome != Outcome.OK or run.deeds:
            console.print(plain(f"{run.name}: {outcome(run)}"))


def _show_jobs(console: Console, record: BuildRecord) -> None:
    heaviest = heaviest_jobs(record, SHOWN)
    if not heaviest:
        return
    _heading(console, "The heaviest source files and links")
    table = make_table("built", "of", "by", "measured", "time")
    for column, share in ((0, 2), (1, 3)):
        table.columns[column].no_wrap, table.columns[column].overflow = True, "ellipsis"
        table.columns[column].max_width = WIDTH // share
    table.columns[1].justify = table.columns[2].justify = "left"
    for heavy in heaviest:
        table.add_row(
            plain(_end_of(heavy.name, WIDTH // 2 - 8)),
            plain(heavy.run.name),
            plain(heavy.job.program),
            plain(heavy.peak),
            format_duration(heavy.job.wall_s),
        )
    console.print(table)
    if any(heavy.is_bound for heavy in heaviest):
        console.print(plain("> at least: it was killed, or had not ended", "dim"))


def _end_of(path: str, width: int) -> str:
    """The end of a path, which says more than its beginning."""
    parts = path.split("/")
    while len(parts) > 1 and len("/".join(parts)) > width:
        parts = parts[1:]
    return "/".join(parts)


def _show_held(console: Console, record: BuildRecord) -> None:
    held = held_tasks(record)
    if not held:
        return
    would = "would have been held" if record.mode == "observe" else "held, the longest first"
    _heading(console, f"{count(len(held), 'task')} {would}")
    is_observed = record.mode == "observe"
    table = make_table("task", *([] if is_observed else ["for"]))
    table.columns[0].no_wrap, table.columns[0].overflow = True, "ellipsis"
    table.columns[0].max_width = WIDTH // 2
    table.add_column("why", no_wrap=True, overflow="ellipsis")
    for hold in held[:SHOWN]:
        seconds = [] if is_observed else [format_duration(hold.seconds)]
        table.add_row(plain(hold.run.name), *seconds, plain(hold.reason))
    console.print(table)
    if len(held) > SHOWN:
        console.print(plain(f"and {len(held) - SHOWN:,} more: --json lists them all", "dim"))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(plain(text, "bold"))
