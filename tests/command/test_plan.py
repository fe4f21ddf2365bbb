# SPDX-License-Identifier: MIT
"""memguard plan: sizes, knees and what stock would need, on builds whose answer is known, and the command."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from memguard.model import Duration, Footprint, Outcome, Record
from memguard.predict.footprints import Predictor, read_table
from memguard.record.history.store import History
from memguard.units import GIB, MIB
from memguard_cli.cluster.manifest import Manifest
from memguard_cli.cluster.pod import quantity_of
from memguard_cli.commands.plan import parse_choice, parse_range, pick
from memguard_cli.commands.plan import plan as command
from memguard_cli.main import main
from memguard_cli.screens.plan import cells_of, explain, fold
from memguard_cli.simulation.compare import predict
from memguard_cli.simulation.graph import Graph
from memguard_cli.simulation.planning import IDLE_BYTES, make_plan
from memguard_cli.simulation.profiles import ERRORS, Phase, Profile
from memguard_cli.simulation.truth import Figures, Truth, find_truth

GRAPH = Path(__file__).parents[1] / "fixtures" / "graphs" / "core-image-minimal.dot.xz"
JOB = Path(__file__).parents[2] / "conf" / "kubernetes" / "build-job.yml"


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


def test_the_ends_of_a_range_are_tried_as_they_are() -> None:
    """Though what lies between them is whole GiB."""
    assert parse_range("4500M..6G") == (4500 * MIB, 5 * GIB, 6 * GIB)


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
        ["--nodes", "many"],
        ["--builds", "3"],
        ["--patch", "-"],
        ["--choose", "knee"],
        ["--container", "build"],
        ["--manifest", str(JOB), "--patch", str(JOB)],
        ["--manifest", str(JOB), "--patch", "-", "--json", "-"],
        ["--manifest", "-", "--json", "-"],
        ["--manifest", str(JOB), "--json", str(JOB)],
        ["--json", str(GRAPH)],
        ["--manifest", "/nowhere/job.yml"],
        ["--manifest", str(JOB), "--choose", "fast"],
        ["--manifest", str(JOB), "--choose", "knee", "--cpus", "4,8"],
        ["--manifest", str(JOB), "--container", "other"],
        ["--manifest", str(GRAPH)],
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


@pytest.mark.usefixtures("history_of")
def test_the_command_plans_a_history(tmp_path: Path) -> None:
    """Table, JSON and a picture out of a history; recipes of a graph that it does not know are named."""
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
    assert "says nothing of the spread" in mixed.output
    lines = mixed.output.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("Known from earlier builds: memory of 0"))
    assert first < next(place for place, line in enumerate(lines) if line.split()[:1] == ["CPUs"])
    assert "simulated as a first build" in " ".join(mixed.output.split())
    assert "acl-native" in mixed.output


def test_the_lowest_limit_that_was_tried_is_no_smallest() -> None:
    """Where the first limit of all is enough, a smaller one may be, too: it is told as at most that."""
    found = make_plan([heavy_build(2)], 2, [16 * GIB, 32 * GIB, 64 * GIB])
    assert [cell for cell in cells_of(found) if "GiB" in cell] == ["<=16.0 GiB"] * 3
    assert any("at most 16.0 GiB (the lowest tried)" in sentence for sentence in explain([found]))
    other = make_plan([heavy_build(2)], 2, [GIB, 16 * GIB])
    assert not any("lowest tried" in sentence for sentence in explain([other]))


def test_equal_rows_are_one() -> None:
    """Limits in a row at which the same happens are one row, killed ones as well."""
    sizes = [size * GIB for size in (1, 2, 16, 32, 64)]
    assert fold([make_plan([heavy_build(2)] * 2, 2, sizes)]) == [
        ("1.0 GiB to 2.0 GiB", ["killed"]),
        ("16.0 GiB to 64.0 GiB", ["1:01 min"]),
    ]


def test_what_nobody_has_built_is_predicted_as_in_a_first_build() -> None:
    """Seen tasks are predicted as after three builds; others by the table as it stands, or as far off as kinds are."""
    graph = Graph((("seen", "do_compile"), ("llvm-native", "do_compile"), ("new", "do_compile")), ((), (), ()))
    known = {("seen", "do_compile"): Figures(Duration(1.0, 60.0), Footprint(0, 400 * MIB, 0, "history"))}
    table = Predictor(read_table(), {}).predict("llvm-native", "do_compile", frozenset())
    misses = []
    for seed in range(200):
        truth = find_truth(graph, known, (), random.Random(seed))
        assert (truth.known_footprints, truth.in_table) == (1, 1)
        seen, listed, new = predict(truth, 8, None, seed)
        assert listed.footprint == table
        assert [task.duration is not None for task in (seen, listed, new)] == [True, False, False]
        misses.append(
            [
                math.log(task.footprint.per_job_bytes / truth.footprints[place].per_job_bytes)
                for place, task in ((0, seen), (2, new))
            ]
        )
    spreads = [statistics.pstdev(column) for column in zip(*misses)]
    assert spreads[0] == pytest.approx(ERRORS["warm"].sigma, rel=0.2)
    assert spreads[1] == pytest.approx(ERRORS["cold"].sigma, rel=0.2)


def test_plans_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is drawn by seed."""
    monkeypatch.setenv("MEMGUARD_HISTORY", str(tmp_path / "none.db"))
    monkeypatch.chdir(tmp_path)
    arguments = [str(GRAPH), "--cpus", "8", "--limits", "8G,64G", "--seeds", "1", "--json", "-"]
    first, second = (CliRunner().invoke(command, arguments, catch_exceptions=False).output for _ in range(2))
    assert first == second
    assert json.loads(first)["sources"] == [str(GRAPH)]


