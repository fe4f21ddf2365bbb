# SPDX-License-Identifier: MIT
"""What is expected of a recipe that nobody has built, by what others of its kind took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.model import Footprint
from memguard.predict.kinds import KINDS, Kind, Kinds, named_kind
from memguard.units import GIB, MIB

GUESS = Footprint(64 * MIB, 160 * MIB, 320 * MIB, "an autotools build", is_guess=True)


def kinds(*multiples: float, jobs: int = 1) -> Kinds:
    """After so many recipes of the kind, each of which took a multiple of its guess."""
    found = Kinds()
    for number, multiple in enumerate(multiples):
        found.learn(GUESS, f"recipe-{number}", jobs, int(GUESS.peak_bytes(jobs) * multiple))
    return found


def test_without_any_recipe_the_guess_stands() -> None:
    """It was made for the heaviest of the kind."""
    assert Kinds().footprint(GUESS) == GUESS
    assert kinds(0.1).footprint(Footprint(64 * MIB, 512 * MIB, 0, "a C++ build")).per_job_bytes == 512 * MIB


def test_each_recipe_moves_the_guess_towards_what_it_took() -> None:
    """Four light ones halve it, twenty bring it near what they took; it keeps above most of them."""
    sizes = [kinds(*[0.2] * count).multiple(GUESS.origin) for count in (1, 4, 20, 200)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.5
    assert 0.2 < sizes[3] < 0.23
    assert sizes[2] < 0.3


def test_heavy_recipes_raise_the_guess() -> None:
    """Where a kind takes more than was guessed, so is expected of the next."""
    assert kinds(*[2.0] * 8).multiple(GUESS.origin) > 2.0


def test_news_is_told_once() -> None:
    """What moves the expectation by little is none: all that are held would be judged anew."""
    found = kinds(*[0.2] * 30)
    assert not found.learn(GUESS, "next", 1, int(GUESS.peak_bytes(1) * 0.2))
    assert Kinds().learn(GUESS, "first", 1, int(GUESS.peak_bytes(1) * 0.2))
    assert not Kinds().learn(GUESS, "unseen", 1, 0)


def test_a_spread_of_sizes_keeps_a_distance() -> None:
    """Of recipes that differ the expectation lies near the larger ones."""
    assert kinds(0.1, 0.9, 0.1, 0.9, 0.1, 0.9).multiple(GUESS.origin) > 0.9
    assert kinds(0.5, 0.5, 0.5, 0.5, 0.5, 0.5).multiple(GUESS.origin) < 0.8


def test_all_parts_of_the_footprint_follow() -> None:
    """Base, each job and the serial part are multiplied alike, and it stays a guess."""
    found = kinds(*[0.25] * 50).footprint(GUESS)
    assert found.origin == GUESS.origin
    assert found.is_guess
    for part in ("base_bytes", "per_job_bytes", "serial_bytes"):
        assert getattr(found, part) == pytest.approx(0.3 * getattr(GUESS, part), rel=0.05)


def test_the_last_run_of_a_recipe_counts() -> None:
    """A recipe that is built again says no more of its kind than once."""
    twice = kinds(0.2)
    twice.learn(GUESS, "recipe-0", 1, int(GUESS.peak_bytes(1) * 0.5))
    assert twice.multiple(GUESS.origin) == pytest.approx(kinds(0.5).multiple(GUESS.origin), rel=1e-6)


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 1 << 62)), max_size=40))
def test_whatever_recipes_took_a_guess_is_a_footprint(runs: list[tuple[int, int]]) -> None:
    """No size and no number of jobs makes one that is negative, or beyond any machine."""
    found = Kinds()
    for number, (jobs, peak_bytes) in enumerate(runs):
        found.learn(GUESS, str(number), jobs, peak_bytes)
    assert 0 < found.footprint(GUESS).peak_bytes(1) < 64 * GIB


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.05, 6.0)), min_size=1, max_size=40))
def test_sums_are_those_of_the_last_run_of_each_recipe(runs: list[tuple[int, float]]) -> None:
    """However often recipes were seen, and in whatever order."""
    found = Kinds()
    for recipe, multiple in runs:
        found.learn(GUESS, f"recipe-{recipe}", 1, int(GUESS.peak_bytes(1) * multiple))
    once = kinds(*dict(runs).values())
    assert found.multiple(GUESS.origin) == pytest.approx(once.multiple(GUESS.origin))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_found_by_its_name(kind: Kind) -> None:
    """Several kinds share a name: the task tells them apart."""
    assert named_kind(kind.name, kind.task.replace("*", "")) == kind.footprint
    assert named_kind("no kind", kind.task) is None
