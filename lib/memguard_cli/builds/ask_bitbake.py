# SPDX-License-Identifier: MIT
"""Asks BitBake itself what a variable is, where a build environment is at hand.

Runs in: outside BitBake; starts bitbake-getvar, whose server ends with it.
Does not cover: a build directory in which a build runs: its server is left alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from memguard_cli.builds.answers import answer
from memguard_cli.builds.failed_logs import is_running

_PROGRAM = "bitbake-getvar"
# A server on a busy machine takes some seconds to start and to read the configuration.
_ANSWER_S = 90


def can_ask(directory: Path) -> bool:
    """Whether this shell is set up for builds in `directory`, and none runs there."""
    named = os.environ.get("BUILDDIR")
    if not named or Path(named).resolve() != directory or shutil.which(_PROGRAM) is None:
        return False
    return not is_running(directory)


def ask(directory: Path, variable: str) -> str | None:
    """The value of a variable, None where BitBake does not say."""
    environment = {**os.environ, "BB_SERVER_TIMEOUT": "0"}
    lines = answer([_PROGRAM, "--value", variable], _ANSWER_S, directory, environment).splitlines()
    return lines[-1].strip() if lines else None
