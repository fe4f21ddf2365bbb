# SPDX-License-Identifier: MIT
"""What a person types: the demo, under a real memory limit with real compilers, and each bench in small."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.oe import Row, find_missed, print_table
from bench.schedules import SCENARIOS, clairvoyant_s, draw_workload, lower_bound_s
from memguard.units import GIB, MIB
from testbed.container import NoContainer, container
from testbed.oe_bed import RECIPES, SOURCES, Account, Built
from testbed.oe_host import read_sources

REPOSITORY = Path(__file__).resolve().parents[2]


# Two compilers of some 600 MB at a time: less would mean that the build compiled nothing heavy.
TWO_COMPILERS_BYTES = 1 << 30


def script(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one of the project's scripts as a person would."""
    command = [str(REPOSITORY / "scripts" / words[0]), *words[1:]]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.memcg
@pytest.mark.timeout(1500)
def test_demo_stock_is_killed_and_memguard_finishes(tmp_path: Path) -> None:
    """The same build under the same limit: stock dies of memory, memguard's succeed without a kernel OOM kill.

    The second one predicts from the first one's runs, and what to do next is said at the end.
    """
    try:
        with container(1 << 30, "memguard-test"):
            pass
    except NoContainer as missing:
        pytest.skip(str(missing))
    result = tmp_path / "demo.json"
    demo = script("demo", "--json", str(result), timeout=1400)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    found = json.loads(result.read_text(encoding="utf-8"))
    assert set(found) == {"bitbake", "limit_bytes", "runs"}
    runs = {run["name"]: run for run in found["runs"]}
    assert list(runs) == ["stock", "memguard", "memguard again"]
    for run in runs.values():
        assert set(run) == {"name", "succeeded", "oom_kills", "peak_bytes", "wall_s", "held", "shrunk"}
    assert not runs["stock"]["succeeded"]
    # At its limit a cgroup may crawl instead of dying; the demo ends that build after 100 s.
    assert runs["stock"]["oom_kills"] >= 1 or runs["stock"]["wall_s"] >= 100
    for name in ("memguard", "memguard again"):
        assert runs[name]["succeeded"]
        assert runs[name]["oom_kills"] == 0
        assert TWO_COMPILERS_BYTES < runs[name]["peak_bytes"] <= found["limit_bytes"]
    # How many tasks meet at the same moment depends on the machine: where they start apart, fewer have to wait.
    assert runs["memguard"]["held"] >= 1
    assert runs["memguard"]["shrunk"] >= 1
    table, _, steps = demo.stdout.partition("Next: ")
    assert re.search(r"memguard +│ succeeded .* 0 of 3 ", table)
    assert re.search(r"memguard again +│ succeeded .* 3 of 3 ", table)
    assert all(f"scripts/memguard {word}" in steps for word in ("report", "top"))
    assert "--keep" in steps
    assert not list(Path("/sys/fs/cgroup").glob("**/memguard-demo-*"))


@pytest.mark.memcg
def test_demo_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM, as a CI system sends it, ends the build inside, and takes its container and its files along."""
    try:
        with container(1 << 30, "memguard-test"):
            pass
    except NoContainer as missing:
        pytest.skip(str(missing))
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [sys.executable, "-m", "testbed.demo"], env=env, cwd=REPOSITORY / "tests", stdout=-1, text=True
    )
    assert demo.stdout
    # The build inside runs once its first line is there.
    assert any(re.match("stock: +[0-9]+ s", line) for line in demo.stdout)
    demo.terminate()
    assert demo.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"**/memguard-demo-{demo.pid}-*"))


@pytest.mark.parametrize(
    "words", [("--limit", "12 potatoes"), ("--limit", "5M"), ("--json", "/nowhere/demo.json"), ("--frobnicate",)]
)
def test_demo_refuses_what_it_cannot_use(words: tuple[str, ...]) -> None:
    """A wrong argument is one sentence and exit status 2."""
    demo = script("demo", *words)
    assert demo.returncode == 2
    assert words[-1] in demo.stderr
    assert "Traceback" not in demo.stderr


@pytest.mark.memcg
def test_demo_without_rights_says_what_to_do(tmp_path: Path) -> None:
    """Where no memory cgroup can be made the demo says so in one sentence, with what to do, and exits with 2."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody without rights")
    code = "import os, sys; from testbed.container import NoContainer, container; os.setgid(65534); os.setuid(65534)\n"
    code += "try:\n with container(1 << 30): pass\nexcept NoContainer as missing: print(missing); sys.exit(2)\n"
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("meta-memguard/lib", "tests"))
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path}
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 2, found.stderr
    assert found.stdout.startswith("No memory cgroup can be made in /sys/fs/cgroup")
    assert "run this as root" in found.stdout


