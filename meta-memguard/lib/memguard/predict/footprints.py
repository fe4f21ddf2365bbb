# SPDX-License-Identifier: MIT
"""How much memory a task will take: the user's word, else what earlier builds saw, else the table, else the kind.

Runs in: the BitBake server; pure but for reading the table that lies beside it.
Covers: a footprint for every (recipe, task).
Does not cover: what follows from samples (fit), where they are kept (record/history), what the kinds are (kinds).
"""

from __future__ import annotations

import csv
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from memguard.model import Footprint, Sample
from memguard.predict.fit import learn
from memguard.predict.kinds import Kinds, by_kind, named_kind
from memguard.units import MIB

TABLE = Path(__file__).with_name("memguard-footprints.csv")

# What multilib.bbclass puts before the name of a recipe that is built for another ABI.
_MULTILIB = re.compile(r"^lib[xn]?(32|64)-")


@dataclass(frozen=True)
class Known:
    """One row of the table: shell patterns on recipe and task, their footprint, and where that was found.

    measured: the numbers of the footprint that somebody measured (per_job, serial); the others are derived.
    """

    recipe: str
    task: str
    footprint: Footprint
    source: str = field(default="", compare=False)
    measured: tuple[str, ...] = field(default=(), compare=False)


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
                f"{path}:{number}: not a footprint; a good row is: zlib,do_compile,64,60,120,serial,where from"
            ) from None
        measured = tuple((row.get("measured") or "").split())
        known.append(Known(recipe, task, Footprint(base, per_job, serial, "known"), row.get("source") or "", measured))
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
        return self._learn(by_kind(task, classes), recipe, jobs, peak_bytes, has_ended)

    def take_remembered(self, recipe: str, task: str, kind: str, jobs: int, peak_bytes: int) -> None:
        """What a task took in an earlier build, perhaps of another image, of which only the name of its kind is known.

        A kind of another version of memguard, which this one does not know, says nothing.
        """
        guess = named_kind(kind, task)
        if guess is not None:
            self._learn(guess, recipe, jobs, peak_bytes)

    def _learn(self, guess: Footprint, recipe: str, jobs: int, peak_bytes: int, has_ended: bool = True) -> str:
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

    def guess(self, task: str) -> Footprint:
        """What a task takes by its name and what others of its kind took."""
        return self._kinds.footprint(by_kind(task, frozenset()))

    def find_known(self, recipe: str, task: str) -> Known | None:
        """The row of the table for `task` of `recipe` (PN), whatever multilib it is built for."""
        rows = self._rows.get(task)
        if rows is None:
            rows = [
                (re.compile(fnmatch.translate(row.recipe)), row)
                for row in self._known
                if fnmatch.fnmatchcase(task, row.task) and _is_setscene(task) == _is_setscene(row.task)
            ]
            self._rows[task] = rows
        recipe = _MULTILIB.sub("", recipe)
        return next((row for pattern, row in rows if pattern.match(recipe)), None)


def _is_setscene(task: str) -> bool:
    """Whether a task, or all that a pattern means, unpacks what another task has made."""
    return task.endswith("_setscene")
