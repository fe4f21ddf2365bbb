# SPDX-License-Identifier: MIT
"""A recorded build of real recipes, built again: it ends, nothing is killed by the kernel, and no time is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.oe import BUILDS
from bench.recording import Recording, read_recording
from bench.replay import RECORDED, main, replay_all
from bench.replayed import Replayed
from memguard.units import GIB

LIMIT = 3 * GIB // 2


@pytest.fixture(scope="module")
def recording() -> Recording:
    """A build of nineteen recipes of OE-core."""
    return read_recording(RECORDED)


@pytest.fixture(scope="module")
def replayed(recording: Recording) -> dict[str, Replayed]:
    """What comes of it in every way."""
    return replay_all(recording, LIMIT)


def test_stock_loses_what_memguard_builds(replayed: dict[str, Replayed]) -> None:
    """Under the limit stock is killed; memguard builds all, each time, and the kernel kills nothing."""
    assert {name for name, build in replayed.items() if not build.has_built} == {"stock"}
    assert {name for name, build in replayed.items() if build.kernel_kills} == {"stock"}
    assert all(
        build.peak_bytes <= LIMIT
        for name, build in replayed.items()
        if BUILDS[name].setting.limit_bytes and name != "stock"
    )


def test_no_time_is_lost(replayed: dict[str, Replayed]) -> None:
    """A first build takes little longer than one without a limit, and what was learned makes none slower."""
    free_s = replayed["free"].wall_s
    assert replayed["first"].wall_s < 1.15 * free_s
    assert replayed["second"].wall_s < 1.05 * free_s
    assert replayed["third"].wall_s < 1.05 * free_s
    assert replayed["roomy"].wall_s < 1.02 * replayed["crowded"].wall_s


def test_what_is_larger_than_the_plan_is_built_too(recording: Recording) -> None:
    """Five tasks need more than a container of 1 GiB has by plan, one nearly all of it; nothing waits for ever."""
    builds = replay_all(recording, GIB, ("first", "second"), seed=2)
    assert all(build.has_built for build in builds.values())
    assert builds["second"].wall_s < builds["first"].wall_s


def test_no_cpu_idles_while_a_task_would_fit(recording: Recording, replayed: dict[str, Replayed]) -> None:
    """At most 3 % of all CPU seconds."""
    all_s = sum(task.cpu_s for task in recording.tasks)
    assert all(replayed[name].idle_s < 0.03 * all_s for name in ("first", "second", "third"))


def test_the_same_build_goes_the_same_way_twice(recording: Recording) -> None:
    """What is replayed depends on nothing but the recording and the seed."""
    twice = [replay_all(recording, LIMIT, ("first",), seed=1) for _ in range(2)]
    assert twice[0] == twice[1]


def test_a_recording_is_written_and_read(recording: Recording, tmp_path: Path) -> None:
    """The file holds all of it."""
    recording.write(tmp_path / "recording.json")
    assert read_recording(tmp_path / "recording.json") == recording


@pytest.mark.parametrize(
    "words",
    [
        ("--recording", "/nowhere.json"),
        ("--real", str(RECORDED)),
        ("--vary", "NO_SUCH"),
        ("--limit", "12 potatoes"),
    ],
)
def test_bad_words_get_a_sentence(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """And exit status 2."""
    assert main(list(words)) == 2
    assert capsys.readouterr().err.startswith("scripts/bench replay: ")
