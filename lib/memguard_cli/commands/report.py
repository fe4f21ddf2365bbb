# SPDX-License-Identifier: MIT
"""`memguard report`: what one build did with its memory, as a page, as text, or for machines.

Runs in: outside BitBake.
Covers: arguments, and where the report goes.
Does not cover: which build is meant and how it stands (report/build), judging (advice/build), writing (report).
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import click

from memguard.channels.build_directory import BuildDirectory
from memguard_cli.advice.build import advise
from memguard_cli.advice.limits import find_limits
from memguard_cli.builds.assemble import read_build
from memguard_cli.builds.history_file import lives_beside
from memguard_cli.builds.plain_file import write_whole
from memguard_cli.errors import UserError
from memguard_cli.report.build import find_log, find_standing
from memguard_cli.report.comparison import compare, comparison_data, show_comparison
from memguard_cli.report.data import as_data
from memguard_cli.report.page import render
from memguard_cli.report.text import show
from memguard_cli.report.words import Standing
from memguard_cli.screens.text import make_console, printable

_STAMP = re.compile(r"\d{14}(?:-\d+)?")


@click.command()
@click.argument("sources", nargs=-1, metavar="[BUILD DIRECTORY | EVENTS FILE | STAMP]...")
@click.option("--build", "stamp", metavar="STAMP", help="A build other than the newest, such as 20260131120000.")
@click.option("-o", "--output", metavar="FILE", help="Write there; - is standard output.")
@click.option("--text", "as_text", is_flag=True, help="Plain text of 80 columns.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def report(sources: tuple[str, ...], stamp: str | None, output: str | None, as_text: bool, as_json: bool) -> int:
    """Show what a build did with its memory, what was held and why, and what to change.

    Writes one HTML file that needs no network, report-STAMP.html beside the build's logs, and prints its name. The
    build is the newest of BUILD DIRECTORY ($BUILDDIR, or where you are), or that of an EVENTS FILE, or the one of this
    STAMP where you are. Of two builds it prints what has changed from the first to the second.

    \b
    Example:
      memguard report ~/yocto/build --text
      memguard report 20260131120000 20260201120000

    Exit status: 0, 2 where there is no such build or the report cannot be written.
    """
    if as_text and as_json:
        raise UserError("--text and --json exclude each other")
    if len(sources) > 2 or (len(sources) == 2 and stamp is not None):
        raise UserError("at most two builds are compared, each named by itself", "20260131120000 20260201120000")
    if len(sources) == 2:
        return _compare([_find(name) for name in sources], output or "-", as_json)
    events_path, directory = _find(sources[0], stamp) if sources else find_log(None, stamp)
    record = read_build(events_path)
    standing = find_standing(record, directory)
    with lives_beside(BuildDirectory(directory).history) as lives:
        limits = find_limits(record, lives)
    advice = advise(record, limits, is_running=standing is Standing.RUNNING)
    if as_json:
        _write(output or "-", json.dumps(as_data(record, standing, limits, advice), indent=1) + "\n")
    elif as_text:
        console, page = make_console(), io.StringIO()
        if output not in (None, "-"):
            console.file = page
        show(console, record, standing, limits, advice)
        if page.tell():
            _write(str(output), page.getvalue())
    else:
        target = output or str(BuildDirectory(directory).report(record.stamp))
        _write(target, render(record, standing, limits, advice))
        if target != "-":
            click.echo(printable(target))
    return 0


def _find(name: str, stamp: str | None = None) -> tuple[Path, Path]:
    """The events log that a word names, and its MEMGUARD_DIR: a stamp of a build here, a file, or a directory."""
    if _STAMP.fullmatch(name) and not Path(name).exists():
        return find_log(None, name)
    return find_log(Path(name), stamp)


def _compare(logs: list[tuple[Path, Path]], output: str, as_json: bool) -> int:
    records = [(read_build(path), directory) for path, directory in logs]
    first, second = [(record, find_standing(record, directory)) for record, directory in records]
    comparison = compare(first, second)
    if as_json:
        _write(output, json.dumps(comparison_data(comparison), indent=1) + "\n")
        return 0
    console, page = make_console(), io.StringIO()
    if output != "-":
        console.file = page
    show_comparison(console, comparison)
    if page.tell():
        _write(output, page.getvalue())
    return 0


def _write(target: str, text: str) -> None:
    """Write a file whole or not at all, or to standard output. Raises UserError."""
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        write_whole(Path(target), [text])
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; -o names another place") from None
