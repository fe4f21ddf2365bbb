# SPDX-License-Identifier: MIT
"""The test bed itself: real BitBake builds of the small distribution."""

from __future__ import annotations

import base64
import csv
import hashlib
import shutil
from pathlib import Path

import pytest

from testbed import bitbake as bitbakes
from testbed import builddir
from testbed.bitbake import BitBake, BitBakeMissing
from testbed.builddir import META_TEST, Result

TINY = [f"tiny-{number:02}" for number in range(1, 11)]
DEPENDS = {
    "tiny-03": ["tiny-01"],
    "tiny-04": ["tiny-01", "tiny-02"],
    "tiny-05": ["tiny-03"],
    "tiny-06": ["tiny-04"],
    "tiny-08": ["tiny-05", "tiny-06"],
    "tiny-09": ["tiny-07"],
    "tiny-10": ["tiny-08", "tiny-09"],
}


def told(build: Path, tmp: str = "tmp") -> list[str]:
    """Return what the tasks wrote, one line per task, in the order in which they ran."""
    log = build / tmp / "tiny.log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture(scope="module")
def ten(bitbake: BitBake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, list[str], Result]:
    """A build directory, a dry run of everything in it, what ran by then, and the build."""
    build = builddir.make(tmp_path_factory.mktemp("ten"), [META_TEST], "")
    dry = builddir.run(bitbake, build, "-n", *TINY)
    ran_dry = told(build)
    return build, dry, ran_dry, builddir.run(bitbake, build, *TINY)


def test_dry_run_runs_no_task(ten: tuple[Path, Result, list[str], Result]) -> None:
    """With -n BitBake succeeds, and no task has left a trace."""
    _, dry, ran_dry, _ = ten
    assert dry.returncode == 0, dry.output
    assert "Attempted 60 tasks" in dry.output
    assert ran_dry == []
    assert dry.leftover == ()


def test_ten_recipes_build_in_dependency_order(ten: tuple[Path, Result, list[str], Result]) -> None:
    """Each task of each recipe runs once, after its predecessor and after the recipes it depends on."""
    build, _, _, result = ten
    lines = told(build)
    assert result.returncode == 0, result.output
    assert "all succeeded" in result.output
    assert sorted(lines) == sorted(f"{pn} {task}" for pn in TINY for task in ("configure", "compile", "install"))
    for pn in TINY:
        at = [lines.index(f"{pn} {task}") for task in ("configure", "compile", "install")]
        assert at == sorted(at)
        for dependency in DEPENDS.get(pn, []):
            assert lines.index(f"{dependency} install") < at[0]
    assert result.leftover == ()


def test_failed_and_killed_tasks_are_reported(bitbake: BitBake, tmp_path: Path) -> None:
    """A failing task counts as 1, a SIGKILLed one as 137, the command as 1, and their dependents do not run."""
    conf = 'TINY_COMMAND:pn-tiny-05 = "exit 3"\nTINY_COMMAND:pn-tiny-09 = "kill -KILL $PPID"\n'
    build = builddir.make(tmp_path, [META_TEST], conf)
    result = builddir.run(bitbake, build, "-k", *TINY)
    assert result.returncode == 1
    assert "tiny-05_1.0.bb:do_compile) failed with exit code '1'" in result.output
    assert "tiny-09_1.0.bb:do_compile) failed with exit code '137'" in result.output
    ran = {line.split()[0] for line in told(build)}
    assert ran == set(TINY) - {"tiny-08", "tiny-10"}
    assert result.leftover == ()


