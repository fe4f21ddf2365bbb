# SPDX-License-Identifier: MIT
"""The package as people install it: a wheel in a fresh environment, far from the checkout, answers every subcommand.

Its dependencies come from the environment that runs the tests, so that nothing is fetched; memguard itself does not.
"""

from __future__ import annotations

import ast
import json
import os
import re
import select
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

from memguard_cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
GRAPH = FIXTURES / "graphs" / "core-image-minimal.dot.xz"
# What conf/container/Containerfile copies, too.
SOURCES = ("pyproject.toml", "README.md", "lib", "meta-memguard")
# Names of modules that are not those of their distributions.
DISTRIBUTIONS = {"yaml": "pyyaml", "markupsafe": "jinja2"}
PATIENCE_S = 60


class Call(NamedTuple):
    """Words after `memguard`, and a text that only one that has done its work prints.

    statuses: those it may end with: doctor's is what it finds of this machine, explain's what it finds in a log.
    """

    words: tuple[str, ...]
    wanted: str
    statuses: tuple[int, ...] = (0,)


CALLS = {
    "doctor": Call(("doctor", "--json"), '"warnings"', (0, 1)),
    "explain": Call(("explain", str(FIXTURES / "failure-logs" / "neg07-ld-signal11.log")), "neg07", (0, 1)),
    "history": Call(("history", "--history", "history.db", "import", "buildstats"), "history.db"),
    "plan": Call(("plan", str(GRAPH), "--cpus", "8", "--limits", "24G,32G", "--seeds", "1"), "24"),
    "predict": Call(("predict", "llvm-native", "--jobs", "8"), "llvm-native"),
    "report": Call(("report", "build", "-o", "-"), "</html>"),
    "run": Call(("run", "--", "true"), "exit status 0"),
    "simulate": Call(("simulate", "scenario.yml", "--policy", "memguard"), "memguard"),
    "top": Call(("top", "build", "--once"), "no build is running", (2,)),
}


class Installed:
    """An environment with the wheel, and a directory to work in that has none of the checkout above it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.wheel = self._build()
        venv.create(directory / "venv", with_pip=False)
        self.python = directory / "venv" / "bin" / "python"
        (self.packages,) = (directory / "venv" / "lib").glob("python*/site-packages")
        _pip("--python", str(self.python), "install", "--no-deps", "--no-index", str(self.wheel))
        # Python reads no .pth files of a directory that is named in one, so an editable memguard is not found there.
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def _build(self) -> Path:
        """Build the wheel from a copy, since setuptools leaves its files beside what it builds."""
        sources = self.directory / "sources"
        sources.mkdir()
        for name in SOURCES:
            if (REPOSITORY / name).is_dir():
                shutil.copytree(
                    REPOSITORY / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
                )
            else:
                shutil.copy(REPOSITORY / name, sources)
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(self.directory), str(sources))
        shutil.rmtree(sources)
        (wheel,) = self.directory.glob("*.whl")
        return wheel

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a user who knows nothing of the checkout."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "COLUMNS": "120"}

    def start(self, *words: str, cwd: Path) -> subprocess.Popen[str]:
        """Start the installed command."""
        command = [str(self.python.parent / "memguard"), *words]
        return subprocess.Popen(
            command, cwd=cwd, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed once."""
    pytest.importorskip("setuptools", minversion="70.1", reason="scripts/setup brings what builds wheels")
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with a finished build, its buildstats, and a scenario."""
    shutil.copytree(FIXTURES / "builds" / "stopped", tmp_path / "build" / "memguard")
    shutil.copytree(FIXTURES / "buildstats", tmp_path / "buildstats")
    (tmp_path / "scenario.yml").write_text(f"graph: {GRAPH}\nlimits: [24G]\ncpus: [8]\nseeds: 1\n", encoding="utf-8")
    return tmp_path


def test_every_subcommand_is_called_here() -> None:
    """Whoever adds a subcommand sees it run from a wheel."""
    assert {*CALLS, "export"} == set(COMMANDS)


@pytest.mark.parametrize("name", CALLS)
def test_the_wheel_answers(installed: Installed, work: Path, name: str) -> None:
    """Each subcommand does its work from a wheel, and ends without a traceback."""
    words, wanted, statuses = CALLS[name]
    with installed.start(*words, cwd=work) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err
    assert process.returncode in statuses, err
    assert wanted in out + err


def test_the_wheel_serves_metrics(installed: Installed, work: Path) -> None:
    """export serves from a wheel until it is ended."""
    with installed.start("export", "--listen", "127.0.0.1:0", "build", cwd=work) as process:
        try:
            assert process.stdout
            assert select.select([process.stdout], [], [], PATIENCE_S)[0]
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address
            with urllib.request.urlopen(address[0], timeout=PATIENCE_S) as answer:
                assert b"memguard_build_running 0" in answer.read()
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_what_runs_is_the_wheel(installed: Installed, work: Path) -> None:
    """Every module comes from the fresh environment, none from the checkout."""
    program = (
        "import json, memguard, memguard_cli.main, memguard.predict.footprints as footprints;"
        "print(json.dumps([memguard.__file__, memguard_cli.main.__file__, str(footprints.TABLE)]))"
    )
    done = subprocess.run(
        [installed.python, "-c", program], cwd=work, env=installed.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for path in json.loads(done.stdout):
        assert Path(path).is_relative_to(installed.directory / "venv")
        assert Path(path).is_file()


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is there from 3.10 on")
def test_the_wheel_names_all_that_it_imports(installed: Installed) -> None:
    """What the command imports is Python's own, its own, or of a package that it or an extra for users asks for."""
    (metadata,) = installed.packages.glob("meta_memguard-*.dist-info/METADATA")
    wanted = Parser().parsestr(metadata.read_text(encoding="utf-8")).get_all("Requires-Dist") or []
    named = {re.split(r"[^\w-]", text)[0].lower() for text in wanted if "test" not in text.partition(";")[2]}
    imported = {
        name.partition(".")[0]
        for path in (installed.packages / "memguard_cli").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    foreign = imported - sys.stdlib_module_names - {"memguard", "memguard_cli"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= named
