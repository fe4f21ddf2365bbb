# SPDX-License-Identifier: MIT
"""What tasks of one kind take: a guess for each kind, and what others of that kind took, learned across recipes.

Runs in: the BitBake server, and in a task, which says of what kind it is; pure.
Covers: which kind a task is of; the guess for a recipe that nobody has built, out of what others of its kind took.
Does not cover: recipes that are known by name (footprints), what a recipe's own runs say (fit).

A guess is made for the heaviest of its kind. What a recipe of that kind took is a multiple of it, and multiples are
taken to be lognormal, with a mean and a spread that are shrunk towards what was believed before any was seen: a normal
mean with a conjugate prior worth PRIOR_RECIPES recipes (Gelman and others, Bayesian Data Analysis, section 3.3). What
is predicted lies DEVIATIONS deviations of one more recipe above that mean, which without any recipe is the guess.
"""

from __future__ import annotations

import fnmatch
import functools
from dataclasses import dataclass, replace
from math import ceil, exp, log, sqrt

from memguard.model import Footprint
from memguard.units import MIB

# evidence: over their guesses the peaks of 12 C and 7 C++ compiles of real recipes spread by 0.8 and 0.4 (natural
# logarithms)
PRIOR_SPREAD = 0.7
PRIOR_RECIPES = 2.0
# One recipe in six takes more.
# evidence: one in six of a normal distribution lies beyond it
DEVIATIONS = 1.0
# A smaller change is no news: thousands of tasks may be held, and all of that kind would be judged anew.
# evidence: chosen; predictions of a kind spread by far more
NEWS = 0.1
# No multiple beyond these is believed.
MULTIPLES = (1 / 32, 8.0)


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
# stand in the table of known recipes, which is condensed from the same facts. A setscene task unpacks with tar and
# zstd, beside its own process.
KINDS = (
    _kind("a result from sstate", "*_setscene", "", 64, 0),
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
    _kind("SPDX", "do_sbom_cve_check*", "", 256, 16),
    _kind("a configure step", "do_configure*", "", 160, 0),
    _kind("a light task", "*", "", 64, 0),
)


@functools.lru_cache(maxsize=4096)
def by_kind(task: str, classes: frozenset[str]) -> Footprint:
    """The footprint of a task nobody knows, by its name and the classes its recipe inherits."""
    for kind in KINDS:
        if fnmatch.fnmatchcase(task, kind.task) and (not kind.classes or kind.classes & classes):
            return kind.footprint
    raise AssertionError("the last kind matches every task")


@functools.lru_cache(maxsize=4096)
def named_kind(name: str, task: str) -> Footprint | None:
    """The guess of the kind of this name for `task`; None where there is no such kind (of such tasks)."""
    return next((kind.footprint for kind in KINDS if kind.name == name and fnmatch.fnmatchcase(task, kind.task)), None)


class Kinds:
    """What recipes took of each kind, as multiples of its guess."""

    def __init__(self) -> None:
        self._seen: dict[str, _Multiples] = {}
        self._told: dict[str, float] = {}

    def learn(self, guess: Footprint, recipe: str, jobs: int, peak_bytes: int) -> bool:
        """A task of `recipe` for which `guess` stands took so much with so many jobs; a later run replaces it.

        Whether that moves what is expected of others by more than NEWS since they were told last.
        """
        guessed_bytes = guess.peak_bytes(max(1, jobs))
        if guessed_bytes <= 0 or peak_bytes <= 0:
            return False
        kind, (least, most) = guess.origin, MULTIPLES
        seen = self._seen.setdefault(kind, _Multiples())
        seen.put(recipe, log(min(most, max(least, peak_bytes / guessed_bytes))))
        multiple = self.multiple(kind)
        if abs(multiple / self._told.get(kind, 1.0) - 1) <= NEWS:
            return False
        self._told[kind] = multiple
        return True

    def footprint(self, guess: Footprint) -> Footprint:
        """What is to be expected of a recipe of this kind that nobody has built."""
        multiple = self.multiple(guess.origin)
        return replace(
            guess,
            base_bytes=ceil(guess.base_bytes * multiple),
            per_job_bytes=ceil(guess.per_job_bytes * multiple),
            serial_bytes=ceil(guess.serial_bytes * multiple),
        )

    def multiple(self, kind: str) -> float:
        """By what the guess of a kind is multiplied; 1 where no recipe of it was seen."""
        seen = self._seen.get(kind)
        if seen is None:
            return 1.0
        weight = PRIOR_RECIPES + seen.count
        # Without any recipe one more lies DEVIATIONS of its spread below the guess.
        believed = -DEVIATIONS * PRIOR_SPREAD * sqrt(1 + 1 / PRIOR_RECIPES)
        mean = (PRIOR_RECIPES * believed + seen.total) / weight
        squares = PRIOR_RECIPES * (PRIOR_SPREAD**2 + (believed - mean) ** 2) + seen.squares_about(mean)
        return exp(mean + DEVIATIONS * sqrt(squares / weight * (1 + 1 / weight)))


class _Multiples:
    """Logarithms of multiples, one for each recipe, with their sums: a fleet has thousands of recipes of a kind."""

    def __init__(self) -> None:
        self.total = self._squares = 0.0
        self._values: dict[str, float] = {}

    @property
    def count(self) -> int:
        return len(self._values)

    def put(self, recipe: str, value: float) -> None:
        before = self._values.get(recipe, 0.0)
        self._values[recipe] = value
        self.total += value - before
        self._squares += value**2 - before**2

    def squares_about(self, mean: float) -> float:
        """The sum of the squared distances from `mean`."""
        return max(0.0, self._squares - 2 * mean * self.total + self.count * mean**2)
