# SPDX-License-Identifier: MIT
"""Which build a report is about, and how it stands.

Runs in: outside BitBake.
Covers: the newest build of a directory, another one, a log that somebody names; builds that were killed or still run.
Does not cover: reading the log (builds/assemble).
"""

from __future__ import annotations

from pathlib import Path

from memguard.channels.build_directory import BuildDirectory
from memguard_cli.builds.assemble import logs_of
from memguard_cli.builds.directory import find_directory
from memguard_cli.builds.record import BuildRecord
from memguard_cli.builds.state import BadState, NoState, has_writer, now_s, read_state
from memguard_cli.errors import UserError
from memguard_cli.report.words import Standing, failed_runs


def find_log(source: Path | None, stamp: str | None) -> tuple[Path, Path]:
    """The events log that is meant, and the MEMGUARD_DIR it lies in. Raises UserError."""
    if source is not None and source.is_file():
        if stamp is not None:
            raise UserError("--build chooses a build of a directory; an events file is one already")
        path = source.absolute()
        written = BuildDirectory(path.parent.parent)
        if path.parent == written.readings:
            path = written.events / path.name
            if not path.is_file():
                raise UserError(f"{source} has no events beside it: there is no {path}")
        return path, written.path if path.parent == written.events else path.parent
    directory = find_directory(source)
    try:
        logs = logs_of(directory)
    except FileNotFoundError:
        logs = []
    except OSError as error:
        raise UserError(f"{BuildDirectory(directory).events} cannot be read: {error.strerror}") from None
    if not logs:
        raise UserError(f"no build has left a log in {BuildDirectory(directory).events}; build something first")
    if stamp is None:
        return logs[-1], directory
    found = [log for log in logs if log.stem == stamp]
    if not found:
        known = ", ".join(log.stem for log in logs[-3:])
        raise UserError(f"--build {stamp}: no such build in {directory}; the newest are {known}")
    return found[0], directory


def find_standing(record: BuildRecord, directory: Path) -> Standing:
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
        return Standing.KILLED if record.sights else Standing.UNKNOWN
    except BadState:
        return Standing.UNKNOWN
    return Standing.RUNNING if has_writer(state, now_s()) else Standing.KILLED
