# SPDX-License-Identifier: MIT
"""`memguard report`: what one build did with its memory, as a page, as text, or for machines.

Runs in: outside BitBake.
Covers: which build is meant, how it stands, where the report goes.
Does not cover: reading its logs (build_record), judging (build_advice), writing (report_page,
report_text, report_data).
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from pathlib import Path

import click

from memguard_cli.advice.build import advise
from memguard_cli.builds.assemble import NoRecord, logs_of, read_build
from memguard_cli.builds.directory import find_directory
from memguard_cli.builds.record import BuildRecord
from memguard_cli.builds.state import BadState, NoState, now_s, read_state
from memguard_cli.report.data import as_data
from memguard_cli.report.page import render
from memguard_cli.report.text import show
from memguard_cli.report.words import Standing, failed_runs
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
        raise click.UsageError("--text and --json exclude each other")
    events_path, directory = _find(source, stamp)
    try:
        record = read_build(events_path)
    except NoRecord as error:
        raise click.UsageError(str(error)) from None
    standing = _standing(record, directory)
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
        target = output or str(directory / f"report-{record.stamp}.html")
        _write(target, render(record, standing, advice))
        if target != "-":
            click.echo(printable(target))
    return 0


def _find(source: Path | None, stamp: str | None) -> tuple[Path, Path]:
    """The events log that is meant, and the MEMGUARD_DIR it lies in. Raises UsageError."""
    if source is not None and source.is_file():
        if stamp is not None:
            raise click.UsageError("--build chooses a build of a directory; an events file is one already")
        path = source.absolute()
        if path.parent.name == "readings":
            path = path.parent.parent / "events" / path.name
            if not path.is_file():
                raise click.UsageError(f"{source} has no events beside it: there is no {path}")
        return path, path.parent.parent if path.parent.name == "events" else path.parent
    directory = find_directory(source)
    try:
        logs = logs_of(directory)
    except FileNotFoundError:
        logs = []
    except OSError as error:
        raise click.UsageError(f"{directory}/events cannot be read: {error.strerror}") from None
    if not logs:
        raise click.UsageError(f"no build has left a log in {directory}/events; build something first")
    if stamp is None:
        return logs[-1], directory
    found = [log for log in logs if log.stem == stamp]
    if not found:
        known = ", ".join(log.stem for log in logs[-3:])
        raise click.UsageError(f"--build {stamp}: no such build in {directory}; the newest are {known}")
    return found[0], directory


def _standing(record: BuildRecord, directory: Path) -> Standing:
    """How the build stands, by its log, and by the state beside it where the log has no end."""
    if record.end is not None:
        return Standing.FAILED if failed_runs(record) else Standing.ENDED
    try:
        is_newest = logs_of(directory)[-1].stem == record.stamp
    except (OSError, IndexError):
        return Standing.UNKNOWN  # a log somebody copied
    if not is_newest:
        return Standing.KILLED
    try:
        state = read_state(directory)
    except NoState:
        # A build that runs without a sentinel has no state either.
        return Standing.KILLED if record.moments else Standing.UNKNOWN
    except BadState:
        return Standing.UNKNOWN
    return Standing.RUNNING if state.has_writer(now_s()) else Standing.KILLED


def _write(target: str, text: str) -> None:
    """Write a file whole or not at all, or to standard output. Raises UsageError."""
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe; a directory refuses
            path.write_text(text, encoding="utf-8")
            return
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(draft).chmod(0o644)
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink()
            raise
    except OSError as error:
        raise click.UsageError(f"{target} cannot be written: {error.strerror}; -o names another place") from None
