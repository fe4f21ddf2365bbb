# SPDX-License-Identifier: MIT
"""Which tasks take their jobs from a pool of tokens, in which form they learn of it, and the words for it.

Runs in: task children and `memguard run`; pure.
Covers: rules over facts, and the text of MAKEFLAGS.
Does not cover: reading a task's facts and doing what was chosen (bitbake/task_pool), versions of tools
(sense/tool_versions), the tokens themselves (act/token_pool).

A number of jobs on the command line (-jN) switches the pool off in make and ninja, so a task has either the pool or a
number. The forms are those of GNU make: "fifo" names the FIFO, "pipe" two descriptors that every process hands on.

| the task calls      | and                                                           | form | written in      |
|---------------------|---------------------------------------------------------------|------|-----------------|
| make                | every make is 4.4 or newer                                    | fifo | MAKEFLAGS       |
| make                | one is 4.2 or 4.3                                             | pipe | MAKEFLAGS       |
| make, cargo         | a make is older than 4.4: it closes the pipe for all but make | none |                 |
| ninja, meson, cmake | ninja is 1.13 or newer; makes there are, are 4.4 or newer     | fifo | MAKEFLAGS       |
| ninja, meson, cmake | an older ninja does not know pools                            | none |                 |
| ninja, meson, cmake | ninja takes a FIFO only, on which an older make aborts        | none |                 |
| cargo               | makes there are, are 4.4 or newer                             | fifo | CARGO_MAKEFLAGS |
| cargo               | a make is older                                               | pipe | CARGO_MAKEFLAGS |

cmake counts as make or ninja by its generator. What a task's own makefiles call counts as called by the task, as far as
the recipe depends on it: ninja under a pipe would start jobs of its own, CPUs + 2. No pool have tasks written in Python
(their subprocesses get no descriptors) or run under fakeroot, those that ask for one job or say how many themselves,
those that set MAKEFLAGS, those spread by icecc, and those that call anything else which runs jobs: go, scons, waf,
bazel, b2 and Python's build backends take no tokens. In doubt there is no pool: a number of jobs is always right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from memguard.model import Version

# What the forms ask for: GNU make's NEWS of 4.2 (--jobserver-auth) and 4.4 (fifo:), ninja's of 1.13; cargo and rustc
# take a FIFO since they use jobserver 0.1.26.
MAKE_PIPE: Version = (4, 2)
MAKE_FIFO: Version = (4, 4)
NINJA_FIFO: Version = (1, 13)
CARGO_FIFO: Version = (1, 71)

# Tasks that run jobs.
TASKS = ("do_compile", "do_install")

# The number of jobs in these is left out; an empty CMAKE_BUILD_PARALLEL_LEVEL would be no limit at all.
EMPTIED = ("PARALLEL_MAKE", "PARALLEL_MAKEINST", "PTEST_PARALLEL_MAKE", "PTEST_PARALLEL_MAKEINST", "NINJAFLAGS")
UNSET = ("CMAKE_BUILD_PARALLEL_LEVEL",)

# Programs by what takes the tokens.
PROGRAMS = {
    "make": "make",
    "gmake": "make",
    "ninja": "ninja",
    "ninja-build": "ninja",
    "meson": "ninja",
    "cargo": "cargo",
}
# Programs and classes that run jobs and take no tokens.
_FOREIGN_PROGRAMS = frozenset({"b2", "bazel", "bjam", "bmake", "go", "gradle", "mvn", "npm", "samu", "scons", "waf"})
_FOREIGN_CLASS = re.compile(r"(bazel|go|npm|scons|setuptools|waf)([-_0-9].*)?|python_.*|cpan_build")

# As a word, whatever follows: -j8, -j "$n", --jobs=$(nproc); but not java -jar.
_OWN_JOBS = re.compile(r"""(?<![\w./-])(?:-j|--jobs|--parallel)(?=$|[\s\d=$"'`({])""")
_NUMBERED = re.compile(r"(?<!\S)(?:-j|--jobs|--parallel)[\s=]*\d*(?=\s|$)")
_MAKEFLAGS = re.compile(r"\b(?:GNU|CARGO_)?MAKEFLAGS\b")


class Form(Enum):
    """How a task learns of its pool."""

    NONE = "none"
    FIFO = "fifo"
    PIPE = "pipe"


@dataclass(frozen=True)
class Facts:
    """What is known of a task before it runs.

    is_off:    whether the user wants no pool for the recipe.
    jobs:      what its own variable asks for, None where it asks for none.
    commands:  what its shell functions call.
    text:      these functions and EXTRA_OEMAKE, without the numbers of jobs that are left out (EMPTIED).
    classes:   those that the recipe inherits.
    generator: CMake's.
    depends:   those of ninja and cargo that the recipe depends on.
    make, ninja, cargo: versions of what it calls by these names; None where there is none, (0, 0) for a silent one.
    """

    is_off: bool = False
    is_shell: bool = True
    is_fakeroot: bool = False
    jobs: int | None = None
    commands: frozenset[str] = frozenset()
    text: str = ""
    classes: frozenset[str] = frozenset()
    generator: str = ""
    depends: frozenset[str] = frozenset()
    make: Version | None = None
    ninja: Version | None = None
    cargo: Version | None = None


@dataclass(frozen=True)
class Choice:
    """How a task learns of its pool, why so, and from which variable of its environment."""

    form: Form
    reason: str
    variable: str = ""


def choose(facts: Facts) -> Choice:
    """The form for a task, by the table above."""
    against = object_at_sight(facts) or object_by_script(facts)
    if against:
        return Choice(Form.NONE, against)
    calls = _calls(facts)
    make, ninja, cargo = facts.make, facts.ninja, facts.cargo
    variable = "CARGO_MAKEFLAGS" if calls == {"cargo"} else "MAKEFLAGS"
    if "make" in calls and make is None:
        return Choice(Form.NONE, "make was not found")
    if "ninja" in calls and (ninja is None or ninja < NINJA_FIFO):
        return Choice(Form.NONE, f"{_name('ninja', ninja)} cannot use pools")
    if make is None or make >= MAKE_FIFO:
        if "cargo" in calls and (cargo is None or cargo < CARGO_FIFO):
            return Choice(Form.NONE, f"{_name('cargo', cargo)} cannot use a FIFO")
        return Choice(Form.FIFO, "all that it calls takes a FIFO", variable)
    if "ninja" in calls:
        return Choice(Form.NONE, f"ninja takes a FIFO only, on which {_name('make', make)} aborts")
    if make < MAKE_PIPE:
        return Choice(Form.NONE, f"{_name('make', make)} is too old")
    if {"cargo", "make"} <= calls:
        return Choice(Form.NONE, f"{_name('make', make)} does not pass its pool on to cargo")
    return Choice(Form.PIPE, f"{_name('make', make)} takes a pipe only", variable)


def object_at_sight(facts: Facts) -> str:
    """Why the task has no pool, from what is known before its functions are read; empty where nothing is against it."""
    reasons = (
        (facts.is_off, "MEMGUARD_JOBSERVER says so"),
        (not facts.is_shell, "it is written in Python"),
        (facts.is_fakeroot, "it runs under fakeroot"),
        (facts.jobs is None or facts.jobs < 2, "it asks for one job"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def object_by_script(facts: Facts) -> str:
    """Why the task has no pool whatever the versions of its tools, from what it does; empty as above."""
    foreign = sorted(facts.commands & _FOREIGN_PROGRAMS)
    foreign = foreign or sorted(name for name in facts.classes if _FOREIGN_CLASS.fullmatch(name))
    reasons = (
        ("icecc" in facts.classes, "icecc spreads its jobs"),
        (bool(_MAKEFLAGS.search(facts.text)), "it sets MAKEFLAGS"),
        (bool(foreign), f"{', '.join(foreign)} cannot use tokens"),
        (bool(_OWN_JOBS.search(facts.text)), "it sets its own number of jobs"),
        ("cmake" in facts.commands and not _cmake(facts), f'CMake\'s generator is "{facts.generator}"'),
        (not _calls(facts), "it calls no make, ninja or cargo"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _calls(facts: Facts) -> set[str]:
    """What takes tokens, of all that the task calls or may call."""
    called = {PROGRAMS[command] for command in facts.commands if command in PROGRAMS}
    if "cmake" in facts.commands:
        called.add(_cmake(facts))
    return called | facts.depends if called else set()


def _cmake(facts: Facts) -> str:
    """What cmake calls."""
    return {"Ninja": "ninja", "Unix Makefiles": "make"}.get(facts.generator, "")


def _name(program: str, version: Version | None) -> str:
    return f"{program} {version[0]}.{version[1]}" if version and version != (0, 0) else f"an unknown {program}"


def without_jobs(value: str) -> str:
    """`value` of a variable without its number of jobs; other options stay: "-j 4 -l 75" is "-l 75"."""
    return "" if value.strip().isdigit() else " ".join(_NUMBERED.sub(" ", value).split())


def flags(choice: Choice, jobs: int, path: str, descriptors: tuple[int, int] | None = None) -> str | None:
    """The value of choice.variable; None where the FIFO's path cannot be written in it.

    jobs:        the most the task may run at once. Make and ninja ignore it beside a pool, makefiles may look at it.
    descriptors: for reading and for writing, for a pipe.
    """
    if choice.form is Form.PIPE and descriptors:
        auth = f"{descriptors[0]},{descriptors[1]}"
    elif choice.form is Form.FIFO and not re.search(r"[\s\\$#'\"]", path):
        auth = f"fifo:{path}"
    else:
        return None
    # make takes a first word without a dash for single letters: the blank says that there are none.
    return f" -j{jobs} --jobserver-auth={auth}"
