# SPDX-License-Identifier: MIT
"""`memguard top`: a running build, live in the terminal, or as plain lines where there is none.

Runs in: outside BitBake.
Covers: arguments.
Does not cover: following the build (screens/follow), drawing it (screens/top).
"""

from __future__ import annotations

from pathlib import Path

import click

from memguard_cli.builds.directory import find_directory
from memguard_cli.errors import UserError
from memguard_cli.screens.follow import View, await_running, ended_by_signals, farewell, find_running
from memguard_cli.screens.text import make_console, plain

# On a terminal, and for plain lines, which stay.
_INTERVAL_S, _PLAIN_INTERVAL_S = 1.0, 10.0


@click.command()
@click.argument("build", required=False, type=click.Path(path_type=Path), metavar="[BUILD DIRECTORY]")
@click.option("--interval", type=float, metavar="S", help="Seconds between pictures: 1, or 10 between plain lines.")
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option("--wait", is_flag=True, help="Wait for a build that has not begun.")
def top(build: Path | None, interval: float | None, once: bool, wait: bool) -> int:
    """Watch a running build: memory against the limit, what each task takes, who is held and why.

    BUILD DIRECTORY is where bitbake was started, else $BUILDDIR or the current directory; its MEMGUARD_DIR will do,
    too. It ends with the build, or with q or Ctrl-C; up and down scroll the tasks, ? explains what the words mean.
    Without a terminal it prints a line for each event and now and then one for the whole. NO_COLOR is respected.

    Jobs are the compilers that a task may run: "3/8" is 3 now, 8 at most. Where its make, ninja or cargo take jobs
    from a pool, each job but the first needs a token, and memguard gives tokens out as memory allows.

    Example: memguard top ~/yocto/build

    Exit status: 0 the build has ended, or q was pressed, 2 there is none to watch, 130 interrupted.
    """
    if interval is not None and not 0.1 <= interval <= 3600:
        raise UserError(f"--interval {interval:g}: not between 0.1 and 3600 seconds", "1")
    if once and wait:
        raise UserError("--once and --wait exclude each other: one looks now, the other later")
    directory = find_directory(build, is_awaited=wait)
    console = make_console()
    state = await_running(directory, console) if wait else find_running(directory)
    view = View(directory, console)
    if once:
        console.print(view.picture(state, room_height=None))
        return 0
    is_live = console.is_terminal and not console.is_dumb_terminal
    with ended_by_signals():
        if is_live:
            last = view.follow_live(state, interval or _INTERVAL_S)
            if last is None:
                return 0
        else:
            last = view.follow(state, interval or _PLAIN_INTERVAL_S)
    console.print(plain(farewell(directory, last)), soft_wrap=True)
    return 0
