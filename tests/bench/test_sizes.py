# SPDX-License-Identifier: MIT
"""Simulated images in containers of some sizes: what sstate leaves to build, the table, and the bed beside it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.sizes import (
    BED,
    LARGE_GIB,
    RULES,
    Case,
    Cell,
    bed_recording,
    changed,
    draw,
    main,
    replayed_s,
    show_large,
    simulate_bed,
    table_of,
    truth_of,
)


def test_sstate_leaves_the_changed_recipes_and_the_image() -> None:
    """What waits for a covered task waits for what that one waited for; nothing else is left."""
    whole = truth_of("core-image-minimal", 0)
    part = changed(whole, random.Random(1))
    recipes = {recipe for recipe, _ in part.graph.names}
    assert "core-image-minimal" in recipes
    assert len(recipes) == pytest.approx(0.1 * len({recipe for recipe, _ in whole.graph.names}), abs=2)
    assert len(part.graph.topological) == len(part.graph) == len(part.profiles)
    places = {name: place for place, name in enumerate(part.graph.names)}
    for place, needed in enumerate(whole.graph.depends):
        if whole.graph.names[place] in places:
            kept = {places[whole.graph.names[task]] for task in needed if whole.graph.names[task] in places}
            assert kept <= set(part.graph.depends[places[whole.graph.names[place]]])


def test_the_table_and_the_picture_say_what_was_built(tmp_path: Path) -> None:
    """Median and range, how many where not all were, and "killed" where none was."""
    pytest.importorskip("matplotlib")
    case = Case("core-image-minimal", 8, 4)
    times: dict[str, tuple[float | None, ...]] = {rule: (600.0, 720.0, 660.0) for rule, _, _ in RULES}
    times["stock"], times["static caps"] = (None, None, None), (None, 600.0, None)
    cells = [Cell(case, rule, found) for rule, found in times.items()]
    lines = table_of(cells).splitlines()
    assert lines[0] == "| | 4 CPUs, 8 GiB |"
    assert "| memguard, first | 11 (10 to 12) |" in lines
    assert "| static caps | 10 (10 to 10), 1 of 3 |" in lines
    assert "| stock | killed |" in lines
    draw(cells, tmp_path / "sizes.svg")
    assert "core-image-minimal, 4 CPUs" in (tmp_path / "sizes.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BED)
def test_the_simulation_is_near_the_builds_of_the_bed(name: str) -> None:
    """Nineteen recipes, out of what a history knows of them: as the real builds, or the replay where there are none."""
    recording = bed_recording()
    limit_bytes, _, _, _, real_s = BED[name]
    outcome = simulate_bed(recording, name, 0)
    assert outcome.finished
    beside_s = replayed_s(recording, limit_bytes, name, 1) if real_s is None else real_s
    assert outcome.makespan_s + recording.around_s == pytest.approx(beside_s, rel=0.2)


def test_a_large_build_of_single_compilers_is_no_slower_to_simulate(capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds of builds end; how long it takes is for people to read."""
    show_large(600)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [f"{gib} GiB" for gib in LARGE_GIB]
    assert not any("lost" in line for line in lines)


def test_bad_words_get_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """And exit status 2."""
    assert main(["--images", "core-image-none"]) == 2
    assert capsys.readouterr().err.startswith("scripts/bench sizes: ")
