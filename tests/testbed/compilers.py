# SPDX-License-Identifier: MIT
"""Programs that stand in for compilers: job_program.c under the names of real ones, so that they are known as jobs.

Covers: building them.
Does not cover: what the arguments mean (the head of job_program.c tells).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("job_program.c")


def build(directory: Path) -> Path:
    """The directory that holds `cc1plus` and `ld`, made in `directory`. Raises FileNotFoundError without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise FileNotFoundError("no C compiler")
    programs = directory / "programs"
    if not programs.exists():
        programs.mkdir()
        subprocess.run([compiler, "-O1", "-o", str(programs / "cc1plus"), str(SOURCE)], check=True)
        os.link(programs / "cc1plus", programs / "ld")
    return programs
