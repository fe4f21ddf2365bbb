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
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from memguard.version import VERSION
from memguard_cli.main import COMMANDS
from testbed import wheel
from testbed.wheel import CALLS, PATIENCE_S

# Names of modules that are not those of their distributions.
DISTRIBUTIONS = {"yaml": "pyyaml", "markupsafe": "jinja2"}


class Installed:
    """An environment with the wheel, and a directory to work in that has none of the checkout above it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.wheel = wheel.build(directory)
        venv.create(directory / "venv", with_pip=False)
        self.python = directory / "venv" / "bin" / "python"
        (self.packages,) = (directory / "venv" / "lib").glob("python*/site-packages")
        wheel.pip("--python", str(self.python), "install", "--no-deps", "--no-index", str(self.wheel))
        # Python reads no .pth files of a directory that is named in one, so an editable memguard is not found there.
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed once."""
    pytest.importorskip("setuptools", minversion="70.1", reason="scripts/setup brings what builds wheels")
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with a finished build, its buildstats, and a scenario."""
    return wheel.make_work(tmp_path)


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


def test_the_wheel_has_its_version_from_the_layer(installed: Installed, work: Path) -> None:
    """The layer's package says the version; the wheel's name and `memguard --version` have it from there."""
    assert installed.wheel.name.startswith(f"meta_memguard-{VERSION}-")
    with installed.start("--version", cwd=work) as process:
        assert process.communicate(timeout=PATIENCE_S)[0] == f"memguard, version {VERSION}\n"


def test_the_wheel_has_each_file_once_and_the_licence(installed: Installed) -> None:
    """Nothing lies in it twice, the layer's table of recipes among it, and what it may be used for is said."""
    with zipfile.ZipFile(installed.wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith("COPYING.MIT") for name in contents)
    assert any(name.endswith("memguard-footprints.csv") for name in contents)
    large = sorted(content for content in contents.values() if len(content) > 500)
    assert len(large) == len(set(large))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_subcommands(installed: Installed, work: Path, shell: str) -> None:
    """The line of docs/install.md for each shell gives a script, by which `memguard do` becomes doctor."""
    environment = {**installed.environment, "_MEMGUARD_COMPLETE": f"{shell}_source"}
    command = str(installed.python.parent / "memguard")
    script = subprocess.run([command], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "_MEMGUARD_COMPLETE" in script.stdout, script.stderr
    words = {"COMP_WORDS": "do" if shell == "fish" else "memguard do", "COMP_CWORD": "do" if shell == "fish" else "1"}
    environment = {**environment, **words, "_MEMGUARD_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        environment["COMP_WORDS"] = "memguard do"
    told = subprocess.run([command], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "doctor" in told.stdout, told.stderr
    assert "predict" not in told.stdout


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
