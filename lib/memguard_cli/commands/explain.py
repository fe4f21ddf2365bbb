# SPDX-License-Identifier: MIT
"""`memguard explain`: whether memory ended a build, which process died, and what to do about it.

Runs in: outside BitBake.
Covers: arguments; an input that cannot be read beside others that can.
Does not cover: explaining (advice/explanation), words (screens/explanation).
"""

from __future__ import annotations

import json
import os
import sys

import click

from memguard_cli.advice.explanation import Explanation, explain_input
from memguard_cli.errors import UserError
from memguard_cli.screens.explanation import as_data, show
from memguard_cli.screens.text import make_console, printable


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects instead, one for each input.")
@click.argument("inputs", nargs=-1, metavar="[LOG | BUILD DIRECTORY | -]...")
def explain(as_json: bool, inputs: tuple[str, ...]) -> int:
    """Say whether memory ended a build, which process died, and what to do.

    LOG is any log: of a task, the console, a CI job or the kernel (plain, .gz or .xz); - reads standard input.
    For a build directory, the logs of the tasks that failed last are read, and what memguard recorded of memory then;
    a build that still runs or ended well is called that. Without an argument, it is the build directory you are in
    ($BUILDDIR).

    Example: memguard explain tmp/work/*/*/*/temp/log.do_compile.*

    Exit status: 0 whatever the verdict, 2 if one of the inputs cannot be read; the others are explained all the same.
    """
    given = inputs or (os.environ.get("BUILDDIR") or ".",)
    found: list[list[Explanation]] = []
    status = 0
    for name in given:
        try:
            found.append(explain_input(name, sys.stdin.buffer))
        except UserError as reason:
            click.echo(f"memguard: {printable(str(reason))}", err=True)
            status = 2
    if as_json:
        print(json.dumps([as_data(explanations) for explanations in found], indent=2))
    else:
        console = make_console()
        for explanation in (explanation for explanations in found for explanation in explanations):
            show(console, explanation)
    return status
