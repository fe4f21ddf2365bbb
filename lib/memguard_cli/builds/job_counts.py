# SPDX-License-Identifier: MIT
"""How many tasks and jobs a configuration asks for: BB_NUMBER_THREADS and PARALLEL_MAKE.

Runs in: outside BitBake; pure.
Covers: a number, no limit, no -j, a mistake, what only BitBake knows; icecc, which runs jobs elsewhere.
Does not cover: what the values come to (datastore), what to think of the numbers (advice/configuration).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memguard_cli.builds.operators import CannotTell, Mistake

if TYPE_CHECKING:
    from memguard_cli.builds.configuration import BuildConfiguration

THREADS, JOBS, REMOTE_JOBS = "BB_NUMBER_THREADS", "PARALLEL_MAKE", "ICECC_PARALLEL_MAKE"

_SHELL = re.compile(r"\$\(|`|\$[A-Za-z_]")
_OPTION = re.compile(r"(?:-j|--jobs)(?:\s*=\s*|\s*)(?P<count>[^\s-]\S*)?")


class Kind(enum.Enum):
    """What is known of a count."""

    NUMBER = "number"
    UNLIMITED = "unlimited"
    NO_OPTION = "no -j"
    MISTAKE = "mistake"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class JobCount:
    """What one variable asks for.

    variable: the one that counts: ICECC_PARALLEL_MAKE where icecc is inherited and it is set.
    written:  its value as it stands in the files.
    count:    None but for a NUMBER.
    why:      of a MISTAKE what is wrong, of an UNKNOWN why it cannot be worked out.
    """

    variable: str
    written: str
    kind: Kind
    count: int | None = None
    why: str = ""
    is_default: bool = False


def count_threads(build: BuildConfiguration) -> JobCount:
    """The tasks that run at once."""
    return _count(build, THREADS)


def count_jobs(build: BuildConfiguration, recipe: str = "") -> JobCount:
    """The jobs of a compile, of all recipes or of one."""
    if recipe:
        build = replace(build, store=build.store.for_recipe(recipe))
    has_icecc = "icecc" in (build.expand("INHERIT") or build.written("INHERIT")).split()
    if has_icecc and build.expand("ICECC_DISABLED") != "1" and build.written(REMOTE_JOBS):
        return _count(build, REMOTE_JOBS)
    return _count(build, JOBS)


def _count(build: BuildConfiguration, variable: str) -> JobCount:
    written = ""
    is_default = build.store.origins.get(variable) == str(build.defaults)
    try:
        written = build.store.written(variable) or ""
        value = build.store.get(variable) or ""
        kind, count, why = _read(variable, value)
    except CannotTell as error:
        return JobCount(variable, written, Kind.UNKNOWN, None, str(error))
    except Mistake as error:
        return JobCount(variable, written, Kind.MISTAKE, None, str(error))
    return JobCount(variable, written, kind, count, why, is_default)


def read_again(count: JobCount, value: str) -> JobCount:
    """The same count with the value that BitBake itself gives the variable."""
    kind, number, why = _read(count.variable, value)
    return replace(count, kind=kind, count=number, why=why)


def _read(variable: str, value: str) -> tuple[Kind, int | None, str]:
    return _read_threads(value) if variable == THREADS else _read_jobs(value)


def _read_threads(value: str) -> tuple[Kind, int | None, str]:
    text = value.strip()
    if not value:
        return Kind.NUMBER, 1, ""
    fault = _unexpanded(text)
    if fault:
        return fault
    if re.fullmatch(r"[+-]?[0-9]{1,9}", text) and int(text) >= 1:
        return Kind.NUMBER, int(text), ""
    return Kind.MISTAKE, None, f"BitBake takes only a whole number from 1 on, not {text!r}"


def _read_jobs(value: str) -> tuple[Kind, int | None, str]:
    """The last -j of make's options."""
    text = value.strip()
    fault = _unexpanded(text)
    if fault:
        return fault
    options = list(_OPTION.finditer(re.sub(r"(?:(?<=\s)|^)-l\s*\S+", "", text)))
    if not options:
        if text and not text.startswith("-"):
            return Kind.MISTAKE, None, f"without -j in front of it, make takes {text.split()[0]!r} for a target"
        return Kind.NO_OPTION, None, ""
    count = options[-1]["count"]
    if count is None:
        return Kind.UNLIMITED, None, ""
    if re.fullmatch(r"[0-9]{1,9}", count) and int(count) >= 1:
        return Kind.NUMBER, int(count), ""
    return Kind.MISTAKE, None, f"make takes only a whole number from 1 on behind -j, not {count!r}"


def _unexpanded(text: str) -> tuple[Kind, None, str] | None:
    """What is left in a value that should be gone."""
    if "${" in text:
        name = re.sub(r"^.*?\$\{([^}]*)\}?.*$", r"\1", text, flags=re.DOTALL)
        return Kind.UNKNOWN, None, f"{name} is not set in the files that are at hand"
    if _SHELL.search(text):
        return Kind.MISTAKE, None, "BitBake runs no shell here, so this stays as it is written"
    return None
