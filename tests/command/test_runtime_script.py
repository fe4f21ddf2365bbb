# SPDX-License-Identifier: MIT
"""scripts/memguard: what it runs with, and that it needs nothing of what tests need.

Making an environment fetches packages; scripts/bench install does that, on every Python that is here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memguard.version import VERSION
from testbed import wheel


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone without environments."""
    return wheel.copy_sources(tmp_path / "clone", (*wheel.SOURCES, "scripts"))


def _call(tree: Path, python: str, *words: str, cwd: Path, path: str = os.environ["PATH"]) -> tuple[int, str, str]:
    env = {"PATH": path, "HOME": str(tree.parent), "MEMGUARD_PYTHON": python}
    command = [str(tree / "scripts" / "memguard"), *words]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_python_that_has_the_packages_is_used_as_it_is(tree: Path, tmp_path: Path) -> None:
    """Nothing is installed and nothing said; the command works where it was called, also through a link."""
    before = sorted(tree.iterdir())
    assert _call(tree, sys.executable, "--version", cwd=tmp_path) == (0, f"memguard, version {VERSION}\n", "")
    assert sorted(tree.iterdir()) == before
    work = tmp_path / "work"
    work.mkdir()
    wheel.make_work(work)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "memguard").symlink_to(tree / "scripts" / "memguard")
    linked = [str(tmp_path / "bin" / "memguard"), "report", "build", "-o", "-"]
    env = {"PATH": os.environ["PATH"], "MEMGUARD_PYTHON": sys.executable}
    done = subprocess.run(linked, cwd=work, env=env, capture_output=True, text=True, timeout=60)
    assert "</html>" in done.stdout, done.stderr


def test_without_a_way_to_get_packages_it_says_what_helps(tree: Path, tmp_path: Path) -> None:
    """A Python that has no packages and can make no environment: what to install, and status 2."""
    poor = tmp_path / "poor"
    # It is a Python, but one without packages, venv and pip.
    poor.write_text(
        f'#!/bin/sh\ncase "$1" in -m) exit 1;; esac\nexec {os.path.realpath(sys.executable)} -S -E "$@"\n',
        encoding="utf-8",
    )
    poor.chmod(0o755)
    # Where apt-get is not, root cannot install what is missing.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "readlink", "sed", "tr", "rm", "mkdir", "id"):
        (tools / name).symlink_to(f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}")
    status, out, err = _call(tree, str(poor), "doctor", cwd=tmp_path, path=str(tools))
    assert (status, out) == (2, ""), err
    assert "python3-venv" in err.splitlines()[-1]
    assert not (tree / ".venv-memguard").exists()


def test_a_python_that_is_too_old_or_none_is_refused(tree: Path, tmp_path: Path) -> None:
    """It is named, with a good value."""
    status, _, err = _call(tree, "/nowhere/python3", "doctor", cwd=tmp_path)
    assert status == 2
    assert err == ">> /nowhere/python3: no Python 3.9 or newer; a good value is MEMGUARD_PYTHON=python3.12\n"