@pytest.fixture
def history_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five compiles of 3 GiB with four jobs, the history of this environment; no other file is near."""
    path = tmp_path / "history.db"
    history = History(path, warn=pytest.fail)
    base = Record("1", "zlib", "1", "do_compile", "", 4, 3 * GIB, GIB, 100.0, 340.0, Outcome.OK)
    history.add([Record(**{**vars(base), "recipe": f"r{number}"}) for number in range(5)])
    history.close()
    monkeypatch.setenv("MEMGUARD_HISTORY", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def run(*words: str, given: str = "") -> Result:
    """The command; it ended well."""
    done = CliRunner().invoke(command, [*words, "--limits", "12G,24G", "--seeds", "1"], given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_a_job_gets_the_container_that_was_planned(history_of: Path) -> None:
    """Its own number of CPUs unless said otherwise; the smallest, the knee, or what a time allows."""
    job = history_of.with_name("job.yml")
    job.write_text(JOB.read_text(encoding="utf-8"), encoding="utf-8")
    four, eight = json.loads(run("--cpus", "4,8", "--json", "-").stdout)["plans"]
    done = run("--manifest", str(job))
    assert f"memory: {quantity_of(eight['knee']['limit_bytes'])}, " in job.read_text(encoding="utf-8")
    assert Manifest(job.read_text(encoding="utf-8")).cpus == 8
    assert "yocto-build build: 8 CPUs and " in done.stderr
    assert "stock from" in done.stdout
    minutes = f"{four['knee']['most_s'] / 60 + 0.01:.2f}m"
    done = run("--cpus", "4,8", "--manifest", "-", "--choose", minutes, given=job.read_text(encoding="utf-8"))
    assert Manifest(done.stdout).cpus == 4


def test_a_manifest_survives_a_write_that_fails(history_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as it was before, and nothing else is left beside it; one that is written keeps its mode and its link."""
    job, link = history_of.with_name("job.yml"), history_of.with_name("link.yml")
    job.write_bytes(JOB.read_bytes())
    job.chmod(0o600)
    link.symlink_to("job.yml")
    words = ["--cpus", "4", "--limits", "12G,24G", "--seeds", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", no_space)
        failed = CliRunner().invoke(command, [*words, "--manifest", str(link)])
        assert "No space left" in failed.output
        failed = CliRunner().invoke(command, [*words, "--json", str(job.with_name("data.json"))])
        assert "No space left" in failed.output
    assert job.read_bytes() == JOB.read_bytes()
    assert sorted(path.name for path in job.parent.iterdir() if path.suffix != ".db") == ["job.yml", "link.yml"]
    run("--cpus", "4", "--manifest", str(link))
    assert job.read_bytes() != JOB.read_bytes()
    assert job.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink()


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_cpu_limit_that_nobody_chose_stays(history_of: Path) -> None:
    """One and a half are planned as one, and written as they were; with --cpus it is what was chosen."""
    text = JOB.read_text(encoding="utf-8").replace('cpu: "8"', 'cpu: "1500m"')
    for words, cpu in (((), "1500m"), (("--cpus", "1"), "1")):
        after = run(*words, "--manifest", "-", given=text).stdout
        assert re.findall(r'cpu: "(\w+)"', after) == [cpu, cpu]
        patch = yaml.safe_load(run(*words, "--manifest", "-", "--patch", "-", given=text).stdout)
        assert patch["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == cpu


def test_choices_are_words_or_times(capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest, the knee, or the fewest CPUs and the least memory within a time; a time nobody keeps is refused."""
    assert [parse_choice(text, [8]) for text in ("knee", "90m", "1.5h", "1h30min")] == [None, 5400.0, 5400.0, 5400.0]
    plans = [make_plan([heavy_build(4)], cpus, [size * GIB for size in (3, 6, 12)]) for cpus in (2, 4)]
    assert plans[1].smallest is not None
    for choice in ("smallest", "knee"):
        assert pick(plans[1:], choice, None) == (plans[1], getattr(plans[1], choice))
    chosen, point = pick(plans, "2m", 125.0)
    assert (chosen.cpus, point.limit_bytes) == (2, 6 * GIB)
    chosen, point = pick(plans, "1m", 65.0)
    assert (chosen.cpus, point.limit_bytes) == (4, 12 * GIB)
    with pytest.raises(click.UsageError, match="as fast"):
        pick(plans, "30s", 30.0)
    for text in ("fast", "", "90", "m", "-1m", "1h30"):
        with pytest.raises(click.UsageError, match="good time"):
            parse_choice(text, [8])


def test_a_suspended_job_gets_a_patch(history_of: Path) -> None:
    """On standard output, alone; the manifest stays as it is."""
    text = JOB.read_text(encoding="utf-8")
    done = run("--manifest", "-", "--patch", "-", given=text)
    (container,) = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "build"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "is not suspended here" in done.stderr


def write_graph(path: Path, image: str, recipes: Sequence[str]) -> None:
    """What `bitbake -g` writes of an image that needs a compile of each recipe."""
    lines = [f'"{image}.do_build"', *(f'"{recipe}.do_compile"' for recipe in recipes)]
    lines += [f'"{image}.do_build" -> "{recipe}.do_compile"' for recipe in recipes]
    path.write_text("digraph depends {\n" + "\n".join(lines) + "\n}\n")


def test_nodes_are_filled_with_builds(history_of: Path) -> None:
    """Two graphs with one history: a table of containers, and what runs at once of both."""
    for name in ("small", "large"):
        recipes = ("r1",) if name == "small" else ("r1", "r2", "r3", "r4")
        write_graph(history_of.with_name(f"{name}.dot"), name, recipes)
    words = ("small.dot", "large.dot", "--cpus", "4", "--nodes", "2x16G/8", "--builds", "10")
    shown = " ".join(run(*words).output.split())
    assert "2 nodes: 2 of 16.0 GiB and 8 CPUs" in shown
    assert re.search(r"One of each in turn: (\d) at once \(\d of small and \d of large\)\.", shown)
    assert re.search(r"10 builds: \d at once, and all are done after", shown)
    found = json.loads(run(*words, "--json", "-").stdout)
    assert [build["name"] for build in found["builds"]] == ["small", "large"]
    for row in found["nodes"]:
        assert row["at_once"] == 2 * min(16 * GIB // row["limit_bytes"], 8 // row["cpus"])


def test_builds_of_one_name_are_told_apart_by_their_directories(history_of: Path) -> None:
    """Each has its rows and its container."""
    for name, recipes in (("one", ("r1",)), ("two", ("r1", "r2", "r3", "r4"))):
        history_of.with_name(name).mkdir()
        write_graph(history_of.parent / name / "d.dot", "image", recipes)
    words = ("one/d.dot", "two/d.dot", "--cpus", "4", "--nodes", "2x16G/8")
    found = json.loads(run(*words, "--json", "-").stdout)
    assert [build["name"] for build in found["builds"]] == ["image in one", "image in two"]
    shown = " ".join(run(*words).output.split())
    assert re.search(r"\d of image in one and \d of image in two", shown)
