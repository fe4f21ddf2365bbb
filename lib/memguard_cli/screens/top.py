# SPDX-License-Identifier: MIT
"""A running build on a screen: a State -> lines of text, as many and as wide as there is room for.

Runs in: outside BitBake; pure.
Covers: progress, running tasks, held tasks, the last events, what the words mean; the build in one plain line.
Does not cover: the container (container_bar), when to draw (follow).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memguard.channels.state import HeldTask, State, TaskState
from memguard.record.events import Event, from_object
from memguard.units import format_bytes, format_duration
from memguard_cli.screens.container_bar import CALM, DIRE, SHORT, bar, container, course, used
from memguard_cli.screens.event_words import is_worth_telling, sentence
from memguard_cli.screens.text import count, make_table, plain, printable

# From this width on there is room for how long a task runs and for a bar of what it takes.
WIDE = 104
_LEAST_ROWS, _HEADING_ROWS = 3, 2
_BAR_CELLS, _MOST_BAR_CELLS = 16, 40
# Below this height there is no room for the course of memory, for progress and for keys.
_LOW = 14
_KEYS = "q ends, ? explains"

_STATES = {"running": "", "stopped": SHORT, "retrying": DIRE}


@dataclass(frozen=True)
class Room:
    """Columns and rows of the screen; None rows are as many as it takes. has_blocks: it can show more than ASCII."""

    width: int
    height: int | None = None
    has_blocks: bool = True


@dataclass(frozen=True)
class Sight:
    """What there is to see besides the state.

    course:   what was used in the last minutes, as (seconds since 1970, bytes).
    skipped:  how many of the heaviest tasks have been scrolled past.
    has_keys: keys are obeyed, which the first line says.
    """

    course: Sequence[tuple[float, int]] = ()
    skipped: int = 0
    has_keys: bool = False


def draw(
    state: State, title: str, began_s: float | None, now_s: float, room: Room, sight: Sight = Sight()
) -> RenderableType:
    """The whole screen. `title` names the build, `began_s` is when it began, if that is known."""
    events = worth_telling(state)[::-1]
    top: list[RenderableType] = [_header(state, title, began_s, now_s, room.width, sight.has_keys)]
    top += container(state, room.width, room.has_blocks)
    is_low = room.height is not None and room.height < _LOW
    if sight.course and not is_low:
        top.append(course(sight.course, state.limit_bytes, now_s, room.width, room.has_blocks))
    if state.neighbours:
        top.append(plain(neighbours(state)))
    if not is_low:
        top.append(_progress(state, room.width))
    rows = _share(room, len(top), len(state.tasks), len(state.held), len(events))
    parts = [*top, Text(""), _tasks(state, now_s, room, rows[0], sight.skipped, is_alone=not rows[1])]
    if state.held and rows[1]:
        parts += [Text(""), _held(state.held, now_s, room.width, rows[1])]
    if events and rows[2]:
        parts += [Text(""), plain("events, the newest first", "bold")]
        for event in events[: rows[2]]:
            line = Text.assemble(plain(_clock(event.time), "dim"), " ", plain(sentence(event)))
            line.truncate(room.width, overflow="ellipsis")
            parts.append(line)
    return Group(*parts)


def explain(width: int) -> RenderableType:
    """What the words on the screen mean."""
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", max_width=max(20, min(width, 120) - 14))
    for word, meaning in _MEANINGS:
        table.add_row(plain(word), plain(meaning))
    return Group(table, Text(""), plain("? or Escape shows the build again, q ends", "dim"))


_MEANINGS = (
    ("used", "memory that the kernel cannot take back; page cache is never in it"),
    ("w, s, k", "the marks at which memguard withdraws jobs, stops compilers, and kills one"),
    ("held", "BitBake would start the task; memguard waits until it fits. The reason is the present one"),
    ("shrunk", "a task that started with fewer jobs than it wanted"),
    ("jobs", "how many compilers the task may run. 3/8: it may run 3 now and 8 at most"),
    (
        "tokens",
        "each lets make, ninja or cargo run one more job. memguard fills and empties a pool of them for each task, and "
        "3/8 is the one job that every task has, and two tokens",
    ),
    ("stopped 3/8", "3 of its 8 compilers stand still until there is memory; they go on where they were"),
    ("swap", "what of the task lies in swap: stopped compilers are parked there, and come back"),
    ("retrying", "a compiler of the task was killed, and it waits for its turn to run again"),
    ("predicted", "what the task is expected to take at its peak"),
    ("left", "time that is left, by what the tasks took in earlier builds"),
)


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
    swapped_bytes = sum(task.swapped_bytes for task in state.tasks.values())
    heaviest = state.heaviest
    parts = [
        used(state),
        f"{count(len(state.tasks), 'task')} running"
        + (f" ({stopped} stopped)" if stopped else "")
        + (f" ({retrying} retrying)" if retrying else "")
        + (f", {format_bytes(swapped_bytes)} in swap" if swapped_bytes else ""),
        f"{len(state.held)} held",
    ]
    if state.neighbours:
        parts.append(neighbours(state))
    if heaviest is not None:
        parts.append(f"heaviest {heaviest.name} {format_bytes(heaviest.current_bytes)}")
    return printable(", ".join(parts))


def neighbours(state: State) -> str:
    """The other builds that are counted, and what their tasks hold."""
    others = count(state.neighbours, "other build")
    return f"{others} under this limit with {format_bytes(state.neighbours_bytes)}"


def _share(room: Room, taken: int, tasks: int, held: int, events: int) -> tuple[int, int, int]:
    """How many rows tasks, held tasks and events get; where there are few, tasks get them. taken: rows of the rest."""
    if room.height is None:
        return tasks, held, events
    # Each list takes a blank line and a heading.
    left = room.height - taken - _HEADING_ROWS
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


def _header(state: State, title: str, began_s: float | None, now_s: float, width: int, has_keys: bool) -> Text:
    facts = [_KEYS] if has_keys else []
    facts += [f"mode {state.mode}", f"{state.cpus:g} CPUs"]
    if began_s is not None:
        facts.append(format_duration(now_s - began_s))
    right = plain("  ".join(facts), "dim")
    left = plain(title, "bold")
    left.truncate(max(10, width - right.cell_len - 2), overflow="ellipsis")
    return Text.assemble(left, " " * max(2, width - left.cell_len - right.cell_len), right)


def _progress(state: State, width: int) -> Text:
    """How far the build is, and what was done in it so far: where all of it has no room, the worst of it."""
    line = Text()
    if state.all_tasks:
        line.append(f"{state.done:,} of {count(state.all_tasks, 'task')} done", "bold")
        line.append("" if state.left_s is None else f", about {format_duration(state.left_s)} left", "bold")
    counts, left = state.counts, width - line.cell_len - 2 * bool(line)
    if state.mode == "observe":
        # Nobody is told with how many jobs a task would have started.
        numbers: dict[str, int | None] = {"would have held": counts.held}
    else:
        numbers = {"held": counts.held, "shrunk": counts.shrunk, "stopped": counts.stopped, "killed": counts.killed}
    numbers.update({"retried": counts.retried, "killed by the kernel": counts.oom_kills or None})
    told = [f"{name} {number:,}" for name, number in numbers.items() if number is not None]
    while told and len(", ".join(told)) > left:
        del told[0]
    so_far = plain(", ".join(told), "dim")
    line.append(" " * (width - line.cell_len - so_far.cell_len))
    line.append_text(so_far)
    line.truncate(width, overflow="ellipsis")
    return line


def _tasks(state: State, now_s: float, room: Room, rows: int, skipped: int, is_alone: bool) -> RenderableType:
    waiting = f", {len(state.held)} held" if state.held and is_alone else ""
    if not state.tasks:
        return plain(f"no task is running{waiting}", "dim")
    is_wide = room.width >= WIDE
    has_swap = any(task.swapped_bytes for task in state.tasks.values())
    skipped = max(0, min(skipped, len(state.tasks) - rows))
    ordered = sorted(state.tasks.values(), key=lambda task: (-task.current_bytes, task.name))
    shown = ordered[skipped : skipped + rows]
    heading = f"{_part(len(shown), len(state.tasks), skipped)} running{waiting}"
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold", expand=True)
    table.add_column(heading, ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    has_peak = is_wide or not has_swap
    columns = {"jobs": True, "for": is_wide, "now": True, "swap": has_swap, "peak": has_peak, "predicted": True}
    for name in (name for name, is_there in columns.items() if is_there):
        table.add_column(name, justify="right", no_wrap=True)
    cells = min(_MOST_BAR_CELLS, _BAR_CELLS + (room.width - WIDE) // 3)
    if is_wide:
        table.add_column("now of predicted", no_wrap=True, width=cells)
    for task in shown:
        values = {
            "jobs": plain(_jobs(task)),
            "for": plain(format_duration(now_s - task.since)),
            "now": plain(format_bytes(task.current_bytes), "bold"),
            "swap": plain(format_bytes(task.swapped_bytes) if task.swapped_bytes else "-"),
            "peak": plain(format_bytes(task.peak_bytes)),
            "predicted": plain(format_bytes(task.granted_bytes) if task.granted_bytes else "-"),
        }
        row = [plain(task.name), plain(_state(task), _STATES.get(task.state, ""))]
        row += [values[name] for name, is_there in columns.items() if is_there]
        if is_wide:
            row.append(_task_bar(task, cells, room.has_blocks))
        table.add_row(*row)
    return table


def _part(shown: int, tasks: int, skipped: int = 0) -> str:
    if shown == tasks:
        return count(tasks, "task")
    first = f"{skipped + 1}-{skipped + shown}" if skipped else str(shown)
    return f"{first} of {count(tasks, 'task')}"


def _state(task: TaskState) -> str:
    if task.state == "stopped":
        return f"stopped {task.stopped}/{max(task.compilers, task.stopped)}" if task.stopped else "stopped"
    return task.state


def _jobs(task: TaskState) -> str:
    # Each task has one job without a token.
    return str(task.jobs) if task.tokens is None else f"{min(task.tokens + 1, task.jobs)}/{task.jobs}"


def _task_bar(task: TaskState, cells: int, has_blocks: bool) -> Text:
    if not task.granted_bytes:
        return Text("")
    style = SHORT if task.current_bytes > task.granted_bytes else CALM
    return bar(task.current_bytes, task.granted_bytes, cells, style, has_blocks)


def _held(held: tuple[HeldTask, ...], now_s: float, width: int, rows: int) -> RenderableType:
    shown = sorted(held, key=lambda hold: hold.since)[:rows]
    heading = f"{_part(len(shown), len(held))} held"
    table = make_table(heading, left=1)
    table.columns[0].no_wrap, table.columns[0].overflow = True, "ellipsis"
    table.columns[0].max_width = max(20, width * 2 // 5)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("why", no_wrap=True, overflow="ellipsis")
    for hold in shown:
        table.add_row(plain(hold.name), plain(format_duration(now_s - hold.since)), plain(hold.reason))
    return table


def _clock(time_s: float) -> str:
    """The time of day here."""
    return time.strftime("%H:%M:%S", time.localtime(time_s)) if 0 <= time_s < 1e11 else "--:--:--"


def event_line(event: Event) -> str:
    """One event as a plain line with its time."""
    return printable(f"{_clock(event.time)} {sentence(event)}")
