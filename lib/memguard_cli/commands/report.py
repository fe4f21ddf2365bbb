# SPDX-License-Identifier: MIT
"""`memguard report`: what one build did with its memory, as a page, as text, or for machines.

Runs in: outside BitBake.
Covers: arguments, and where the report goes.
Does not cover: which build is meant and how it stands (report/build), judging (advice/build), writing (report).
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import click

from memguard.channels.build_directory import BuildDirectory
from memguard_cli.advice.build import advise
from memguard_cli.builds.assemble import read_build
from memguard_cli.builds.plain_file import write_whole
from memguard_cli.errors import UserError
from memguard_cli.report.build import find_log, find_standing
from memguard_cli.report.data import as_data
from memguard_cli.report.page import render
from memguard_cli.report.text import show
from memguard_cli.report.words import Standing
from memguard_cli.screens.text import make_console, printable


@click.command()
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[BUILD DIRECTORY | EVENTS FILE]")
@click.option("--build", "stamp", metavar="STAMP", help="Another build than the newest, as 20260131120000.")
@click.option("-o", "--output", metavar="FILE", help="Write there; - is standard output.")
@click.option("--text", "as_text", is_flag=True, help="Plain text of 80 columns.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def report(source: Path | None, stamp: str | None, output: str | None, as_text: bool, as_json: bool) -> int:
    """Tell what a build did with its memory, what was held and why, and what to change.

    Writes one HTML file that needs no network, report-STAMP.html beside the build's logs, and prints its name. The
    build is the newest of BUILD DIRECTORY ($BUILDDIR, or where you are), or that of an EVENTS FILE.

    Example: memguard report ~/yocto/build --text

    Exit status: 0, 2 where there is no such build or the report cannot be written.
    """
    if as_text and as_json:
        raise UserError("--text and --json exclude each other")
    events_path, directory = find_log(source, stamp)
    record = read_build(events_path)
    standing = find_standing(record, directory)
    advice = advise(record, is_running=standing is Standing.RUNNING)
    if as_json:
        _write(output or "-", json.dumps(as_data(record, standing, advice), indent=1) + "\n")
    elif as_text:
        console, page = make_console(), io.StringIO()
        if output not in (None, "-"):
            console.file = page
        show(console, record, standing, advice)
        if page.tell():
            _write(str(output), page.getvalue())
    else:
        target = output or str(BuildDirectory(directory).report(record.stamp))
        _write(target, render(record, standing, advice))
        if target != "-":
            click.echo(printable(target))
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
