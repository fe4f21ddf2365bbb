# SPDX-License-Identifier: MIT
"""What tasks of one kind take, learned across recipes.

Runs in: the BitBake server; pure.
Covers: the guess for a recipe that nobody has built, out of what others of its kind took.
Does not cover: the guesses that it begins with (footprints), what a recipe's own runs say (fit).

A guess is made for the heaviest of its kind. What a recipe of that kind took is a multiple of it, and multiples are
taken to be lognormal, with a mean and a spread that are shrunk towards what was believed before any was seen: a normal
mean with a conjugate prior worth PRIOR_RECIPES recipes (Gelman and others, Bayesian Data Analysis, section 3.3). What
is predicted lies DEVIATIONS deviations of one more recipe above that mean, which without any recipe is the guess.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, exp, log, sqrt

from memguard.model import Footprint

# evidence: over their guesses the peaks of 12 C and 7 C++ compiles of real recipes spread by 0.8 and 0.4 (natural
# logarithms)
PRIOR_SPREAD = 0.7
PRIOR_RECIPES = 2.0
# One recipe in six takes more.
DEVIATIONS = 1.0
# A smaller change is no news: thousands of tasks may be held, and all of that kind would be judged anew.
NEWS = 0.1
# No multiple beyond these is believed.
MULTIPLES = (1 / 32, 8.0)


class Kinds:
    """What recipes took of each kind, as multiples of its guess."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, float]] = {}
        self._told: dict[str, float] = {}

    def learn(self, guess: Footprint, recipe: str, jobs: int, peak_bytes: int) -> bool:
        """A task of `recipe` for which `guess` stands took so much with so many jobs; a later run replaces it.

        Whether that moves what is expected of others by more than NEWS since they were told last.
        """
        guessed_bytes = guess.peak_bytes(max(1, jobs))
        if guessed_bytes <= 0 or peak_bytes <= 0:
            return False
        kind, (least, most) = guess.origin, MULTIPLES
        self._seen.setdefault(kind, {})[recipe] = log(min(most, max(least, peak_bytes / guessed_bytes)))
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
        if not seen:
            return 1.0
        weight = PRIOR_RECIPES + len(seen)
        # Without any recipe one more lies DEVIATIONS of its spread below the guess.
        believed = -DEVIATIONS * PRIOR_SPREAD * sqrt(1 + 1 / PRIOR_RECIPES)
        mean = (PRIOR_RECIPES * believed + sum(seen.values())) / weight
        squares = PRIOR_RECIPES * (PRIOR_SPREAD**2 + (believed - mean) ** 2)
        squares += sum((value - mean) ** 2 for value in seen.values())
        return exp(mean + DEVIATIONS * sqrt(squares / weight * (1 + 1 / weight)))
