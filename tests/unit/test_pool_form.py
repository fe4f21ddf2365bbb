# SPDX-License-Identifier: MIT
"""Which tasks may have a pool of tokens, in which form, and what they are told."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memguard.decide.pool_form import Choice, Facts, Form, choose, flags, without_jobs
from memguard.sense.tool_versions import Tools

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
    assert choose(replace(facts, ninja=(1, 11))).reason == "ninja 1.11 knows no pools"
    assert choose(replace(facts, ninja=(0, 0))).reason == "an unknown ninja knows no pools"
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


def script(path: Path, text: str) -> Path:
    """A program that tells a version, and counts how often it is asked."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\necho x >> "$0.asked"\n{text}\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_tool_is_asked_once(tmp_path: Path) -> None:
    """All tasks of a build share what one has found out; another file of the same name is asked anew."""
    make = script(tmp_path / "bin" / "make", "echo GNU Make 4.2.1")
    for _ in range(3):
        assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (4, 2)
    assert Path(f"{make}.asked").read_text() == "x\n"
    make.unlink()
    script(make, "echo GNU Make 4.4.1 is longer")
    assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (4, 4)


def test_what_is_called_counts(tmp_path: Path) -> None:
    """The first on the PATH for each name, and the oldest of them; what cannot be run is not there."""
    (tmp_path / "a" / "make").mkdir(parents=True)
    script(tmp_path / "b" / "make", "echo GNU Make 3.81").chmod(0o644)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "make").symlink_to("nothing")
    script(tmp_path / "d" / "make", "echo GNU Make 4.4.1")
    script(tmp_path / "e" / "make", "echo GNU Make 4.1")
    script(tmp_path / "e" / "gmake", "echo GNU Make 4.3")
    search = ":".join(f"{tmp_path}/{name}" for name in "abcdef")
    tools = Tools(tmp_path / "tools")
    assert tools.oldest(["make"], search) == (4, 4)
    assert tools.oldest(["make", "gmake"], search) == (4, 3)
    assert tools.oldest(["ninja"], search) is None
    assert tools.oldest(["make"], str(tmp_path)) is None


@pytest.mark.parametrize("text", ["echo nothing", "exit 1", "echo 4.4; exit 1", "printf '\\377'"])
def test_a_tool_that_does_not_tell_is_the_oldest(tmp_path: Path, text: str) -> None:
    """Whatever it is, no pool is given to it."""
    make = script(tmp_path / "bin" / "make", text)
    assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (0, 0)


def test_a_tool_that_hangs_is_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task waits for it, and the next one does not ask again."""
    monkeypatch.setattr(Tools, "PATIENCE_S", 0.2)
    make = script(tmp_path / "bin" / "make", "exec sleep 60")
    for _ in range(2):
        assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (0, 0)
    assert Path(f"{make}.asked").read_text() == "x\n"


def test_versions_are_found_without_a_place_to_keep_them(tmp_path: Path) -> None:
    """A directory that cannot be written, or a spoilt file in it, costs time only."""
    make = script(tmp_path / "bin" / "make", "echo GNU Make 4.4.1")
    (tmp_path / "tools").write_text("a file")
    assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (4, 4)
    kept = Tools(tmp_path / "kept")
    kept.oldest(["make"], str(make.parent))
    next((tmp_path / "kept").iterdir()).write_bytes(b"\xff")
    assert kept.oldest(["make"], str(make.parent)) == (0, 0)


def test_a_pool_in_the_environment_silences_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own make tells its version although an older one would abort on what MAKEFLAGS says."""
    monkeypatch.setenv("MAKEFLAGS", " -j --jobserver-auth=fifo:/nowhere")
    said = subprocess.run(["make", "--version"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    expected = tuple(int(number) for number in said.stdout.split()[2].split(".")[:2])
    assert Tools(tmp_path / "tools").oldest(["make"], os.environ["PATH"]) == expected
