# SPDX-License-Identifier: MIT
"""What a task that starts has waited for."""

from __future__ import annotations

import random

from memguard.server.needs import MOST_TASKS, Needs


def test_what_ran_nothing_is_looked_through() -> None:
    """Tasks have the numbers of their starts; of one that never starts those count that it needed."""
    depends = {"compile": ["unpack"], "install": ["compile"], "image": ["build", "install"], "build": ["package"]}
    needs = Needs(lambda tid: depends.get(tid, []))
    assert needs.start("unpack") == ()
    assert needs.start("package") == ()
    assert needs.start("compile") == (0,)
    assert needs.start("install") == (2,)
    assert needs.start("image") == (1, 3)


def test_a_chain_may_be_of_any_length() -> None:
    """Ten thousand tasks from sstate between two that run."""
    needs = Needs(lambda tid: [str(int(tid) - 1)] if int(tid) else [])
    needs.start("0")
    assert needs.start("10000") == (0,)


def test_any_graph_gives_what_a_search_finds() -> None:
    """Of tasks that run or not, in any order that keeps to what they need; nothing is told twice."""
    dice = random.Random(1)
    for _ in range(50):
        depends = {str(task): [str(n) for n in range(task) if dice.random() < 0.2] for task in range(25)}
        needs, numbers, waited = Needs(depends.__getitem__), dict[str, int](), list[set[int]]()
        for tid in depends:
            if dice.random() < 0.4:
                continue
            everything, seen, way = set(), {tid}, [tid]
            while way:
                for needed in depends[way.pop()]:
                    if needed not in seen:
                        seen.add(needed)
                        way.append(needed)
                        everything |= {numbers[needed]} & set(numbers.values()) if needed in numbers else set()
            told = needs.start(tid)
            assert set(told) | {one for number in told for one in waited[number]} == everything
            assert not any(one in waited[other] for one in told for other in told)
            numbers[tid] = len(numbers)
            waited.append(everything)


def test_of_a_build_without_end_nothing_is_told() -> None:
    """What nobody will simulate costs nothing."""
    needs = Needs(lambda tid: [str(int(tid) - 1)] if int(tid) else [])
    assert [needs.start(str(number)) for number in range(MOST_TASKS)][-1] == (MOST_TASKS - 2,)
    assert needs.start(str(MOST_TASKS)) == ()
