# SPDX-License-Identifier: MIT
"""Runs the `memguard` command as one types it, in a clean environment, and takes its one sentence of refusal."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from memguard_cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "memguard_cli.main"]
PYTHONPATH = os.pathsep.join(str(REPOSITORY / part) for part in ("meta-memguard/lib", "lib"))


def memguard(*words: str, cwd: Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a clean environment and a directory, within this process, which spares importing it anew."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment(**env), clear=True))
        stack.enter_context(mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.callback(os.chdir, before)
        os.chdir(cwd)
        status = main(list(words))
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def environment(**env: str) -> dict[str, str]:
    """The variables a command gets, and no others."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "80", "PYTHONPATH": PYTHONPATH, **env}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that could not do what it was told."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("memguard: ")
    return sentence