def test_bench_without_a_name_tells_the_names() -> None:
    """An unknown bench is exit status 2 and the list of those there are."""
    bench = script("bench", "speed")
    assert bench.returncode == 2
    assert "decide" in bench.stderr
    assert "overhead" in bench.stderr


def test_bench_install_in_small() -> None:
    """scripts/memguard of a fresh tree makes a small environment in which every subcommand answers."""
    version = "{}.{}".format(*sys.version_info)
    bench = script("bench", "install", "--ways", "scripts/memguard", "--pythons", version)
    assert bench.returncode == 0, bench.stdout + bench.stderr
    assert re.search(rf"scripts/memguard +│ +{version} .* (\d+) of \1 ", bench.stdout), bench.stdout
    size = re.search(r"(\d+) MiB", bench.stdout)
    assert size is not None
    # What the tests need takes 720 MiB.
    assert int(size[1]) < 60


def test_bench_decide_in_small() -> None:
    """The bench of one decision runs, and prints stock beside memguard for each size."""
    bench = script("bench", "decide", "--sizes", "200,400", "--calls", "100", "--pairs", "1")
    assert bench.returncode == 0, bench.stderr
    rows = [line.split()[:2] for line in bench.stdout.splitlines() if line.split()[0] in ("200", "400")]
    assert rows == [[tasks, memory] for tasks in ("200", "400") for memory in ("calm", "tight", "known")]


@pytest.mark.memcg
def test_bench_schedule_in_small() -> None:
    """The bench of schedules runs on a real graph, with every rival beside memguard, and judges each target."""
    options = ("--graphs", "core-image-minimal", "--cpus", "8", "--levels", "barely,ample", "--seeds", "2")
    small = ("--schedules", "3", "--chains", "2", "--large", "2000", "--processes", "1")
    bench = script("bench", "schedule", *options, *small)
    assert bench.returncode == 0, bench.stderr
    policies = {line.split()[0] for line in bench.stdout.splitlines() if line.startswith("  ")}
    assert {"clairvoyant", "memguard", "memguard-cold", "stock", "usage-gate", "static-caps"} <= policies
    assert {"one-heavy", "token-floor"} <= policies
    assert "finished without a kill: 4 of 4 runs" in bench.stdout
    assert bench.stdout.count("target") >= 5


def test_bench_warm_in_small() -> None:
    """The bench of real builds with and without a history runs, and prints stock beside both."""
    bench = script("bench", "warm", "--pairs", "1", "--second", "0.01")
    assert bench.returncode == 0, bench.stderr
    assert "warm / cold per round:" in bench.stdout
    assert "warm / stock per round:" in bench.stdout


def test_bench_overhead_in_small() -> None:
    """The bench of a whole build runs, and prints wall and CPU time of both with their ratio."""
    if os.getuid() != 0:
        pytest.skip("needs root, to count CPU time in a cgroup")
    bench = script("bench", "overhead", "--pairs", "1", "--tasks", "20")
    assert bench.returncode == 0, bench.stderr
    assert "wall: stock " in bench.stdout
    assert "ratio of medians" in bench.stdout


@pytest.mark.memcg
def test_bench_chaos_in_small() -> None:
    """One disturbed build, with its sentinel killed and its disk filled, ends well; no cgroup and no mount is left."""
    bench = script("bench", "chaos", "--seeds", "1", "--first", "1", "--no-stock")
    if bench.returncode == 2:
        pytest.skip(bench.stderr.strip())
    assert "memguard: 1 of 1 builds succeeded" in bench.stdout, bench.stdout + bench.stderr
    assert re.search(
        r"^memguard: .* 0 finished objects made again, .* 0 outputs differ; .* 0 processes left behind$",
        bench.stdout,
        re.MULTILINE,
    )
    assert "memguard-chaos" not in Path("/proc/mounts").read_text(encoding="utf-8")


@pytest.mark.checkout
@pytest.mark.memcg
@pytest.mark.timeout(7200)
def test_bench_oe_in_small(tmp_path: Path) -> None:
    """Two small recipes of OE-core build in each kind of build, each is measured, and no cgroup is left."""
    if not os.environ.get("MEMGUARD_CHECKOUTS"):
        pytest.skip("MEMGUARD_CHECKOUTS names no directory with clones of BitBake and OpenEmbedded-Core")
    kept = os.environ.get("MEMGUARD_CHECKOUT_WORK")
    where = ("--bed", str(Path(kept).expanduser() / "oe-bed")) if kept else ()
    found = tmp_path / "oe.json"
    small = ("--recipes", "zip-native,makedevs-native", "--repeats", "1", "--json", str(found))
    names = ("free", "stock", "first", "second", "third")
    bench = script("bench", "oe", *where, *small, "--builds", ",".join(names), timeout=7000)
    if bench.returncode == 2:
        pytest.skip(bench.stderr.strip())
    assert bench.returncode == 0, bench.stdout + bench.stderr
    for name in names:
        assert re.search(rf"^ *{name}  1 of 1  ", bench.stdout, re.MULTILINE), bench.stdout
    rows = json.loads(found.read_text(encoding="utf-8"))
    assert [row["build"] for row in rows] == list(names)
    for row in rows:
        assert row["cpu_s"] > 1
        assert row["peak_bytes"] > 50 << 20
        assert (row["account"] is not None) == (row["build"] in ("first", "second", "third"))
    assert not list(Path("/sys/fs/cgroup").glob("**/memguard-oe-*"))


