# SPDX-License-Identifier: MIT
"""The lives of jobs from build to build: which job is which, and what comes back of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.predict import remembered_lives as module
from memguard.predict.job_lives import Life
from memguard.predict.remembered_lives import Lives, NoTable
from memguard.sense.compilers import unit_of
from memguard.units import MIB

LIGHT, HEAVY = Life(50 * MIB, 2.0, 1.0), Life(400 * MIB, 4.0, 2.0, 0.5)
UNITS = st.integers(1, (1 << 64) - 1)
LIVES = st.builds(
    lambda peak, wall, rise, begun: Life(peak, wall, wall * rise, wall * rise * begun),
    st.integers(0, 1 << 50),
    st.floats(0.1, 1e6),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.5),
)


def remembered(found: dict[int, Life], before: Lives | None = None) -> Lives:
    """What the build after one with these lives knows."""
    kept = Lives() if before is None else before
    for unit, life in found.items():
        kept.add(unit, life)
    return Lives(kept.packed())


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("/a/usr/bin/ld -o app main.o /tmp/ccXaZu81.res", "/b/c/usr/bin/ld -o app main.o /tmp/ccPQrs12.res", True),
        ("ld @/tmp/ccXaZu81 -o app", "ld @/tmp/ccPQrs12 -o app", True),
        ("clang -cc1 -o /tmp/a-1f2e3d.o a.cpp", "clang -cc1 -o /tmp/a-998877.o a.cpp", True),
        ("rustc --crate-name one src/lib.rs", "rustc --crate-name two src/lib.rs", False),
        ("ld -o app a.o", "ld -o lib.so a.o", False),
        ("cc1 /tmp/build/src/a.c", "cc1 /tmp/build/src/b.c", False),
        ("cc1 -o cc_utils.s cc_utils.c", "cc1 -o cc_debug.s cc_debug.c", False),
        (
            "rustc --crate-name one src/lib.rs --extern a=/x/tmp/work/1.0/liba-1f.rmeta -C metadata=1f -L deps=/x",
            "rustc --crate-name one src/lib.rs --extern a=/y/tmp/work/1.1/liba-2e.rmeta -C metadata=2e -L deps=/y",
            True,
        ),
        (
            "/go/pkg/tool/compile -o /tmp/go-build1/b07/_pkg_.a -p net/http -buildid A/A -pack ./server.go",
            "/go/pkg/tool/compile -o /tmp/go-build2/b07/_pkg_.a -p net/http -buildid B/B -pack ./server.go",
            True,
        ),
    ],
)
def test_what_names_a_unit(one: str, other: str, is_same: bool) -> None:
    """Names of files do, but neither where the build lies nor what temporary files are called."""
    first, second = (unit_of("\0".join(words.split()).encode() + b"\0") for words in (one, other))
    assert (first == second) is is_same


def test_no_command_line_is_no_unit() -> None:
    """A process that shows nothing builds nothing that could be known again."""
    assert unit_of(b"") == unit_of(b"\0\0") == 0
    kept = Lives()
    kept.add(0, HEAVY)
    assert not kept.has_news
    assert Lives(kept.packed()).of(0) is None


@given(st.dictionaries(UNITS, LIVES, max_size=50))
def test_every_life_comes_back(found: dict[int, Life]) -> None:
    """Peaks are exact, times to within what four bytes hold; what was not there is not known."""
    kept = remembered(found)
    assert len(kept) == len(found)
    for unit, life in found.items():
        again = kept.of(unit)
        assert again is not None
        assert again.peak_bytes == life.peak_bytes
        times = (life.wall_s, life.rise_s, life.begun_s)
        assert (again.wall_s, again.rise_s, again.begun_s) == pytest.approx(times, rel=1e-6)
    assert all(kept.of(unit) is None for unit in (0, 1, 1 << 63) if unit not in found)
    assert len(kept.sample(8)) == min(8, len(found))


@given(st.binary(max_size=200), st.booleans(), UNITS)
def test_no_bytes_do_harm(rest: bytes, has_beginning: bool, unit: int) -> None:
    """What is no table is refused, and damage within one costs single lives at most."""
    packed = module._MAGIC + rest if has_beginning else rest
    try:
        kept = Lives(packed)
    except NoTable:
        return
    for life in (kept.of(unit), *map(kept.of, kept._units), *kept.sample(64)):
        assert life is None or (life.bytes_at(0.1) >= 0 and life.mean_bytes <= life.peak_bytes)
    assert len(Lives(kept.packed())) <= len(kept)


def test_what_builds_do_not_meet_any_more_is_forgotten() -> None:
    """Units that are gone from the sources go after some builds; a build of a few of many says nothing of others."""
    kept = remembered(dict.fromkeys(range(1, 11), HEAVY))
    for _ in range(10):
        kept = remembered({1: LIGHT, 20: LIGHT}, kept)
    assert [unit for unit in range(1, 21) if kept.of(unit)] == [*range(1, 11), 20]
    for missed in range(1, module.GONE_AFTER + 2):
        kept = remembered(dict.fromkeys(range(3, 13), HEAVY), kept)
        has_gone = missed > module.GONE_AFTER
        assert [unit for unit in range(1, 21) if kept.of(unit)] == (
            [*range(3, 13)] if has_gone else [*range(1, 13), 20]
        )


def test_two_builds_of_the_same_add_up() -> None:
    """What one build added goes onto what another has left meanwhile."""
    mine, other = Lives(), remembered({2: HEAVY})
    mine.add(1, LIGHT)
    other.take(mine)
    both = Lives(other.packed())
    assert (both.of(1), both.of(2)) == (LIGHT, HEAVY)


def test_a_peak_is_forgotten_slowly_and_learned_at_once() -> None:
    """A look may miss a peak; one that was larger is believed."""
    smaller, larger = remembered({1: LIGHT}, remembered({1: HEAVY})), remembered({1: HEAVY}, remembered({1: LIGHT}))
    assert (smaller.of(1), larger.of(1)) == (Life(int(312.5 * MIB), 2.0, 1.0), HEAVY)
    twice = Lives()
    for life in (LIGHT, HEAVY, LIGHT):
        twice.add(7, life)
    assert Lives(twice.packed()).of(7) == HEAVY


def test_the_largest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of more units than are kept keeps those that matter, and a table stays small."""
    monkeypatch.setattr(module, "MOST_UNITS", 100)
    kept = remembered({unit: Life(unit * MIB, 1.0, 0.5) for unit in range(1, 1001)})
    assert [unit for unit in range(1, 1001) if kept.of(unit)] == list(range(901, 1001))
    assert len(kept.packed()) < 4096


def test_a_sample_holds_all_kinds() -> None:
    """Of real units, which are digests, a sample has about as many heavy ones as there are."""
    units = {unit_of(b"cc1plus\0%d.cpp\0" % number): (HEAVY if number % 4 == 0 else LIGHT) for number in range(4000)}
    sample = remembered(units).sample(64)
    assert len(sample) == 64
    assert 6 <= sample.count(HEAVY) <= 28


def test_tables_of_two_places_are_joined() -> None:
    """Who wrote last is believed of what both know; what only the other knows is kept for some whole builds more."""
    newer, older = remembered({1: LIGHT, 2: LIGHT}), remembered({2: HEAVY, 3: HEAVY})
    joined = Lives(newer.joined_to(older))
    assert (joined.of(1), joined.of(2), joined.of(3)) == (LIGHT, LIGHT, HEAVY)
    assert joined.joined_to(older) == joined.joined_to(newer) == joined.packed()
    for number in range(module.GONE_AFTER - 1):
        joined = Lives(newer.joined_to(joined))
        assert (joined.of(3) is None) == (number == module.GONE_AFTER)
    assert Lives(Lives().joined_to(newer)).of(1) == Lives(newer.joined_to(Lives())).of(1) == LIGHT
