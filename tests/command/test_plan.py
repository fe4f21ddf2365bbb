# SPDX-License-Identifier: MIT
"""memguard plan: sizes, knees and what stock would need, on builds whose answer is known, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memguard.model import Duration, Footprint, Outcome, Record
from memguard.record.history.store import History
from memguard.units import GIB, MIB
from memguard_cli.commands.plan import IDLE_BYTES, make_plan, parse_range
from memguard_cli.commands.plan import plan as command
from memguard_cli.main import main
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.profiles import Phase, Profile
from memguard_cli.simulation.truth import Truth

GRAPH = Path(__file__).parents[1] / "fixtures" / "graphs" / "core-image-minimal.dot.xz"


def heavy_build(tasks: int) -> Truth:
    """Tasks of 2 GiB and a minute each that could all run at once, after one that needs nothing."""
    names = (("first", "do_fetch"), *((f"r{number}", "do_package") for number in range(tasks)))
    depends = ((), *(((0,),) * tasks))
    profiles = (Profile((Phase(1, 1, 0, 0),)), *((Profile((Phase(60, 1, 2 * GIB, 0),)),) * tasks))
    footprints = (Footprint(0, 0, 0, "told"), *((Footprint(2 * GIB, 0, 0, "told"),) * tasks))
    durations = (Duration(1.0, 0.0), *((Duration(60.0, 0.0),) * tasks))
    return Truth(Graph(names, depends), profiles, durations, footprints, tasks + 1, tasks + 1)


def test_the_smallest_limit_and_the_knee_are_found() -> None:
    """Four tasks of 2 GiB: one at a time from some 3 GiB on, all at once from some 10 to 14 GiB on."""
    truth = heavy_build(4)
    sizes = [size * GIB for size in (1, 2, 3, 4, 6, 8, 12, 16, 32)]
    found = make_plan([truth, truth], 4, sizes)
    assert found.smallest is not None
    assert found.knee is not None
    assert found.smallest.limit_bytes == 3 * GIB
    assert found.smallest.time_s == pytest.approx(241.0, abs=1)
    assert 8 * GIB < found.knee.limit_bytes <= 16 * GIB
    assert found.knee.time_s == pytest.approx(61.0, abs=1)
    assert found.points[-1].is_never_short
    # Stock runs all four at once: 8 GiB and what BitBake takes.
    assert found.stock_bytes is not None
    assert found.stock_bytes > 8 * GIB + IDLE_BYTES
    assert found.stock_bytes == 12 * GIB
    assert found.stock is not None
    assert found.stock.threads == 4
    assert found.stock.time_s == pytest.approx(61.0)


def test_where_nothing_is_enough_there_is_no_answer() -> None:
    """Every limit is too small: nothing is smallest, there is no knee, and no time is told."""
    found = make_plan([heavy_build(2)], 2, [GIB, 2 * GIB])
    assert (found.smallest, found.knee, found.stock_bytes, found.stock) == (None, None, None, None)
    assert [point.time_s for point in found.points] == [None, None]


def test_a_limit_below_one_that_fails_is_not_smallest() -> None:
    """The smallest limit is one from which on every run finishes, not a lucky one below."""
    sizes = [size * MIB for size in range(2000, 5000, 200)]
    truths = [heavy_build(3)] * 2
    found = make_plan(truths, 3, sizes)
    assert found.smallest is not None
    later = [point for point in found.points if point.limit_bytes >= found.smallest.limit_bytes]
    assert all(point.is_safe for point in later)
    before = [point for point in found.points if point.limit_bytes < found.smallest.limit_bytes]
    assert before
    assert not before[-1].is_safe


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("8G..32G", [8, 10, 11, 13, 16, 19, 23, 27, 32]),
        ("8G..8G", [8]),
        ("16G,8G,8G", [8, 16]),
        ("7G..9G", [7, 8, 9]),
    ],
)
def test_ranges_have_four_sizes_to_a_doubling(text: str, sizes: list[int]) -> None:
    """Sizes are whole GiB, both ends are among them."""
    assert parse_range(text) == tuple(size * GIB for size in sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limits", "8G.."],
        ["--limits", "9G..8G"],
        ["--limits", "1..8G"],
        ["--limits", "8G...9G"],
        ["--cpus", "0"],
        ["--seeds", "0"],
        ["--picture", "plan.gif"],
        ["--history", "/nowhere/history.db"],
        ["--history", str(GRAPH)],
        ["/nowhere.dot"],
        [__file__],
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence on standard error, exit status 2, before anything is simulated."""
    source = [] if Path(arguments[0]).is_absolute() else [str(GRAPH)]
    assert main(["plan", *source, *arguments]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_command_plans_a_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table, JSON and a picture out of a history; recipes of a graph that it does not know are named."""
    path = tmp_path / "history.db"
    history = History(path, warn=pytest.fail)
    base = Record("1", "zlib", "1", "do_compile", "", 4, 3 * GIB, GIB, 100.0, 340.0, Outcome.OK)
    history.add([Record(**{**vars(base), "recipe": f"r{number}"}) for number in range(5)])
    history.close()
    monkeypatch.setenv("MEMGUARD_HISTORY", str(path))
    picture, data = tmp_path / "plan.svg", tmp_path / "plan.json"
    options = ["--cpus", "4", "--limits", "2G..32G", "--seeds", "2"]
    shown = CliRunner().invoke(
        command, [*options, "--json", str(data), "--picture", str(picture)], catch_exceptions=False
    )
    assert shown.exit_code == 0
    assert "smallest" in shown.output
    assert "Never seen" not in shown.output
    found = json.loads(data.read_text())
    assert found["tasks"] == found["known_durations"] == found["known_footprints"] == 5
    (plan,) = found["plans"]
    assert plan["smallest"]["limit_bytes"] <= 4 * GIB  # one compile with fewer jobs
    assert plan["stock_bytes"] >= 10 * GIB  # four with all of theirs
    assert plan["knee"]["time_s"] <= plan["smallest"]["time_s"]
    pytest.importorskip("matplotlib")
    assert "build time, minutes" in picture.read_text() or "<svg" in picture.read_text()
    mixed = CliRunner().invoke(
        command, [str(GRAPH), "--cpus", "4", "--limits", "16G", "--seeds", "1"], catch_exceptions=False
    )
    assert "Never seen" in mixed.output
    assert "acl-native" in mixed.output


def test_plans_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is drawn by seed."""
    monkeypatch.setenv("MEMGUARD_HISTORY", str(tmp_path / "none.db"))
    monkeypatch.chdir(tmp_path)
    arguments = [str(GRAPH), "--cpus", "8", "--limits", "8G,64G", "--seeds", "1", "--json", "-"]
    first, second = (CliRunner().invoke(command, arguments, catch_exceptions=False).output for _ in range(2))
    assert first == second
    assert json.loads(first)["sources"] == [str(GRAPH)]
