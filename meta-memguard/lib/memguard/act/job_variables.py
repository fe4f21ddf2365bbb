# SPDX-License-Identifier: MIT
"""The variables that give build tools their number of jobs, and how one is lowered.

Runs in: task children; pure.
Covers: the text of each variable. A value is lowered or left alone, never raised.
Does not cover: reading them from the datastore and setting them there and in the environment (bitbake/task).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Knob:
    """One variable that sets a number of jobs.

    least:    the smallest value it is lowered to.
    used_by:  classes whose tools read it from the environment although OE sets no value: where a recipe
              inherits one of them, an absent knob is set.
    """

    variable: str
    least: int = 1
    used_by: frozenset[str] = frozenset()


# xz and pzstd write another format, or other blocks, with one thread than with several: OE-core never goes below
# two threads, so that outputs stay reproducible, and neither do we.
KNOBS = (
    Knob("PARALLEL_MAKE"),
    Knob("PARALLEL_MAKEINST"),
    Knob("BB_NUMBER_THREADS"),
    Knob("XZ_THREADS", least=2),
    Knob("ZSTD_THREADS", least=2),
    Knob("BAZEL_JOBS"),
    Knob(
        "CARGO_BUILD_JOBS",
        used_by=frozenset({"cargo", "cargo_common", "python_maturin", "python_setuptools3_rust"}),
    ),
    Knob("GOMAXPROCS", used_by=frozenset({"go", "go-mod"})),
    Knob("GO_PARALLEL"),
    Knob("GO_PARALLEL_BUILD"),
    Knob("NINJAFLAGS"),
    Knob("CMAKE_BUILD_PARALLEL_LEVEL", used_by=frozenset({"cmake"})),
    Knob("MAX_JOBS", used_by=frozenset({"setuptools3", "python_pep517", "python_setuptools_build_meta"})),
)

# No job count has more than 18 digits, and int() refuses much longer ones.
_BARE = re.compile(r"\s*(\d{1,18})\s*", re.ASCII)
_NUMBERED = re.compile(r"(?<!\S)(-j\s*|--jobs[=\s]\s*|-p[=\s]?\s*)(\d{1,18})(?!\S)", re.ASCII)
_UNLIMITED = re.compile(r"(?<!\S)(-j|--jobs)(?=\s|$)(?!\s+\d)", re.ASCII)


def lower(value: str, jobs: int, least: int = 1) -> str:
    """`value` of a knob with every number of jobs above `jobs` lowered to it, but not below `least`.

    Understands a bare number ("8"), and -j8, -j 8, --jobs=8, -p 8 among other options, which stay as they are.
    0 and a bare -j mean "no limit" and are lowered too. A value without a number of jobs stays as it is: a recipe
    with PARALLEL_MAKE = "" has chosen one job.
    """
    most = max(jobs, least)

    def fewer(number: str) -> str:
        return number if 0 < int(number) <= most else str(most)

    bare = _BARE.fullmatch(value)
    if bare:
        return fewer(bare.group(1))
    value = _NUMBERED.sub(lambda match: match.group(1) + fewer(match.group(2)), value)
    return _UNLIMITED.sub(lambda match: f"{match.group(1)} {most}", value)


def jobs_in(value: str) -> int | None:
    """The number of jobs a knob's value asks for; None where it names none or no limit."""
    bare = _BARE.fullmatch(value)
    if bare:
        return int(bare.group(1)) or None
    numbers = [int(match.group(2)) for match in _NUMBERED.finditer(value)]
    return (numbers[-1] or None) if numbers else None


# Tasks that run BB_NUMBER_THREADS processes of their own rather than what PARALLEL_MAKE says.
_THREADED_TASKS = ("do_package", "do_create_", "do_rootfs", "do_image", "do_populate_")


def variables_of(task: str) -> tuple[str, ...]:
    """The variables that say how many jobs a task runs; the first that is set counts."""
    if task.startswith(_THREADED_TASKS):
        return ("BB_NUMBER_THREADS",)
    if task.startswith("do_install"):
        return ("PARALLEL_MAKEINST", "PARALLEL_MAKE")
    return ("PARALLEL_MAKE",)
