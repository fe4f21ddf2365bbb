# SPDX-License-Identifier: MIT
"""The fuzzer: it notices what it looks for, gives the same inputs for the same seed, and finds nothing in small."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from bench import fuzz
from bench.mutations import spoil, spoil_json, spoil_packed
from bench.readers import READERS


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the bench; its exit status, and what it printed."""
    status = fuzz.main(list(words))
    return status, capsys.readouterr().out


def test_no_reader_fails_in_small(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every reader is tried, and what it reads is refused or taken."""
    status, told = run(capsys, "--seconds", "4", "--json", str(tmp_path / "found.json"))
    assert status == 0, told
    accounts = json.loads((tmp_path / "found.json").read_text())
    assert [account["name"] for account in accounts] == list(READERS)
    assert all(account["tried"] for account in accounts)


@pytest.mark.parametrize("kind", ["tracebacks", "hangs", "hogs"])
def test_what_it_looks_for_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    """A reader that raises, one that never ends and one that takes half a gigabyte, each by the number of its input."""

    def read(dice: random.Random, directory: Path) -> None:
        if dice.random() < 0.2:
            return
        if kind == "tracebacks":
            raise KeyError("limit")
        if kind == "hogs":
            bytes(bytearray(b"x") * (400 << 20))
        while kind == "hangs":
            time.process_time()

    monkeypatch.setattr(fuzz, "MOST_S", 0.3 if kind == "hangs" else 60.0)
    monkeypatch.setitem(READERS, "state", read)
    status, told = run(capsys, "--seconds", "1", "--reader", "state", "--json", str(tmp_path / "found.json"))
    (account,) = json.loads((tmp_path / "found.json").read_text())
    assert status == 1
    assert {name for name in ("tracebacks", "hangs", "hogs") if account[name]} == {kind}
    assert len(account["findings"]) == 1 or kind == "hogs"
    assert "--only" in told


def test_inputs_are_the_same_for_the_same_dice() -> None:
    """What was found once can be found again."""
    for made in (spoil, spoil_json, spoil_packed):
        first, second = (made(random.Random(f"{made.__name__} 7"), b'{"a": 1, "b": [2, 3]}\n' * 9) for _ in range(2))
        assert first == second
