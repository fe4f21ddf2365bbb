# SPDX-License-Identifier: MIT
"""Failures, and what is found in what they print."""

from __future__ import annotations

import io
import os
import subprocess
import textwrap
from pathlib import Path

from memguard.diagnose.scan import classify, classify_stream
from memguard.diagnose.verdict import Finding


def judge(text: str) -> Finding:
    """The finding over a log given as text, which must be the same by lines and by bytes."""
    text = textwrap.dedent(text).strip("\n") + "\n"
    finding = classify(text.splitlines(keepends=True))
    assert finding == classify_stream(io.BytesIO(text.encode()))
    return finding


def printed(*command: str, cwd: Path, **variables: str) -> str:
    """What a command that fails prints."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    done = subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode != 0
    return done.stdout
