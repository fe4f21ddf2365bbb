# SPDX-License-Identifier: MIT
"""Failures, and what is found in what they print."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from memguard.diagnose.scan import classify, classify_stream
from memguard.diagnose.verdict import Finding

LOGS = Path(__file__).parents[1] / "fixtures" / "failure-logs"
_VERDICTS = {"oom": "memory", "other": "other", "ambiguous": "unclear"}


class Labelled(NamedTuple):
    """A log and what is right of it: its verdict, and the program that died, "-" where none is named or asked for."""

    verdict: str
    program: str
    text: str


def labelled_logs() -> Iterator[Labelled]:
    """All logs of the fixtures: excerpts of public threads, then wordings."""
    for row in csv.DictReader((LOGS / "INDEX.tsv").open(encoding="utf-8"), delimiter="\t"):
        yield Labelled(_VERDICTS[row["label"]], "-", (LOGS / row["file"]).read_text(encoding="utf-8"))
    for verdict in ("memory", "other", "unclear"):
        for part in (LOGS / f"wordings-{verdict}.txt").read_text(encoding="utf-8").split("=== ")[1:]:
            head, _, text = part.partition("\n")
            yield Labelled(verdict, head.split(" # ")[0], text)


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
