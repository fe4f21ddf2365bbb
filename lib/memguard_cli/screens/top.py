# SPDX-License-Identifier: MIT
"""A running build on a screen: a State -> lines of text, as many and as wide as there is room for.

Runs in: outside BitBake; pure.
Covers: the bar of the container with its marks, running tasks, held tasks, the last events; the same in one plain line.
Does not cover: when to draw (follow).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memguard.channels.state import HeldTask, State, TaskState
from memguard.record.events import Event, from_object
from memguard.units import GIB, format_bytes
from memguard_cli.screens.event_words import is_worth_telling, sentence
from memguard_cli.screens.text import count, make_table, plain, printable

# From this width on there is room for how long a task runs and for a bar of what it takes.
WIDE = 104
_LEAST_ROWS, _HEADING_ROWS = 3, 2
_BAR_CELLS = 16

# Blue, yellow and magenta stay apart for people who do not see red or green; words say the same.
_CALM, _SHORT, _DIRE = "blue", "yellow", "magenta"
_STATES = {"running": "", "stopped": _SHORT, "retrying": _DIRE}


@dataclass(frozen=True)
class Room:
    """Columns and rows of the screen; None rows are as many as it takes. has_blocks: it can show more than ASCII."""

    width: int
    height: int | None = None
    has_blocks: bool = True


def draw(state: State, title: str, began_s: float | None, now_s: float, room: Room) -> RenderableType:
    """The whole screen. `title` names the build, `began_s` is when it began, if that is known."""
    events = worth_telling(state)[::-1]
    rows = _share(room, len(state.tasks), len(state.held), len(events))
    parts: list[RenderableType] = [_header(state, title, began_s, now_s, room.width), *_container(state, room)]
    parts += [Text(""), _tasks(state, now_s, room, rows[0], is_alone=not rows[1])]
    if state.held and rows[1]:
        parts += [Text(""), _held(state.held, now_s, room.width, rows[1])]
    if events and rows[2]:
        parts += [Text(""), plain("events, the newest first", "bold")]
        for event in events[: rows[2]]:
            line = Text.assemble(plain(_clock(event.time), "dim"), " ", plain(sentence(event)))
            line.truncate(room.width, overflow="ellipsis")
            parts.append(line)
    return Group(*parts)


def worth_telling(state: State) -> list[Event]:
    """The last events that somebody who looks on wants to know, the oldest first; what is no event is passed over."""
    events = []
    for line in state.events:
        with contextlib.suppress(ValueError):
            events.append(from_object(line))
    return [event for event in events if is_worth_telling(event)]


def status(state: State) -> str:
    """The build in one line."""
    stopped = sum(task.state == "stopped" for task in state.tasks.values())
    retrying = sum(task.state == "retrying" for task in state.tasks.values())
    heaviest = state.heaviest
    parts = [
        _used(state),
        f"{count(len(state.tasks), 'task')} running"
        + (f" ({stopped} stopped)" if stopped else "")
        + (f" ({retrying} retrying)" if retrying else ""),
        f"{len(state.held)} held",
    ]
    if heaviest is not None:
        parts.append(f"heaviest {heaviest.name} {format_bytes(heaviest.current_bytes)}")
    return printable(", ".join(parts))


def duration(seconds: float) -> str:
    """Seconds for people: "0.3 s", "42 s", "12 min", "3 h 05 min"."""
    if 0 < seconds < 0.95:
        return f"{max(0.1, seconds):.1f} s"
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _share(room: Room, tasks: int, held: int, events: int) -> tuple[int, int, int]:
    """How many rows tasks, held tasks and events get; where there are few, tasks get them."""
    if room.height is None:
        return tasks, held, events
    # Header and container take five lines; each list a blank line and a heading.
    left = room.height - 5 - _HEADING_ROWS
    task_rows = max(1, min(tasks, max(_LEAST_ROWS, left // 2), left))
    left -= task_rows
    held_rows = max(0, min(held, max(2, left // 2), left - _HEADING_ROWS))
    left -= held_rows + _HEADING_ROWS if held_rows else 0
    event_rows = max(0, min(events, left - _HEADING_ROWS))
    left -= event_rows + _HEADING_ROWS if event_rows else 0
    more = max(0, min(tasks - task_rows, left))
    if held_rows:
        held_rows += max(0, min(held - held_rows, left - more))
    return task_rows + more, held_rows, event_rows


def _header(state: State, title: str, began_s: float | None, now_s: float, width: int) -> Text:
    facts = [f"mode {state.mode}", f"{state.cpus:g} CPUs"]
    if began_s is not None:
        facts.append(duration(now_s - began_s))
    right = plain("  ".join(facts), "dim")
    left = plain(title, "bold")
    left.truncate(max(10, width - right.cell_len - 2), overflow="ellipsis")
    return Text.assemble(left, " " * max(2, width - left.cell_len - right.cell_len), right)


def _marks(state: State) -> list[tuple[str, int, str]]:
    """Name, level and style of each mark, the lowest first."""
    marks = state.marks
    return [
        ("withdraw", marks.withdraw_bytes, _SHORT),
        ("stop", marks.stop_bytes, _SHORT),
        ("kill", marks.kill_bytes, _DIRE),
    ]


def _used(state: State) -> str:
    used = format_bytes(state.used_bytes)
    whose = "the machine's " if state.limit_source == "MemTotal" else ""
    share = 100 * state.used_bytes // max(1, state.limit_bytes)
    return f"{used} of {whose}{format_bytes(state.limit_bytes)} used ({share} %)"


def _standing(state: State) -> tuple[str, str]:
    """Where used stands to the marks, in words, with its style."""
    passed = [(name, style) for name, level, style in _marks(state) if state.used_bytes >= level]
    return (f"above the {passed[-1][0]} mark", passed[-1][1]) if passed else ("below all marks", _CALM)


def _container(state: State, room: Room) -> list[Text]:
    standing, style = _standing(state)
    head = plain(_used(state))
    head.append(" " * max(2, room.width - head.cell_len - len(standing)))
    head.append(standing, style)
    scale, marks = max(1, state.limit_bytes), _marks(state)
    places, last = Text(), 0
    for (name, _, mark_style), column in zip(marks, _columns([level for _, level, _ in marks], scale, room.width)):
        places.append(" " * (column - last) + name[0], mark_style)
        last = column + 1
    bar = _bar(state.used_bytes, scale, room.width, style, room.has_blocks)
    return [head, bar, places, _legend(state, room.width)]


def _legend(state: State, width: int) -> Text:
    legend = Text()
    for name, level, style in _marks(state):
        legend.append(name[0], f"bold {style}")
        legend.append(f" {name} {_level(level)}  ", "dim")
    legend.append(f" {format_bytes(state.reserve_bytes)} in reserve", "dim")
    legend.truncate(width, overflow="ellipsis")
    return legend


def _level(level_bytes: int) -> str:
    """A mark as text: in a small container they are less than 0.1 GiB apart."""
    return format_bytes(level_bytes) if level_bytes < GIB else f"{level_bytes / GIB:.2f} GiB"


def _columns(levels: list[int], scale: int, width: int) -> list[int]:
    """The column of each level, none on another's."""
    columns = [min(width - 1, level * width // scale) for level in levels]
    for place in range(len(columns) - 2, -1, -1):
        columns[place] = max(0, min(columns[place], columns[place + 1] - 1))
    for place in range(1, len(columns)):
        columns[place] = max(columns[place], columns[place - 1] + 1)
    return columns


def _bar(value: int, scale: int, width: int, style: str, has_blocks: bool) -> Text:
    """`value` of `scale` as a bar of `width` cells."""
    eighths = max(0, min(8 * width, 8 * width * value // max(1, scale)))
    full, rest = divmod(eighths, 8)
    if not has_blocks:
        return Text.assemble(("#" * full, style), ("-" * (width - full), "dim"))
    tip = " ▏▎▍▌▋▊▉"[rest] if rest else ""
    return Text.assemble(("█" * full + tip, style), ("░" * (width - full - len(tip)), "dim"))


def _tasks(state: State, now_s: float, room: Room, rows: int, is_alone: bool) -> RenderableType:
    waiting = f", {len(state.held)} held" if state.held and is_alone else ""
    if not state.tasks:
        return plain(f"no task is running{waiting}", "dim")
    is_wide = room.width >= WIDE
    shown = sorted(state.tasks.values(), key=lambda task: (-task.current_bytes, task.name))[:rows]
    heading = f"{_part(len(shown), len(state.tasks))} running{waiting}"
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold", expand=True)
    table.add_column(heading, ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for name in ("jobs", *(("for",) if is_wide else ()), "now", "peak", "predicted"):
        table.add_column(name, justify="right", no_wrap=True)
    if is_wide:
        table.add_column("now of predicted", no_wrap=True, width=_BAR_CELLS)
    for task in shown:
        cells = [
            plain(task.name),
            plain(_state(task), _STATES.get(task.state, "")),
            plain(_jobs(task)),
            *([plain(duration(now_s - task.since))] if is_wide else []),
            plain(format_bytes(task.current_bytes), "bold"),
            plain(format_bytes(task.peak_bytes)),
            plain(format_bytes(task.granted_bytes) if task.granted_bytes else "-"),
        ]
        if is_wide:
            cells.append(_task_bar(task, room.has_blocks))
        table.add_row(*cells)
    return table


def _part(shown: int, tasks: int) -> str:
    return count(tasks, "task") if shown == tasks else f"{shown} of {count(tasks, 'task')}"


def _state(task: TaskState) -> str:
    if task.state == "stopped":
        return f"stopped {task.stopped}/{max(task.compilers, task.stopped)}" if task.stopped else "stopped"
    return task.state


def _jobs(task: TaskState) -> str:
    # Each task has one job without a token.
    return str(task.jobs) if task.tokens is None else f"{min(task.tokens + 1, task.jobs)}/{task.jobs}"


def _task_bar(task: TaskState, has_blocks: bool) -> Text:
    if not task.granted_bytes:
        return Text("")
    style = _SHORT if task.current_bytes > task.granted_bytes else _CALM
    return _bar(task.current_bytes, task.granted_bytes, _BAR_CELLS, style, has_blocks)


def _held(held: tuple[HeldTask, ...], now_s: float, width: int, rows: int) -> RenderableType:
    shown = sorted(held, key=lambda hold: hold.since)[:rows]
    heading = f"{_part(len(shown), len(held))} held"
    table = make_table(heading, left=1)
    table.columns[0].no_wrap, table.columns[0].overflow = True, "ellipsis"
    table.columns[0].max_width = max(20, width * 2 // 5)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("why", no_wrap=True, overflow="ellipsis")
    for hold in shown:
        table.add_row(plain(hold.name), plain(duration(now_s - hold.since)), plain(hold.reason))
    return table


def _clock(time_s: float) -> str:
    """The time of day here."""
    return time.strftime("%H:%M:%S", time.localtime(time_s)) if 0 <= time_s < 1e11 else "--:--:--"


def event_line(event: Event) -> str:
    """One event as a plain line with its time."""
    return printable(f"{_clock(event.time)} {sentence(event)}")
