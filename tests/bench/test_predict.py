# SPDX-License-Identifier: MIT
"""The bench of predictions, in small, and the recipes that it draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.predict import read_series
from bench.recipes import CLASSES, generate
from memguard.model import Outcome
from memguard.units import MIB

TESTS = Path(__file__).resolve().parents[1]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the bench as scripts/bench does."""
    path = os.pathsep.join(map(str, (TESTS.parent / "meta-memguard" / "lib", TESTS.parent / "lib", TESTS)))
    command = [sys.executable, "-m", "bench.predict", *words]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def sample_line(build: int, jobs: int, peak_mib: int, **more: object) -> str:
    """One line of an exported history."""
    fields = {
        "build": f"b{build}",
        "pn": "foo",
        "pv": "1.0",
        "task": "do_compile",
        "jobs": jobs,
        "peak_bytes": peak_mib * MIB,
        "largest_process_bytes": peak_mib * MIB // 2,
        "duration_s": 1.5,
        "cpu_s": 2,
        "outcome": "ok",
    }
    return json.dumps({**fields, **more}) + "\n"


def test_bench_in_small(tmp_path: Path) -> None:
    """The bench prints and writes one row per data set, builds and method, the same for the same seed."""
    measured, found = tmp_path / "samples.jsonl", tmp_path / "found.json"
    measured.write_text("".join(sample_line(build, 2 ** (build % 4), 500 * 2 ** (build % 4)) for build in range(12)))
    words = ("--recipes", "4", "--seed", "7", "--samples", str(measured), "--json", str(found))
    first = bench(*words)
    assert first.returncode == 0, first.stderr
    result = json.loads(found.read_text(encoding="utf-8"))
    data = ["measured", *CLASSES, "all generated"]
    assert list(dict.fromkeys(row["data"] for row in result["rows"])) == data
    ours = {(row["data"], row["builds"]): row for row in result["rows"] if row["method"] == "memguard"}
    assert set(ours) == {(name, builds) for name in data for builds in (0, 1, 3, 10)}
    assert [ours["measured", builds]["tasks"] for builds in (0, 1, 3, 10)] == [12, 11, 9, 2]
    assert [ours["linear", builds]["tasks"] for builds in (0, 1, 3, 10)] == [4, 4, 4, 4]
    assert ours["all generated", 3]["tasks"] == 4 * len(CLASSES)
    bound = {(row["data"], row["builds"]) for row in result["rows"] if row["method"] == "oracle"}
    assert bound == {(name, builds) for name in data[1:] for builds in (0, 1, 3, 10)}
    for row in result["rows"]:
        assert 0 <= row["exceeded_share"] <= 1
        assert row["over_reservation"] >= 0
        assert row["product"] == pytest.approx((row["exceeded_share"] + 0.01) * row["over_reservation"])
    assert first.stdout.count("target after 3 builds") == len(data)
    assert bench(*words).stdout == first.stdout


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"build": "b0"}', sample_line(0, 1, 1, outcome="fine"), sample_line(0, 1, 1, cpu_s="much")]
)
def test_bench_names_a_wrong_sample(tmp_path: Path, line: str) -> None:
    """A line that is no sample is named by file and line."""
    path = tmp_path / "samples.jsonl"
    path.write_text(sample_line(0, 1, 1) + "\n" + line, encoding="utf-8")
    with pytest.raises(ValueError, match=r"samples\.jsonl:3: not a sample"):
        read_series(path)


def test_bench_refuses_a_missing_file() -> None:
    """A file that is not there is one sentence and exit status 2."""
    done = bench("--samples", "/nowhere/samples.jsonl")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_bench_judges_undisturbed_runs_only(tmp_path: Path) -> None:
    """Measured runs that were throttled, killed or failed are history, never the truth to be predicted."""
    path = tmp_path / "samples.jsonl"
    path.write_text(sample_line(0, 1, 100, outcome="throttled", machine="arm", serial_bytes=5) + sample_line(1, 2, 200))
    first, second = read_series(path)
    assert [series.name for series in (first, second)] == ["foo do_compile arm", "foo do_compile "]
    assert first.runs[0].true_bytes is None
    assert first.runs[0].record.serial_bytes == 5
    assert second.runs[0].true_bytes == 200 * MIB


def test_generated_recipes_are_what_they_say() -> None:
    """Same seed, same recipes; another seed, others; what ended well is recorded as it was."""
    for name in CLASSES:
        runs = [run for series in generate(name, 20, 13, 1) for run in series.runs]
        assert runs == [run for series in generate(name, 20, 13, 1) for run in series.runs]
        assert runs != [run for series in generate(name, 20, 13, 2) for run in series.runs]
        well = [run for run in runs if run.record.outcome is Outcome.OK]
        assert all(run.record.peak_bytes == run.true_bytes for run in well)
        assert 0.8 < len(well) / len(runs) < 1
        assert all(0 < run.record.peak_bytes <= run.true_bytes for run in runs if run.true_bytes)


def test_the_oracle_is_seldom_exceeded_and_changes_nothing() -> None:
    """It is told of the builds that are asked for, is exceeded about once in fifty, and the recipes stay the same."""
    told = [run for name in CLASSES for series in generate(name, 40, 3, 1, {1}) for run in series.runs[1:2]]
    asked = [replace(run, oracle_bytes=None) for run in told]
    assert asked == [run for name in CLASSES for series in generate(name, 40, 3, 1) for run in series.runs[1:2]]
    exceeded = sum(run.oracle_bytes < run.true_bytes for run in told)
    assert 0 < exceeded <= 0.05 * len(told)


def test_who_is_left_out_is_predicted_from_others_of_its_kind(tmp_path: Path) -> None:
    """What three recipes took that are alike is expected of each, rather than what their kind is guessed to take."""
    measured = tmp_path / "samples.jsonl"
    kind = "a C++ build (cmake, qmake)"
    measured.write_text("".join(sample_line(1, 1, 200, pn=recipe, kind=kind) for recipe in ("bar", "baz", "foo")))
    found = bench("--recipes", "1", "--samples", str(measured))
    assert found.returncode == 0, found.stderr
    (line,) = [line for line in found.stdout.splitlines() if line.startswith(kind)]
    tasks, exceeded, guessed, learned_exceeded, learned = line.removeprefix(kind).split()
    assert (tasks, exceeded, learned_exceeded) == ("3", "0.0%", "0.0%")
    assert int(learned[:-1]) < 0.7 * int(guessed[:-1])
