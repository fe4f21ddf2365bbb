# SPDX-License-Identifier: MIT
"""Dividing what processes share, out of literal files."""

from __future__ import annotations

from pathlib import Path

import pytest

from memguard.sense import walks
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_reader import ProcessReader
from memguard.sense.process_tree import Process, Tree
from memguard.sense.walks import Walks
from memguard.units import MIB

ROLLUP = """\
55d0-7ffd ---p 00000000 00:00 0 [rollup]
Rss:  {rss} kB
Pss_Anon:  {pss} kB
Pss_Shmem:  {shmem} kB
Private_Dirty:  {private} kB
Anonymous:  {anon} kB
"""


def make_tree(root: Path, copies: int, common_mib: int, own_mib: int, pid: int = 1) -> Tree:
    """A leader and its copies, each with memory common to all and some of its own, of which nothing is divided yet."""
    tree = Tree(ProcessId(pid, 100), 0.0)
    for number in range(copies + 1):
        process = Process(pid + number)
        process.start_ticks, process.tree, process.size = 100 + number, tree, 1000
        process.anon_bytes = (common_mib + own_mib) * MIB
        process.has_copies = True
        tree.members[process.pid] = process
        kib = {"anon": common_mib + own_mib, "pss": own_mib + common_mib / (copies + 1), "private": own_mib}
        (root / str(process.pid)).mkdir()
        sizes = {name: int(mib * 1024) for name, mib in kib.items()}
        (root / str(process.pid) / "smaps_rollup").write_text(ROLLUP.format(rss=0, shmem=0, **sizes))
    tree.left_bytes = 50 * MIB
    return tree


def test_what_is_shared_is_the_oldest_ones(tmp_path: Path) -> None:
    """After a walk each copy counts for its own memory, and the oldest for what is common, too."""
    tree = make_tree(tmp_path, copies=3, common_mib=80, own_mib=5)
    assert tree.usage(10.0).current_bytes == 4 * 85 * MIB
    assert Walks(ProcessReader(str(tmp_path))).walk([tree], 10.0) is tree
    assert tree.usage(10.0).current_bytes == (80 + 4 * 5) * MIB
    assert [process.own_bytes // MIB for process in tree.members.values()] == [85, 5, 5, 5]
    assert tree.doubt_bytes == 0


def test_of_a_large_tree_a_part_stands_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree beyond what one walk may go through is measured by some of its processes."""
    tree = make_tree(tmp_path, copies=7, common_mib=0, own_mib=10)
    for process in list(tree.members.values())[1::2]:
        (tmp_path / str(process.pid) / "smaps_rollup").unlink()
    monkeypatch.setattr(walks, "WALK_MOST_BYTES", 60 * MIB)
    tree.usage(10.0)
    assert Walks(ProcessReader(str(tmp_path))).walk([tree], 10.0) is tree
    assert tree.usage(10.0).current_bytes == 80 * MIB


def test_the_tree_most_in_doubt_comes_first_and_not_twice(tmp_path: Path) -> None:
    """One tree is walked at a time, and a tree of which all is known is not walked again."""
    trees = [make_tree(tmp_path, 1, 10, 1), make_tree(tmp_path, 1, 10, 1, pid=10)]
    trees[1].left_bytes *= 2
    walker = Walks(ProcessReader(str(tmp_path)))
    for tree in trees:
        tree.usage(10.0)
    walked = []
    for now_s in (10.0, 11.0, 12.0):
        walked.append(walker.walk(trees, now_s))
        for tree in trees:
            tree.usage(now_s)
    assert walked == [trees[1], trees[0], None]


def test_walks_keep_to_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that took long is paid for before the next one, whatever tree is in doubt."""
    spent_s = iter([0.0, 0.08, 1.0, 1.0])
    monkeypatch.setattr(walks.time, "thread_time", lambda: next(spent_s))
    trees = [make_tree(tmp_path, 1, 10, 1), make_tree(tmp_path, 1, 10, 1, pid=10)]
    walker = Walks(ProcessReader(str(tmp_path)))
    for tree in trees:
        tree.usage(100.0)
    assert walker.walk(trees, 100.0) in trees
    left_s = walks.WALK_SHARE * 9
    assert left_s < 0.03
    assert walker.walk(trees, 109.0) is None
    assert walker.walk(trees, 111.0) in trees


def test_without_proportional_sizes_nothing_is_divided(tmp_path: Path) -> None:
    """Where smaps_rollup is forbidden or old, sizes stay, and the tree is not asked again at once."""
    tree = make_tree(tmp_path, copies=1, common_mib=10, own_mib=1)
    for process in tree.members.values():
        (tmp_path / str(process.pid) / "smaps_rollup").write_text("Pss: 10 kB\n")
    tree.usage(10.0)
    walker = Walks(ProcessReader(str(tmp_path)))
    assert walker.walk([tree], 10.0) is tree
    assert tree.usage(10.0).current_bytes == 22 * MIB
    assert walker.walk([tree], 10.0) is None
