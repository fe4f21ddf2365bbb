# SPDX-License-Identifier: MIT
"""How much memory a task will take: the user's word, else what earlier builds saw, else the table, else the kind.

Runs in: the BitBake server; pure but for reading the table that lies beside it.
Covers: a footprint for every (recipe, task).
Does not cover: what follows from samples (fit), and where they are kept (record/history).
"""

from __future__ import annotations

import csv
import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from memguard.model import Footprint, Sample
from memguard.predict.fit import learn
from memguard.predict.kinds import Kinds
from memguard.units import MIB

TABLE = Path(__file__).with_name("memguard-footprints.csv")

# What multilib.bbclass puts before the name of a recipe that is built for another ABI.
_MULTILIB = re.compile(r"^lib[xn]?(32|64)-")


@dataclass(frozen=True)
class Known:
    """One row of the table: shell patterns on recipe and task, their footprint, and where that was found."""

    recipe: str
    task: str
    footprint: Footprint
    source: str = field(default="", compare=False)


@dataclass(frozen=True)
class Kind:
    """Footprint of the tasks whose name matches, in recipes that inherit one of the classes (any where empty)."""

    name: str
    task: str
    classes: frozenset[str]
    base_mib: int
    per_job_mib: int
    serial_mib: int = 0

    @property
    def footprint(self) -> Footprint:
        base, per_job, serial = (size * MIB for size in (self.base_mib, self.per_job_mib, self.serial_mib))
        return Footprint(base, per_job, serial, self.name, is_guess=True)


def _kind(name: str, task: str, classes: str, base_mib: int, per_job_mib: int, serial_mib: int = 0) -> Kind:
    return Kind(name, task, frozenset(classes.split()), base_mib, per_job_mib, serial_mib)


# First match wins. Per job: what one compiler of that language takes in ordinary sources. Serial: the largest single
# process of such a recipe.
# evidence: RPM and several distributions plan 512 MiB a C++ job. C is what autotools and plain makes of OE-core build:
# of nine such recipes eight took 14 to 90 MiB with one or two jobs, one 315 and more; meson builds both (fribidi took
# 115 MiB, harfbuzz 1,100). rustc takes a crate at a time; serial parts from buildstats of recipes of that kind. Sources
# stand in the table of known recipes, which is condensed from the same facts.
KINDS = (
    _kind(
        "a Rust build", "do_compile*", "cargo cargo_common rust python_maturin python_setuptools3_rust", 128, 600, 1024
    ),
    _kind("a Rust build", "do_install*", "rust", 128, 600, 1024),
    _kind("a Go build", "do_compile*", "go go-mod", 128, 300, 512),
    _kind("a kernel", "do_compile*", "kernel", 256, 100, 2048),
    _kind("kernel modules", "do_compile*", "module", 64, 100),
    _kind("a meson build", "do_compile*", "meson", 64, 192, 384),
    _kind("a C++ build (cmake, qmake)", "do_compile*", "cmake qmake5 qt6-cmake scons waf", 64, 512),
    _kind("an autotools build", "do_compile*", "autotools autotools-brokensep perlnative cpan", 64, 96, 160),
    _kind("a Python build", "do_compile*", "setuptools3 python_pep517", 96, 160),
    _kind("a build", "do_compile*", "", 64, 96, 160),
    _kind("an image", "do_rootfs", "", 512, 64),
    _kind("an image", "do_image*", "", 512, 64),
    _kind("an SDK", "do_populate_sdk*", "", 512, 64),
    _kind("packaging", "do_package_write_*", "", 128, 96, 512),
    _kind("packaging", "do_package", "", 128, 48),
    _kind("SPDX", "do_create_*spdx*", "", 256, 16),
    _kind("a configure step", "do_configure*", "", 160, 0),
    _kind("a light task", "*", "", 64, 0),
)


def read_table(path: Path = TABLE) -> list[Known]:
    """The known recipes in file order. Raises OSError, or ValueError naming file and line of a wrong row."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = [(number, line) for number, line in enumerate(file, 1) if line.strip() and not line.startswith("#")]
    rows = csv.DictReader(line for _, line in lines)
    known = []
    for (number, _), row in zip(lines[1:], rows):
        try:
            recipe, task = row["recipe"], row["task"]
            base, per_job, serial = (int(row[name]) * MIB for name in ("base_mib", "per_job_mib", "serial_mib"))
            if not recipe or not task or min(base, per_job, serial) < 0:
                raise ValueError("empty name or negative size")
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}:{number}: not a footprint; a good row is: llvm-native,do_compile,64,1168,2336,where from"
            ) from None
        known.append(Known(recipe, task, Footprint(base, per_job, serial, "known"), row.get("source") or ""))
    return known


class Predictor:
    """Footprints from overrides, samples, table and kinds, in this order; the last two are the samples' prior.

    samples: gives what is remembered of a task, by recipe and name of the task.
    """

    def __init__(
        self,
        known: Iterable[Known],
        overrides: Mapping[str, Mapping[str, Footprint]],
        samples: Callable[[str, str], Sequence[Sample]] = lambda recipe, task: (),
    ) -> None:
        self._overrides = overrides
        self._samples = samples
        self._known = list(known)
        self._rows: dict[str, list[tuple[re.Pattern[str], Known]]] = {}
        self._kinds = Kinds()

    def take(
        self, recipe: str, task: str, classes: frozenset[str], jobs: int, peak_bytes: int, has_ended: bool = True
    ) -> str:
        """What a task took says something of others of its kind: the kind of which more is to be expected now, or less.

        "" where nothing worth mentioning has changed. What a task has taken that still runs counts where it is more
        than was expected of it.
        """
        guess = by_kind(task, classes)
        if not has_ended and peak_bytes <= self._kinds.footprint(guess).peak_bytes(jobs):
            return ""
        return guess.origin if self._kinds.learn(guess, recipe, jobs, peak_bytes) else ""

    def predict(self, recipe: str, task: str, classes: frozenset[str], version: str = "") -> Footprint:
        """The footprint of `task` of `recipe` (PN, PV), which inherits `classes` (names without .bbclass)."""
        own = self._overrides.get(recipe, {}).get(task)
        if own is not None:
            return own
        known = self.find_known(recipe, task)
        prior = known.footprint if known is not None else self._kinds.footprint(by_kind(task, classes))
        samples = self._samples(recipe, task)
        return learn(samples, prior, version).footprint if samples else prior

    def find_known(self, recipe: str, task: str) -> Known | None:
        """The row of the table for `task` of `recipe` (PN), whatever multilib it is built for."""
        rows = self._rows.get(task)
        if rows is None:
            rows = [
                (re.compile(fnmatch.translate(row.recipe)), row)
                for row in self._known
                if fnmatch.fnmatchcase(task, row.task)
            ]
            self._rows[task] = rows
        recipe = _MULTILIB.sub("", recipe)
        return next((row for pattern, row in rows if pattern.match(recipe)), None)


@functools.lru_cache(maxsize=4096)
def by_kind(task: str, classes: frozenset[str]) -> Footprint:
    """The footprint of a task nobody knows, by its name and the classes its recipe inherits."""
    for kind in KINDS:
        if fnmatch.fnmatchcase(task, kind.task) and (not kind.classes or kind.classes & classes):
            return kind.footprint
    raise AssertionError("the last kind matches every task")