def test_multiconfig_build_runs(bitbake: BitBake, tmp_path: Path) -> None:
    """One command builds a recipe with two configurations, each with its own values and its own place."""
    build = builddir.make(
        tmp_path,
        [META_TEST],
        'INHERIT += "rm_work"',
        {"other": 'TMPDIR = "${TOPDIR}/tmp-other"\nTINY_COMMAND = "tiny_say other"'},
    )
    result = builddir.run(bitbake, build, "tiny-01", "mc:other:tiny-01")
    assert result.returncode == 0, result.output
    assert told(build) == ["tiny-01 configure", "tiny-01 compile", "tiny-01 install"]
    assert told(build, "tmp-other") == ["tiny-01 configure", "tiny-01 compile", "tiny-01 other", "tiny-01 install"]
    assert [path.name for path in (build / "tmp/work/tiny-01/1.0").iterdir()] == ["temp"], "rm_work did not run"


def test_make_and_cmake_recipes_build_and_a_timeout_leaves_nothing(bitbake: BitBake, tmp_path: Path) -> None:
    """Recipes with sources beside them build, and a command over its time limit goes with all its tasks."""
    layer = tmp_path / "meta-sources"
    sources = {
        "conf/layer.conf": 'BBPATH .= ":${LAYERDIR}"\nBBFILES += "${LAYERDIR}/recipes-*/*/*.bb"\n'
        'BBFILE_COLLECTIONS += "sources"\nBBFILE_PATTERN_sources = "^${LAYERDIR}/"\n'
        'LAYERSERIES_COMPAT_sources = "wrynose"\n',
        "recipes-sources/made/made_1.0.bb": "inherit make\n",
        "recipes-sources/made/made/Makefile": "made: in.txt\n\tcp $< $@; echo $(MAKEFLAGS) >> $@\n",
        "recipes-sources/made/made/in.txt": "in\n",
        "recipes-sources/built/built_1.0.bb": "inherit cmake\n",
        "recipes-sources/built/files/CMakeLists.txt": "cmake_minimum_required(VERSION 3.13)\nproject(built NONE)\n"
        "add_custom_target(built ALL COMMAND ${CMAKE_COMMAND} -E touch built)\n",
        "recipes-sources/slow/slow_1.0.bb": "do_compile() {\n\ttouch ${TOPDIR}/started\n\tsleep 987\n}\n",
    }
    for name, text in sources.items():
        path = layer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    build = builddir.make(tmp_path / "build", [META_TEST, layer], 'PARALLEL_MAKE = "-j 3"')
    has_cmake = bool(shutil.which("cmake") and shutil.which("ninja"))
    result = builddir.run(bitbake, build, "made", *(["built"] if has_cmake else []))
    assert result.returncode == 0, result.output
    assert "-j3" in (build / "tmp/work/made/1.0/build/made").read_text()
    assert (build / "tmp/work/built/1.0/build/built").exists() or not has_cmake

    slow = builddir.run(bitbake, build, "slow", is_over=(build / "started").exists)
    assert slow.returncode == -9
    assert "killed after" in slow.output
    assert slow.leftover == ()


def test_checkout_must_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A MEMGUARD_BITBAKE that names no BitBake is told in one sentence."""
    monkeypatch.setenv("MEMGUARD_BITBAKE", str(tmp_path))
    with pytest.raises(BitBakeMissing, match="is no BitBake checkout"):
        bitbakes.locate(tmp_path)


def test_wheel_is_the_pinned_one(bitbake: BitBake) -> None:
    """The installed core is the pinned version, unchanged since its wheel was made."""
    if bitbake.is_checkout:
        pytest.skip("a checkout, not the wheel")
    lib = bitbake.tree / "lib"
    (record,) = lib.glob("*.dist-info/RECORD")
    assert record.parent.name == f"bitbake_setup-{bitbakes.WHEEL_VERSION}.dist-info"
    assert bitbake.version == bitbakes.WHEEL_VERSION
    with record.open(newline="") as rows:
        recorded = {path: digest for path, digest, _ in csv.reader(rows) if path.startswith("bb/") and digest}
    assert "bb/runqueue.py" in recorded
    for path, digest in recorded.items():
        found = base64.urlsafe_b64encode(hashlib.sha256((lib / path).read_bytes()).digest()).rstrip(b"=")
        assert digest == f"sha256={found.decode()}", path
