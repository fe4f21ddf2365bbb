# SPDX-License-Identifier: MIT
"""A build's report as one HTML file that needs nothing else.

Runs in: outside BitBake.
Covers: what is there without a script (verdict, figures, advice, tables), and the data that the page's script draws
memory and tasks from. The page allows itself no other script, style or address (Content-Security-Policy).
Does not cover: drawing (templates/report.js), colours and sizes (templates/report.css).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import jinja2
from markupsafe import Markup

from memguard.record.events import Deed, Killed, Retried, Withdrawn
from memguard.units import KIB, MIB, format_bytes, format_duration
from memguard.version import VERSION
from memguard_cli.advice.build import Advice
from memguard_cli.advice.limits import Limits
from memguard_cli.builds.record import BuildRecord, TaskRun
from memguard_cli.report.words import (
    Standing,
    course,
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
from memguard_cli.screens.text import printable

# A chart is some 1000 pixels wide; a table for those who cannot see it has fewer rows.
MOST_SIGHTS, MOST_ROWS = 1000, 60
# Colours that people with any kind of sight tell apart; all other tasks are grey.
COLOURED = 7
# Of the peak; what takes less is a line of a few pixels.
SEEN_SHARE = 0.03
HEAVIEST, HELD = 25, 25
# A prediction that was passed by less than what runs of one task differ by anyway is a good one.
WORTH_TELLING = 1.1
# Of each sight the tasks that took most.
_TOLD_TASKS = 6
# What a row shows as a sign of its own, by its number in the data.
_SHOWN = (Withdrawn, Killed, Retried)


def render(record: BuildRecord, standing: Standing, limits: Limits, advice: list[Advice]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memguard_cli.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    loader = environment.loader
    assert loader is not None
    script, style = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("js", "css"))
    environment.filters.update(size=_size, duration=format_duration, clean=printable, unbroken=_unbroken, path=_path)
    heaviest = heaviest_runs(record, HEAVIEST)
    page = environment.get_template("report.html.j2").render(
        record=record,
        standing=standing.value,
        verdict=verdict(record, standing),
        limiting=limits.sentence,
        began=local_time(record.began_s),
        figures=figures(record),
        advice=advice,
        heaviest=[_heavy_row(run, heaviest) for run in heaviest],
        has_bounds=any(run.is_bound for run in heaviest),
        heavy_jobs=heaviest_jobs(record, HEAVIEST),
        held=held_tasks(record)[:HELD],
        held_count=len(held_tasks(record)),
        would=record.mode == "observe",
        sights=_sight_rows(record),
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
        data=Markup(_as_script(data(record))),
        version=VERSION,
    )
    return page


def _hash(text: str) -> str:
    """What a Content-Security-Policy names an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_script(content: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _unbroken(text: str) -> str:
    """`text` with each number and its unit on one line."""
    return re.sub(r"(?<=[0-9]) (?=(?:[KMG]iB|%|s|min|h)\b|%)", "\N{NO-BREAK SPACE}", text)


def _path(text: str) -> Markup:
    """A path that is broken behind its slashes where it must be."""
    return Markup("/<wbr>").join(text.split("/"))


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_bytes(size_bytes)


def _heavy_row(run: TaskRun, heaviest: list[TaskRun]) -> dict[str, Any]:
    """One row of the heaviest tasks; `bar` and `tick` are shares of 100 of the longest bar."""
    most = max(max(other.peak_bytes or 0, other.granted_bytes or 0) for other in heaviest) or 1
    return {
        "name": run.name,
        "jobs": jobs(run),
        "predicted": _size(run.granted_bytes),
        "measured": measured(run),
        "deviation": deviation(run),
        "origin": run.origin or "-",
        "time": "-" if run.wall_s is None else format_duration(run.wall_s),
        "outcome": outcome(run),
        "bar": round(100 * (run.peak_bytes or 0) / most, 1),
        "tick": None if run.granted_bytes is None else round(100 * run.granted_bytes / most, 1),
        "is_over": bool(
            run.is_judged and run.granted_bytes and (run.peak_bytes or 0) > WORTH_TELLING * run.granted_bytes
        ),
    }


def _sight_rows(record: BuildRecord) -> list[dict[str, Any]]:
    """Memory over time for those who read rather than look."""
    rows = []
    for sight in course(record, MOST_ROWS):
        place, size = max(sight.tasks, key=lambda task: task[1], default=(None, 0))
        limit = sight.limit_bytes
        rows.append(
            {
                "time": format_duration(sight.time_s - record.began_s),
                "used": format_bytes(sight.used_bytes),
                "share": "-" if not limit else f"{100 * sight.used_bytes // limit} %",
                "tasks": len(sight.tasks),
                "heaviest": "-" if place is None else f"{record.runs[place].name} ({format_bytes(size)})",
            }
        )
    return rows


def data(record: BuildRecord) -> dict[str, Any]:
    """What the script draws: times in tenths of a second since the begin, memory over time in MiB, tasks in KiB.

    Tasks are columns of equal length, names are places in lists of names: a tenth of what objects would take.
    """
    words: dict[str, int] = {}

    def place(text: str) -> int:
        return words.setdefault(printable(text), len(words))

    def tenths(time_s: float | None) -> int:
        return -1 if time_s is None else round((time_s - record.began_s) * 10)

    runs = sorted(enumerate(record.runs), key=lambda pair: pair[1].first_s)
    rows = {old: new for new, (old, _) in enumerate(runs)}
    ordered = [run for _, run in runs]
    tasks = {
        "name": [place(f"mc:{run.mc}:{run.recipe}" if run.mc else run.recipe) for run in ordered],
        "task": [place(run.task) for run in ordered],
        "began": [tenths(run.began_s) for run in ordered],
        "ended": [tenths(run.ended_s) for run in ordered],
        "outcome": [place(run.outcome) for run in ordered],
        "jobs": [run.jobs or 0 for run in ordered],
        "wanted": [run.wanted_jobs or 0 for run in ordered],
        "granted": [_in(KIB, run.granted_bytes) for run in ordered],
        "peak": [_in(KIB, run.peak_bytes) for run in ordered],
        "origin": [place(run.origin) for run in ordered],
        "would": [place(run.would_hold) for run in ordered],
    }
    # Few tasks have these, so they are listed by row.
    holds = {
        row: [[tenths(span.begin_s), tenths(span.end_s), place(span.reason)] for span in run.holds]
        for row, run in enumerate(ordered)
        if run.holds
    }
    stops = {
        row: [[tenths(span.begin_s), tenths(span.end_s), place(span.reason)] for span in run.stops]
        for row, run in enumerate(ordered)
        if run.stops
    }
    acts = {}
    for row, run in enumerate(ordered):
        shown = [deed for deed in run.deeds if isinstance(deed, _SHOWN)]
        if shown:
            acts[row] = [[tenths(deed.time), _SHOWN.index(type(deed)), place(_about(deed))] for deed in shown]
    sights = course(record, MOST_SIGHTS)
    coloured = _coloured(record)
    return {
        "length": max(1, tenths(record.ended_s)),
        "began": round(record.began_s, 1),
        "words": list(words),
        "tasks": tasks,
        "holds": holds,
        "stops": stops,
        "acts": acts,
        "memory": {
            "time": [tenths(sight.time_s) for sight in sights],
            "used": [_in(MIB, sight.used_bytes) for sight in sights],
            "limit": [_in(MIB, sight.limit_bytes) for sight in sights],
            "coloured": [rows[old] for old in coloured],
            "parts": [[_in(MIB, dict(sight.tasks).get(old)) for sight in sights] for old in coloured],
            "tasks": [_in(MIB, sum(size for _, size in sight.tasks)) for sight in sights],
            "top": [
                [
                    number
                    for old, size in sorted(sight.tasks, key=lambda task: -task[1])[:_TOLD_TASKS]
                    for number in (rows[old], _in(MIB, size))
                ]
                for sight in sights
            ],
        },
        "reserve": _in(MIB, record.reserve_bytes),
        "marks": [
            [name, _in(MIB, getattr(record.marks, f"{name}_bytes"))]
            for name in (("withdraw", "stop", "kill") if record.marks else ())
        ],
    }


def _about(deed: Deed) -> str:
    """The program that something was done to, and why."""
    return f"{getattr(deed, 'program', '')} {getattr(deed, 'reason', '')}".strip()


def _coloured(record: BuildRecord) -> list[int]:
    """The places of the tasks that have a colour of their own: those that took most, if it would be seen at all."""
    most: dict[int, int] = {}
    for sight in record.sights:
        for place, size in sight.tasks:
            most[place] = max(most.get(place, 0), size)
    least = SEEN_SHARE * (record.peak_bytes or 0)
    seen = [place for place in most if most[place] >= least]
    return sorted(seen, key=lambda place: -most[place])[:COLOURED]


def _in(unit: int, size_bytes: int | None) -> int:
    """A size in whole units, at least one where there is any; -1 where it is not known."""
    if size_bytes is None:
        return -1
    return max(1, round(size_bytes / unit)) if size_bytes else 0
