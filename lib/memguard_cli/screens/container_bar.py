# SPDX-License-Identifier: MIT
"""The container on a screen: how much of it is used, its marks, and the last minutes of it.

Runs in: outside BitBake; pure.
Does not cover: tasks (top), where the course of memory comes from (follow).
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from memguard.channels.state import State
from memguard.units import GIB, format_bytes
from memguard_cli.screens.text import plain

# Blue, yellow and magenta stay apart for people who do not see red or green; words say the same.
CALM, SHORT, DIRE = "blue", "yellow", "magenta"
# What the course of memory shows.
COURSE_S = 300.0
_COURSE_LABEL = "last 5 min "


def _marks(state: State) -> list[tuple[str, int, str]]:
    """Name, level and style of each mark, the lowest first."""
    marks = state.marks
    return [
        ("withdraw", marks.withdraw_bytes, SHORT),
        ("stop", marks.stop_bytes, SHORT),
        ("kill", marks.kill_bytes, DIRE),
    ]


def used(state: State) -> str:
    """What is used of the limit, in words."""
    whose = "the machine's " if state.limit_source == "MemTotal" else ""
    share = 100 * state.used_bytes // max(1, state.limit_bytes)
    return f"{format_bytes(state.used_bytes)} of {whose}{format_bytes(state.limit_bytes)} used ({share} %)"


def _standing(state: State) -> tuple[str, str]:
    """Where used stands to the marks, in words, with its style."""
    passed = [(name, style) for name, level, style in _marks(state) if state.used_bytes >= level]
    return (f"above the {passed[-1][0]} mark", passed[-1][1]) if passed else ("below all marks", CALM)


def container(state: State, width: int, has_blocks: bool = True) -> list[Text]:
    """What is used, as text and as a bar, with the marks below it."""
    standing, style = _standing(state)
    head = plain(used(state))
    head.append(" " * max(2, width - head.cell_len - len(standing)))
    head.append(standing, style)
    scale, marks = max(1, state.limit_bytes), _marks(state)
    places, last = Text(), 0
    for (name, _, mark_style), column in zip(marks, _columns([level for _, level, _ in marks], scale, width)):
        places.append(" " * (column - last) + name[0], mark_style)
        last = column + 1
    drawn = bar(state.used_bytes, scale, width, style, has_blocks)
    return [head, drawn, places, _legend(state, width)]


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


def bar(value: int, scale: int, width: int, style: str, has_blocks: bool) -> Text:
    """`value` of `scale` as a bar of `width` cells."""
    eighths = max(0, min(8 * width, 8 * width * value // max(1, scale)))
    full, rest = divmod(eighths, 8)
    if not has_blocks:
        return Text.assemble(("#" * full, style), ("-" * (width - full), "dim"))
    tip = " ▏▎▍▌▋▊▉"[rest] if rest else ""
    return Text.assemble(("█" * full + tip, style), ("░" * (width - full - len(tip)), "dim"))


def course(
    seen: Iterable[tuple[float, int]], limit_bytes: int, now_s: float, width: int, has_blocks: bool = True
) -> Text:
    """The last minutes of what was used, a column each for an equal time: the most that was seen in it.

    seen: (seconds of the clock of `now_s`, bytes).
    """
    columns = max(1, width - len(_COURSE_LABEL))
    most = [-1] * columns
    for time_s, used_bytes in seen:
        place = columns - 1 - int((now_s - time_s) * columns / COURSE_S)
        if 0 <= place < columns:
            most[place] = max(most[place], used_bytes)
    for place in range(1, columns):
        most[place] = most[place - 1] if most[place] < 0 else most[place]  # nothing was looked at meanwhile
    steps = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588" if has_blocks else " .:-=+*#@"
    cells = (steps[0 if size < 0 else 1 + min(7, 8 * size // max(1, limit_bytes))] for size in most)
    return Text.assemble((_COURSE_LABEL, "dim"), ("".join(cells), CALM))
