# SPDX-License-Identifier: MIT
"""What names the unit of a compiler, by the account of the real one."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from memguard.sense.compilers import unit_of


def compiler_unit(directory: Path, *words: str) -> int:
    """The unit of the compiler proper that gcc would start, by its own account."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["gcc", "-###", *words], cwd=directory, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stderr.splitlines() if "/cc1" in line.partition(" -")[0]]
    return unit_of("\0".join(shlex.split(line)).encode() + b"\0")


def test_a_unit_is_known_in_another_build(tmp_path: Path) -> None:
    """gcc's compiler has the same unit in another directory and with other options, and another one for other files."""
    words = ("-c", "-o", "src/main.o", "src/main.c")
    unit = compiler_unit(tmp_path / "one", "-O2", *words)
    assert unit == compiler_unit(tmp_path / "two", "-O2", *words)
    assert unit == compiler_unit(tmp_path / "two", "-O0", "-DNEW=2", "-Inew", *words)
    assert unit != compiler_unit(tmp_path / "two", "-O2", "-c", "-o", "src/other.o", "src/other.c")
    assert unit != compiler_unit(tmp_path / "two", "-O2", "-c", "-o", "lib/main.o", "lib/main.c")
