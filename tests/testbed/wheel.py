# SPDX-License-Identifier: MIT
"""The package as a wheel, and one call of each subcommand that shows that it works wherever it was installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
GRAPH = FIXTURES / "graphs" / "core-image-minimal.dot.xz"
# What conf/container/Containerfile copies, too.
SOURCES = ("pyproject.toml", "README.md", "COPYING.MIT", "lib", "meta-memguard")
PATIENCE_S = 60


class Call(NamedTuple):
    """Words after `memguard`, and a text that only one that has done its work prints.

    statuses: those it may end with: doctor's is what it finds of this machine, explain's what it finds in a log.
    """

    words: tuple[str, ...]
    wanted: str
    statuses: tuple[int, ...] = (0,)


# All but export, which does not end by itself.
CALLS = {
    "doctor": Call(("doctor", "--json"), '"warnings"', (0, 3)),
    "explain": Call(("explain", str(FIXTURES / "failure-logs" / "neg07-ld-signal11.log")), "neg07", (0, 1)),
    "grow": Call(("grow", "--account", "nowhere"), "no service account in nowhere", (2,)),
    "history": Call(("history", "--history", "history.db", "import", "buildstats"), "history.db"),
    "plan": Call(("plan", str(GRAPH), "--cpus", "8", "--limits", "24G,32G", "--seeds", "1"), "24"),
    "predict": Call(("predict", "llvm-native", "--jobs", "8"), "llvm-native"),
    "report": Call(("report", "build", "-o", "-"), "</html>"),
    "run": Call(("run", "--", "true"), "exit status 0"),
    "simulate": Call(("simulate", "scenario.yml", "--policy", "memguard"), "memguard"),
    "top": Call(("top", "build", "--once"), "no build is running", (2,)),
}


def make_work(directory: Path) -> Path:
    """Fill a directory with a finished build, its buildstats, and a scenario; returns it."""
    shutil.copytree(FIXTURES / "builds" / "stopped", directory / "build" / "memguard")
    shutil.copytree(FIXTURES / "buildstats", directory / "buildstats")
    (directory / "scenario.yml").write_text(f"graph: {GRAPH}\nlimits: [24G]\ncpus: [8]\nseeds: 1\n", encoding="utf-8")
    return directory


def copy_sources(directory: Path, names: tuple[str, ...] = SOURCES) -> Path:
    """Copy the named files and directories of the repository, without what Python and setuptools leave there."""
    directory.mkdir()
    for name in names:
        if (REPOSITORY / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, directory / name, ignore=ignored)
        else:
            shutil.copy(REPOSITORY / name, directory)
    return directory


def build(directory: Path) -> Path:
    """Build the wheel from a copy, since setuptools leaves its files beside what it builds; returns its path."""
    sources = copy_sources(directory / "sources")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(sources))
    shutil.rmtree(sources)
    (wheel,) = directory.glob("*.whl")
    return wheel


def pip(*words: str) -> None:
    """Run the pip of this Python; its complaint is the failure."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
