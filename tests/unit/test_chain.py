# SPDX-License-Identifier: MIT
"""Which tasks give way to those that the end of the build waits for."""

from __future__ import annotations

import pytest

from memguard.act import give_way as act
from memguard.decide.chain import Chain

PATHS = {"giant": 100.0, "next": 40.0, "leaf": 5.0, "other": 95.0}
SECONDS = {"giant": 60.0, "next": 40.0, "leaf": 5.0, "other": 10.0}


def test_what_the_end_of_the_build_does_not_wait_for_gives_way() -> None:
    """Beside the longest chain short ones give way; one that is nearly as long does not."""
    chain = Chain(PATHS, SECONDS)
    assert not chain.start("giant", 0.0)
    assert chain.start("leaf", 1.0)
    assert not chain.start("other", 2.0)


def test_a_chain_gets_shorter_as_it_goes_on() -> None:
    """What has run counts no longer, and one that takes longer than expected is as good as done."""
    chain = Chain(PATHS, SECONDS)
    chain.start("giant", 0.0)
    assert chain.start("next", 10.0)
    assert not chain.start("next", 58.0)
    assert not Chain(PATHS, SECONDS).start("leaf", 0.0)
    for_long = Chain(PATHS, SECONDS)
    for_long.start("giant", 0.0)
    assert not for_long.start("next", 1000.0)


def test_what_has_ended_is_not_waited_for() -> None:
    """Nobody gives way to a task that no longer runs; an unknown one may end, too."""
    chain = Chain(PATHS, SECONDS)
    chain.start("giant", 0.0)
    chain.end(["giant", "unknown"])
    assert not chain.start("leaf", 1.0)


def test_of_what_nothing_is_known_nobody_waits() -> None:
    """Without paths nobody gives way, as in a first build."""
    chain: Chain[str] = Chain({}, {})
    assert not any(chain.start(tid, 1.0) for tid in PATHS)
    known = Chain(PATHS, SECONDS)
    known.start("giant", 0.0)
    assert not known.start("unknown", 1.0)


def test_a_kernel_without_autogroup_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nice value is raised all the same."""
    raised: list[int] = []
    monkeypatch.setattr(act.os, "nice", lambda steps: raised.append(steps) or 5)
    monkeypatch.setattr(act, "_AUTOGROUP", "/nowhere/autogroup")
    act.give_way(5)
    assert raised == [5]