def test_bench_oe_without_clones_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is missing is one sentence and exit status 2, before anything is made or installed."""
    monkeypatch.delenv("MEMGUARD_CHECKOUTS", raising=False)
    bench = script("bench", "oe", "--bed", str(tmp_path / "bed"))
    assert bench.returncode == 2
    (sentence,) = [line for line in bench.stderr.splitlines() if not line.startswith(">> ")]
    assert sentence.startswith("scripts/bench oe: ")
    assert not (tmp_path / "bed").exists()


def test_bench_oe_tells_medians_and_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds are of builds that succeeded, as a ratio to free's median; a kernel kill under memguard is a miss."""
    builds = [
        ("free", Built(True, 100.0, 190.0, 2000 * MIB, 0, "1-free.log")),
        ("first", Built(True, 120.0, 200.0, 1200 * MIB, 0, "1-first.log", Account(killed=2, idle_s=7.5), 4.0)),
        ("free", Built(True, 110.0, 191.0, 2000 * MIB, 0, "2-free.log")),
        ("first", Built(False, 50.0, 80.0, 1536 * MIB, 3, "2-first.log", Account(killed=1), 9.0)),
    ]
    rows = [Row(place // 2 + 1, name, built) for place, (name, built) in enumerate(builds)]
    print_table(("free", "stock", "first"), rows)
    free, first = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert free[:5] == ["free", "2", "of", "2", "105.0"]
    assert "1 of 2 120.0 (120.0 to 120.0) 1.14 (1.14 to 1.14) free 200.0" in " ".join(first)
    assert " ".join(first).endswith("1368 (1200 to 1536) 3 3 7.5 (7.5 to 7.5) 6.5 (4.0 to 9.0)")
    assert find_missed(rows) == ["round 2, first: not built (2-first.log)", "round 2, first: 3 killed by the kernel"]


def test_the_bed_of_oe_builds_has_what_its_recipes_need() -> None:
    """Each tarball is one of a recipe that is built, each recipe of the layer is built, and no name is there twice."""
    sources = read_sources(SOURCES, RECIPES)
    lines = SOURCES.read_text(encoding="utf-8").splitlines()
    assert len(sources) == len([line for line in lines if not line.startswith("#")]) - 1
    assert len({source.recipe for source in sources}) == len(sources)
    assert all(re.fullmatch(r"[0-9a-f]{64}", source.sha256) for source in sources)
    own = {path.name.partition("_")[0] for path in SOURCES.parent.glob("recipes-bed/*/*.bb")}
    assert own <= set(RECIPES)


@pytest.mark.memcg
def test_bench_sense_in_small() -> None:
    """The bench of one Reading runs below nested cgroups, prints psutil beside, and leaves no cgroup."""
    bench = script("bench", "sense", "--rounds", "1", "--readings", "20")
    if bench.returncode == 2:
        pytest.skip(bench.stderr.strip())
    assert bench.returncode == 0, bench.stderr
    assert "5 of them with a limit" in bench.stdout
    assert re.search(r"psutil\.virtual_memory\(\): \d+ us", bench.stdout)
    reads = re.search(r"file reads: (\d+)", bench.stdout)
    assert reads
    assert 10 < int(reads[1]) <= 40
    assert not list(Path("/sys/fs/cgroup").glob("**/memguard-bench-*"))


def test_bench_sentinel_in_small() -> None:
    """The bench of the sentinel runs, and prints what it costs beside psutil."""
    bench = script("bench", "sentinel", "--sizes", "64", "--repeats", "1", "--seconds", "1")
    assert bench.returncode == 0, bench.stderr
    rows = [line.split()[:3] for line in bench.stdout.splitlines() if line.split()[0] == "64"]
    assert rows == [["64", kind, name] for kind in ("still", "forked", "churning") for name in ("sentinel", "psutil")]


def test_bench_report_in_small() -> None:
    """The bench of a report's page runs, and prints a plain table beside it."""
    bench = script("bench", "report", "--sizes", "20", "--repeats", "1")
    if bench.returncode == 2:
        pytest.skip(bench.stderr.strip())
    assert bench.returncode == 0, bench.stderr
    assert re.search(r"report +[0-9.]+ MiB: drawn after \d+ ms .*interactive after \d+ ms", bench.stdout)
    assert re.search(r"plain table +[0-9.]+ MiB: drawn after \d+ ms", bench.stdout)


def test_bench_samples_in_small(tmp_path: Path) -> None:
    """Builds at two job counts give a sample each, in the form that predict reads."""
    bench = script(
        "bench", "samples", str(tmp_path / "s.jsonl"), "--recipes", "light-1", "--jobs", "1,2", "--repeats", "1"
    )
    assert bench.returncode == 0, bench.stderr
    samples = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(sample["pn"], sample["task"], sample["jobs"]) for sample in samples] == [
        ("light-1", "do_compile", 1),
        ("light-1", "do_compile", 2),
    ]


@pytest.mark.memcg
def test_bench_feedback_in_small() -> None:
    """One seed of one scenario runs under every policy in real cgroups, beside the clairvoyant's; none is left."""
    words = ("--scenarios", "flat", "--seeds", "1", "--baseline-seeds", "1", "--jobs", "8", "--limit", "512M")
    bench = script("bench", "feedback", *words, "--parallel", "1")
    if bench.returncode == 2:
        pytest.skip(bench.stderr.strip())
    # 1 where a target was missed, which is for quiet machines to say; but it was built, whatever the others came to.
    assert bench.returncode in (0, 1), bench.stderr
    assert re.search(r"^ *memguard +1 +\d+ +1 ", bench.stdout, re.MULTILINE), bench.stdout + bench.stderr
    for row in ("again", "stock", "static", "gate", "clairvoyant", "in order"):
        assert re.search(rf"^ *{row} +1 ", bench.stdout, re.MULTILINE)
    assert not list(Path("/sys/fs/cgroup").glob("**/memguard-bench-*"))


@pytest.mark.memcg
def test_bench_latency_in_small() -> None:
    """Two jumps across the mark in a real cgroup each stop a real process, and no cgroup is left."""
    bench = script("bench", "latency", "--jumps", "2", "--processes", "0")
    if bench.returncode == 2:
        pytest.skip(bench.stderr.strip())
    assert "2 jumps, 0 never stopped" in bench.stdout, bench.stdout + bench.stderr
    assert not list(Path("/sys/fs/cgroup").glob("**/memguard-bench-*"))


def test_the_clairvoyant_is_between_the_bound_and_make_order() -> None:
    """Its schedule fits memory and jobs, no shorter than the lower bound and no longer than units in make's order."""
    for scenario in SCENARIOS:
        workload = draw_workload(scenario, 1, GIB, 8)
        bound_s = lower_bound_s(workload, GIB, 8)
        best_s, in_order_s = (clairvoyant_s(workload, GIB, 8, schedules) for schedules in (10, 1))
        assert bound_s - 0.5 <= best_s <= in_order_s
        assert workload == draw_workload(scenario, 1, GIB, 8)


def test_memguard_from_the_tree() -> None:
    """scripts/memguard runs the command from wherever it is called, and passes its exit status on."""
    assert script("memguard", "--version").stdout.startswith("memguard, version ")
    assert script("memguard", "doctor", "--frobnicate").returncode == 2


def test_the_fast_tests_are_those_of_values_and_of_the_house() -> None:
    """scripts/test --fast takes two folders; other words go to pytest."""
    listed = script("test", "--fast", "--collect-only", "--quiet")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    tests = [line for line in listed.stdout.splitlines() if "::" in line]
    assert {line.split("/")[1] for line in tests} == {"unit", "house"}
    assert script("test", "--version").stdout.startswith("pytest ")


@pytest.mark.parametrize("name", ["addresses", "footprints", "variables"])
def test_what_only_writes_files_needs_no_compilers(name: str) -> None:
    """Its environment is that of Python alone, set before scripts/setup looks at what is missing."""
    lines = (REPOSITORY / "scripts" / name).read_text(encoding="utf-8").splitlines()
    assert lines[lines.index(". scripts/setup") - 1] == "part=fast"
    told = script(name, *([] if name == "addresses" else ["--check"]))
    assert (told.returncode, told.stderr) == (0, "")


def test_a_python_that_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMGUARD_PYTHON is named, with a good value, before anything is made."""
    monkeypatch.setenv("MEMGUARD_PYTHON", "/nowhere/python3")
    refused = script("test", "--fast")
    assert refused.returncode == 2
    (sentence,) = refused.stderr.splitlines()
    assert "MEMGUARD_PYTHON=python3" in sentence
