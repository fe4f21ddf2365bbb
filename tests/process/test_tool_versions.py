# SPDX-License-Identifier: MIT
"""Versions of build tools, asked of programs of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from memguard.sense.tool_versions import Tools


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


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_lies_in_the_place_of_a_version_is_not_believed(tmp_path: Path, kind: str) -> None:
    """A FIFO is not waited for, and a link not followed: the program is asked again."""
    make = script(tmp_path / "bin" / "make", "echo GNU Make 4.2.1")
    assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (4, 2)
    (kept,) = (tmp_path / "tools").iterdir()
    kept.unlink()
    (tmp_path / "other").write_text("9.9\n")
    if kind == "fifo":
        os.mkfifo(kept)
    else:
        kept.symlink_to(tmp_path / "other")
    assert Tools(tmp_path / "tools").oldest(["make"], str(make.parent)) == (4, 2)
    assert kept.read_text() == "4.2\n"
    assert (tmp_path / "other").read_text() == "9.9\n"


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
    # On a busy machine a shell takes a while until it says anything.
    monkeypatch.setattr(Tools, "PATIENCE_S", 2.0)
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
