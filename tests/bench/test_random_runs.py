# SPDX-License-Identifier: MIT
"""`memguard run` with a few random builds: what `scripts/bench run` does at length."""

from __future__ import annotations

import os

import pytest

from bench import run


@pytest.mark.memcg
@pytest.mark.skipif(os.geteuid() != 0, reason="makes memory cgroups")
def test_random_builds_come_out_right(capsys: pytest.CaptureFixture[str]) -> None:
    """One of each tool, each with another end: status, output and files are right, and nothing is left."""
    status = run.main(["--seeds", str(len(run.TOOLS))])
    told = capsys.readouterr().out
    assert status == 0, told
    assert told.count(": ok\n") + told.count("skipped,") == len(run.TOOLS), told


def test_a_seed_is_the_same_each_time() -> None:
    """What went wrong once can be repeated by its number; all tools and ends come about in a hundred."""
    assert [str(run.profile_of(seed)) for seed in range(9)] == [str(run.profile_of(seed)) for seed in range(9)]
    found = [run.profile_of(seed) for seed in range(100)]
    assert {profile.tool for profile in found} == set(run.TOOLS)
    assert {profile.end for profile in found} == set(run.ENDS)
