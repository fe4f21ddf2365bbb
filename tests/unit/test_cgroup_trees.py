# SPDX-License-Identifier: MIT
"""The trees below fixtures/cgroup: how they are put together, and that nothing is there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cgroup_trees import BASE, CASES, FIXTURES, LAYOUT, files_below, files_of


@pytest.mark.parametrize("case", LAYOUT)
def test_a_case_holds_what_differs_only(case: str) -> None:
    """No file of a case stands in the parts that it is made of, and it takes away nothing that it has itself."""
    own = {path: content for path, content in files_below(FIXTURES / case).items() if path != "expected.json"}
    shared = {
        f"{place}/{path}": content
        for place, part in LAYOUT[case]["parts"].items()
        for path, content in files_below(BASE / part).items()
    }
    assert [path for path, content in own.items() if shared.get(path) == content] == []
    assert set(LAYOUT[case]["absent"]) <= set(shared) - set(own)


def test_every_part_is_used() -> None:
    """No part lies there for nobody."""
    used = {part for case in LAYOUT.values() for part in case["parts"].values()}
    assert {path.name for path in BASE.iterdir()} == used


def test_an_empty_file_and_none_are_two_things() -> None:
    """A case may empty a file of its part, or take it away."""
    assert files_of("broken-empty-files")["sys/fs/cgroup/g/memory.max"] == b""
    assert not (CASES / "no-mount-table" / "proc/self/mountinfo").exists()
    assert (CASES / "no-mount-table" / "proc/self/cgroup").read_bytes() == b"0::/g\n"


def test_a_tree_lies_as_it_is_listed() -> None:
    """What is written for a case is what its files are, with nothing of another."""
    root: Path = CASES / "kubernetes-v1-limit-on-pod"
    assert files_below(root) == files_of("kubernetes-v1-limit-on-pod")
