# SPDX-License-Identifier: MIT
"""What OpenEmbedded's buildstats wrote about earlier builds, as records.

Runs in: outside BitBake.
Covers: the text files of every release that measures memory (krogoth, 2016, and later), of one build or of many.
Does not cover: what buildstats does not know: a task's peak as a whole, its jobs and its machine. A record out of it
has None for the first two, and says how large the largest single process was.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memguard.model import Outcome, Record
from memguard.record.history.samples import format_sample
from memguard.record.history.store import Counts, History
from memguard.units import KIB, MIB

# BUILD/RECIPE/do_task below a directory of builds; up to jethro there was TARGET-MACHINE above BUILD.
DEEPEST_LEVEL = 4

# A task's file has about a kilobyte, and as much again for each time the task ran in that build.
LARGEST_FILE_BYTES = MIB

# NAME-[EPOCH_]VERSION: names and versions both may have hyphens, so the first pattern that fits decides.
_SPLITS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<recipe>.+?)-\d{1,5}_(?P<version>.+)",  # an epoch stands between them: glib-2.0-1_2.78.4
        r"(?P<recipe>.+-native)-(?P<version>.+)",  # so does this suffix: libedit-native-20230828-3.1
        r"(?P<recipe>.+?)-(?P<version>(19|20)\d{6}-.+)",  # a version that begins with a date: libedit-20230828-3.1
        r"(?P<recipe>.+?)-(?P<version>\d[^-]*\+.+)",  # versions of two things: cargo-c-0.10.24+cargo-0.98.0
        r"(?P<recipe>.+?)-(?P<version>(\d+\.[\d.]*\d|\d\d+)-\d+)",  # a second number: imagemagick-7.1.1-26
        r"(?P<recipe>.+)-(?P<version>\d.*)",  # the last number: gcc-source-13.2.0-13.2.0
        r"(?P<recipe>.+)-(?P<version>.+)",
    )
)

_START = re.compile(r"^Event: TaskStarted", re.MULTILINE)
_ELAPSED = re.compile(r"Elapsed time: (\S+) seconds")
_STATUS = re.compile(r"^Status: (PASSED|FAILED)", re.MULTILINE)
_USAGE = re.compile(r"^(?:Child )?rusage (ru_\w+): (\S+)", re.MULTILINE)
_STARTED = re.compile(r"^Started: (\S+)", re.MULTILINE)


class NoBuildstats(ValueError):
    """A place without buildstats, in one sentence."""


@dataclass(frozen=True)
class Build:
    """One directory of buildstats.

    started_s: when the first of its tasks began, in seconds since the epoch; None where none says so.
    """

    name: str
    started_s: float | None
    records: tuple[Record, ...]


def import_buildstats(history: History, directory: Path, complain: Callable[[str], None]) -> Counts:
    """Remember what the buildstats in or below `directory` says; again changes nothing.

    `complain` takes a sentence for each file that is passed over; these are not counted. Raises NoBuildstats.
    """
    builds = read_builds(directory, complain)
    samples = (format_sample(record, build.started_s) for build in builds for record in build.records)
    return history.import_samples(samples, lambda bad: complain(f"{directory}: {bad}"))


def read_builds(directory: Path, complain: Callable[[str], None]) -> Iterator[Build]:
    """The builds in or below `directory`, which may itself be one, by name.

    `complain` takes a sentence for each file that is passed over. Raises NoBuildstats where there is none at all.
    """
    found: dict[Path, list[Path]] = {}
    for path in _find_tasks(directory.resolve(), DEEPEST_LEVEL):
        found.setdefault(path.parents[1], []).append(path)
    if not found:
        raise NoBuildstats(f"{directory} has no buildstats (BUILD/RECIPE-VERSION-REVISION/do_TASK) in or below it")
    for build in sorted(found, key=lambda path: path.name):
        records: list[Record] = []
        starts: list[float] = []
        for path in found[build]:
            try:
                text = _read(path)
                starts += _numbers(_STARTED.findall(text))
                records += _read_runs(text, path)
            except OSError as error:
                complain(f"{_show(path)}: {error.strerror}")
            except ValueError as error:
                complain(f"{_show(path)}: {error}")
        yield Build(build.name, min(starts, default=None), tuple(records))


def split_name(name: str) -> tuple[str, str]:
    """Recipe and version in the name of a recipe's directory, PN-[EPOCH_]PV-PR."""
    stem = re.sub(r"-r\d[^-]*$", "", name)
    for pattern in _SPLITS:
        match = pattern.fullmatch(stem)
        if match is not None:
            return match["recipe"], match["version"]
    return stem, ""


def _find_tasks(directory: Path, levels: int) -> Iterator[Path]:
    """The files of tasks in and below `directory`, in order; links to directories lead nowhere."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if levels > 1:
                yield from _find_tasks(Path(entry.path), levels - 1)
        elif entry.name.startswith("do_"):
            yield Path(entry.path)


def _read(path: Path) -> str:
    """The text of a file. Raises OSError, or ValueError for what is no file of a task."""
    if not path.is_file():
        raise ValueError("is not a plain file")
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise ValueError("is too large for the file of a task")
    return path.read_text(encoding="utf-8", errors="replace")


def _read_runs(text: str, path: Path) -> Iterator[Record]:
    """The runs of a task that its file tells of: one, or more where it ran again in the same build.

    Raises ValueError, in a few words, at the first run that is incomplete.
    """
    if not text:
        raise ValueError("is empty")
    recipe, version = split_name(path.parent.name)
    starts = [match.start() for match in _START.finditer(text)] or [0]
    for start, end in zip(starts, [*starts[1:], len(text)]):
        run = text[start:end]
        status, elapsed = _STATUS.search(run), _ELAPSED.search(run)
        if status is None:
            raise ValueError("has no end: the task or the build was cut off")
        if elapsed is None:
            raise ValueError("does not say how long the task ran")
        usage: dict[str, list[float]] = {}
        for key, value in _USAGE.findall(run):
            usage.setdefault(key, []).extend(_numbers([value]))
        if "ru_maxrss" not in usage:
            raise ValueError("does not say how much memory the task took, as in releases before krogoth")
        (wall_s,) = _numbers([elapsed[1]])
        yield Record(
            build=path.parents[1].name,
            recipe=recipe,
            version=version,
            task=path.name,
            machine="",
            jobs=None,
            peak_bytes=None,
            largest_process_bytes=int(max(usage["ru_maxrss"])) * KIB,
            wall_s=wall_s,
            cpu_s=round(sum(usage.get("ru_utime", [])) + sum(usage.get("ru_stime", [])), 6),
            outcome=Outcome.OK if status[1] == "PASSED" else Outcome.FAILED,
        )


def _show(path: Path) -> str:
    """A path that can be printed, whatever bytes it is made of."""
    return os.fsencode(path).decode(errors="replace")


def _numbers(texts: list[str]) -> list[float]:
    """Numbers from 0 on. Raises ValueError for anything else."""
    numbers = []
    for text in texts:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < 1 << 53:
            raise ValueError(f"has {text[:40]!r} where a number should be")
        numbers.append(number)
    return numbers
