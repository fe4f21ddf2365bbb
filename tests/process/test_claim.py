# SPDX-License-Identifier: MIT
"""The claim on a MEMGUARD_DIR: one process has it at a time, and none that has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.claim import Claim, owner_of

# Claims the directory, says whether it could, and waits for its input to end.
_OTHER = """
import sys
from pathlib import Path
from memguard.channels.claim import Claim
claim = Claim.take(Path(sys.argv[1]), "other")
print(claim is not None, flush=True)
sys.stdin.read()
"""


def other(directory: Path) -> tuple[subprocess.Popen[str], bool]:
    """Another process that tries to claim the directory; whether it has it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", _OTHER, str(directory)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    return process, process.stdout.readline() == "True\n"


def test_a_claim_keeps_others_away_until_it_is_released(tmp_path: Path) -> None:
    """A second process gets none; after the release it does, and nothing of the first is left."""
    claim = Claim.take(tmp_path, "first")
    assert claim is not None
    process, has_it = other(tmp_path)
    process.communicate()
    assert not has_it
    claim.release()
    assert list(tmp_path.iterdir()) == []
    process, has_it = other(tmp_path)
    assert has_it
    assert owner_of(tmp_path) == "other"
    assert Claim.take(tmp_path, "first") is None
    process.communicate()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    """What a killed process has left keeps nobody away."""
    process, has_it = other(tmp_path)
    assert has_it
    process.kill()
    process.communicate()
    assert owner_of(tmp_path) == "other"
    claim = Claim.take(tmp_path, "next")
    assert claim is not None
    assert owner_of(tmp_path) == "next"
    claim.release()


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    """A link leads nowhere, and a FIFO is not waited for."""
    foreign = tmp_path / "foreign"
    foreign.write_text("kept", encoding="utf-8")
    place = BuildDirectory(tmp_path).claim
    place.symlink_to(foreign)
    with pytest.raises(OSError, match="symbolic links"):
        Claim.take(tmp_path, "first")
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(OSError, match="not a plain file"):
        Claim.take(tmp_path, "first")
    assert owner_of(tmp_path) == ""
    assert foreign.read_text(encoding="utf-8") == "kept"
