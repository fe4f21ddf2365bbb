# SPDX-License-Identifier: MIT
"""A recorded build in a pod that grows: it is asked for more, ends sooner for it, and goes on where nobody answers."""

from __future__ import annotations

import pytest

from bench.grow import Case, Platform, Row, build_all, main
from bench.replay import RECORDED
from memguard.decide.growth import PATIENCE_S
from memguard.units import GIB, MIB

SIZES = (GIB, 2 * GIB, 256 * MIB)


def builds(platform: Platform, patience_s: float | None = PATIENCE_S) -> Row:
    """The first build in such a pod."""
    return next(build_all(RECORDED, Case("", platform, patience_s), seed=0))


@pytest.fixture(scope="module")
def fixed() -> Row:
    """The first build in a pod that keeps its size."""
    return builds(Platform(GIB, GIB, 256 * MIB), None)


def test_a_pod_that_grows_ends_sooner_and_costs_its_memory(fixed: Row) -> None:
    """No further than it may, and its memory over time is what it had while it had it."""
    grown = builds(Platform(*SIZES))
    assert grown.build.has_built
    assert grown.asked >= 1
    assert GIB < grown.last_bytes <= 2 * GIB
    assert grown.build.wall_s < 0.9 * fixed.build.wall_s
    assert fixed.gib_min == pytest.approx(fixed.build.wall_s / 60)
    assert grown.build.wall_s / 60 < grown.gib_min < 2 * grown.build.wall_s / 60


def test_without_an_answer_the_build_is_the_same(fixed: Row) -> None:
    """To ask costs nothing."""
    never = builds(Platform(*SIZES, answer_s=None))
    assert never.asked >= 1
    assert (never.build, never.last_bytes) == (fixed.build, GIB)


def test_bad_words_get_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """And exit status 2."""
    assert main(["--least", "12 potatoes"]) == 2
    assert capsys.readouterr().err.startswith("scripts/bench grow: ")
