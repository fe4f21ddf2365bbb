# SPDX-License-Identifier: MIT
"""Text from elsewhere on somebody's screen: names out of files, databases and arguments.

Runs in: outside BitBake.
Covers: what a terminal would obey, and what rich would take for markup or an emoji.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text


def printable(text: str) -> str:
    """`text` in one line, with a question mark for all that is no visible character."""
    return "".join(character if character.isprintable() else "?" for character in text)


def plain(text: str, style: str = "") -> Text:
    """`text` for rich, every character of it meaning itself."""
    return Text(printable(text), style)


def count(number: int, noun: str) -> str:
    """A number of things, as "1 run" and "1,200 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_minutes(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    if seconds == float("inf"):
        return "ever"
    if seconds >= 36000:
        return f"{seconds / 3600:,.1f} h"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave to main() what rich would take for a failure."""
        raise


def make_console() -> Console:
    """Where people read; a copy in a file or a pipe is as wide as COLUMNS says, or 80."""
    return _Console(highlight=False, emoji=False, markup=False)


def make_table(*columns: str, left: int = 1) -> Table:
    """A table without lines: the first `left` columns are text, which is folded, the others numbers, which are not."""
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold")
    for place, heading in enumerate(columns):
        if place < left:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True, max_width=10)  # up to 1023.9 GiB
    return table
