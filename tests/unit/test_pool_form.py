# SPDX-License-Identifier: MIT
"""Which tasks may have a pool of tokens, in which form, and what they are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memguard.decide.pool_form import Choice, Facts, Form, choose, flags, without_jobs

MAKE = frozenset({"make", "cp", "sed"})
NINJA = frozenset({"ninja"})
CMAKE = frozenset({"cmake"})
CARGO = frozenset({"cargo"})
NEW = {"make": (4, 4), "ninja": (1, 13), "cargo": (1, 95)}
OLD = {"make": (4, 3), "ninja": (1, 11), "cargo": (1, 95)}


def form(commands: frozenset[str], **facts: Any) -> str:
    """The form chosen for a task of eight jobs."""
    return choose(Facts(**{"jobs": 8, "commands": commands, **facts})).form.value


@pytest.mark.parametrize(
    ("commands", "facts", "expected"),
    [
        (MAKE, NEW, "fifo"),
        (MAKE, OLD, "pipe"),
        (MAKE, {"make": (4, 1)}, "none"),
        (MAKE, {"make": (0, 0)}, "none"),
        (MAKE, {}, "none"),
        (MAKE, {"make": (5, 0)}, "fifo"),
        (frozenset({"gmake"}), {"make": (4, 3)}, "pipe"),
        # What make may call: what the recipe depends on.
        (MAKE, {**NEW, "depends": frozenset({"ninja"})}, "fifo"),
        (MAKE, {**NEW, "ninja": (1, 12), "depends": frozenset({"ninja"})}, "none"),
        (MAKE, {**NEW, "ninja": (1, 12)}, "fifo"),
        (MAKE, {**OLD, "ninja": (1, 13), "depends": frozenset({"ninja"})}, "none"),
        (MAKE, {**NEW, "depends": frozenset({"cargo"})}, "fifo"),
        (MAKE, {**OLD, "depends": frozenset({"cargo"})}, "none"),
        (MAKE, {**NEW, "cargo": (1, 60), "depends": frozenset({"cargo"})}, "none"),
        (MAKE | CARGO, OLD, "none"),
        (MAKE | CARGO, NEW, "fifo"),
        # ninja, and what calls it.
        (NINJA, NEW, "fifo"),
        (NINJA, OLD, "none"),
        (NINJA, {**NEW, "ninja": (1, 12)}, "none"),
        (NINJA, {**OLD, "ninja": (1, 13)}, "none"),
        (NINJA, {"ninja": (1, 13)}, "fifo"),
        (NINJA, {"make": (4, 4)}, "none"),
        (NINJA, {**NEW, "ninja": (0, 0)}, "none"),
        (frozenset({"meson"}), NEW, "fifo"),
        (frozenset({"meson"}), OLD, "none"),
        (CMAKE, {**NEW, "generator": "Ninja"}, "fifo"),
        (CMAKE, {**OLD, "generator": "Ninja"}, "none"),
        (CMAKE, {**OLD, "generator": "Unix Makefiles"}, "pipe"),
        (CMAKE, {**NEW, "generator": "Unix Makefiles"}, "fifo"),
        (CMAKE, {**NEW, "generator": "Xcode"}, "none"),
        (CMAKE, NEW, "none"),
        # cargo.
        (CARGO, NEW, "fifo"),
        (CARGO, OLD, "pipe"),
        (CARGO, {"cargo": (1, 95)}, "fifo"),
        (CARGO, {**NEW, "cargo": (1, 60)}, "none"),
        (CARGO, {**OLD, "cargo": (1, 60)}, "pipe"),
        (CARGO, NEW | {"depends": frozenset({"cargo"})}, "fifo"),
        # Nothing that takes tokens, or something that runs jobs beside it.
        (frozenset({"cp", "sed"}), {**NEW, "depends": frozenset({"ninja", "cargo"})}, "none"),
        (frozenset({"go"}), NEW, "none"),
        (MAKE | {"scons"}, NEW, "none"),
        (MAKE, {**NEW, "classes": frozenset({"autotools", "python3native"})}, "fifo"),
        (MAKE, {**NEW, "classes": frozenset({"setuptools3"})}, "none"),
        (MAKE, {**NEW, "classes": frozenset({"setuptools3-base"})}, "none"),
        (MAKE, {**NEW, "classes": frozenset({"go-mod"})}, "none"),
        (MAKE, {**NEW, "classes": frozenset({"gobject-introspection", "gettext"})}, "fifo"),
        (NINJA, {**NEW, "classes": frozenset({"python_mesonpy", "python_pep517"})}, "none"),
        (MAKE, {**NEW, "classes": frozenset({"icecc"})}, "none"),
        # What the recipe says itself.
        (MAKE, {**NEW, "text": "oe_runmake -e MAKEFLAGS="}, "none"),
        (MAKE, {**NEW, "text": "unset MAKEFLAGS\nmake"}, "none"),
        (MAKE, {**NEW, "text": "make -j1 all"}, "none"),
        (MAKE, {**NEW, "text": "make -j 4"}, "none"),
        (MAKE, {**NEW, "text": "make -j"}, "none"),
        (MAKE, {**NEW, "text": "make -j$(nproc)"}, "none"),
        (MAKE, {**NEW, "text": 'make "-j${jobs}"'}, "none"),
        (MAKE, {**NEW, "text": "make --jobs=3"}, "none"),
        (CMAKE, {**NEW, "generator": "Ninja", "text": "cmake --build . --parallel 4"}, "none"),
        (MAKE, {**NEW, "text": "java -jar x.jar; make CROSS-j4 ; tar -xjf a"}, "fifo"),
        (MAKE, {**NEW, "jobs": 1}, "none"),
        (MAKE, {**NEW, "jobs": None}, "none"),
        (MAKE, {**NEW, "is_off": True}, "none"),
        (MAKE, {**NEW, "is_shell": False}, "none"),
        (MAKE, {**NEW, "is_fakeroot": True}, "none"),
    ],
)
def test_the_form_follows_the_table(commands: frozenset[str], facts: dict[str, Any], expected: str) -> None:
    """Every row of the table, and every reason to have no pool."""
    assert form(commands, **facts) == expected


def test_every_choice_says_why() -> None:
    """A reason names the tool and its version, and no pool is told of in no variable."""
    facts = Facts(jobs=8, commands=NINJA, make=(4, 3), ninja=(1, 13))
    assert choose(facts) == Choice(Form.NONE, "ninja takes a FIFO only, on which make 4.3 aborts")
    assert choose(replace(facts, ninja=(1, 11))).reason == "ninja 1.11 cannot use pools"
    assert choose(replace(facts, ninja=(0, 0))).reason == "an unknown ninja cannot use pools"
    assert choose(Facts(jobs=8, commands=MAKE, make=(4, 3))) == Choice(
        Form.PIPE, "make 4.3 takes a pipe only", "MAKEFLAGS"
    )
    assert choose(Facts(jobs=8, commands=CARGO | {"cp"}, cargo=(1, 95))).variable == "CARGO_MAKEFLAGS"


def test_what_tools_are_told() -> None:
    """The words of make's manual, with a blank before them; none for a path that make could not read."""
    fifo, pipe = Choice(Form.FIFO, "", "MAKEFLAGS"), Choice(Form.PIPE, "", "MAKEFLAGS")
    assert flags(fifo, 8, "/build/pools/1-2") == " -j8 --jobserver-auth=fifo:/build/pools/1-2"
    assert flags(pipe, 8, "/my build/pools/1-2", (100, 101)) == " -j8 --jobserver-auth=100,101"
    for path in ("/my build/1", "/my$build/1", "/my\\build/1", "/my#build/1", "/my'build/1"):
        assert flags(fifo, 8, path) is None
    assert flags(pipe, 8, "/build/pools/1-2") is None
    assert flags(Choice(Form.NONE, ""), 8, "/build/pools/1-2") is None


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("-j 8", ""),
        ("-j8 -l 75", "-l 75"),
        ("-l 75 --jobs=8", "-l 75"),
        ("-j", ""),
        ("8", ""),
        ("", ""),
        ("-k 0 -j 4", "-k 0"),
        ("--jobs 4 -O", "-O"),
    ],
)
def test_numbers_of_jobs_are_left_out(value: str, left: str) -> None:
    """Other options stay as they are."""
    assert without_jobs(value) == left
